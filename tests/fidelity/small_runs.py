"""Runs of seconds on the tiny model, over pictures made of whole numbers: every machine, and every Pillow, has them.

Their settings and folders are those of the trainer's tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch
from simpletune.trainer.run import Outcome

sys.path.append(str(Path(__file__).resolve().parents[1] / "trainer"))
from project import QUICK, Project

COLOURS = {
    "red": (200, 30, 30), "green": (20, 150, 60), "blue": (40, 60, 200), "orange": (250, 140, 10),
    "purple": (120, 20, 140), "black": (10, 10, 10), "teal": (0, 128, 128), "brown": (120, 70, 30),
    "gray": (128, 128, 128), "gold": (230, 190, 40), "navy": (20, 20, 90),
}  # fmt: skip
SQUARE, WIDE = (64, 64), (80, 48)  # both are buckets: nothing is resized or cut
KEYS: dict[str, Any] = QUICK | {
    "lr_scheduler": "constant",
    "caption_dropout_probability": 0.0,
    "tokenizer_max_length": 32,
}


class Run(Project):
    """A project whose folder of pictures is `balls`."""

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.config.read_text())
        return values

    def train(self, *overrides: str) -> Outcome:
        outcome = launch(self.config, overrides, SilentReporter())
        assert outcome is not None
        return outcome

    def validation_losses(self) -> list[float]:
        return [line["validation_loss"] for line in self.metrics().validations]


def ball(size: tuple[int, int], number: int, colour: str) -> Image.Image:
    """A ball on a ground that gets darker to the right and downwards; `size` is (width, height)."""
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([250 - x, 245 - y, 240 - (x + y) // 2], axis=-1)
    inside = (x - 28 - 2 * number) ** 2 + (y - 30) ** 2 < (14 + number) ** 2
    pixels[inside] = np.array(COLOURS[colour]) + (number * 5) % 20
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw(folder: Path, colours: Iterable[str], word: str = "ball", wide: bool = True) -> None:
    """A picture and its caption for each colour; every second one is `wide`."""
    folder.mkdir(parents=True)
    for number, colour in enumerate(colours):
        ball(WIDE if wide and number % 2 else SQUARE, number, colour).save(folder / f"{number}-{colour}.png")
        (folder / f"{number}-{colour}.txt").write_text(f"a {colour} {word}")


def make_run(
    folder: Path,
    *,
    pictures: int = 6,
    wide: bool = True,
    more: Sequence[dict[str, Any]] = (),
    first: dict[str, Any] | None = None,
    **keys: Any,
) -> Run:
    """`first` changes the data set of balls, `more` are further ones, `keys` are those of config.json over KEYS."""
    draw(folder / "balls", list(COLOURS)[:pictures], wide=wide)
    values = {key: value for key, value in (KEYS | keys).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    common = {"type": "local", "caption_strategy": "textfile", "cache_dir_vae": "cache/{id}"}
    balls = {**common, "id": "balls", "dataset_type": "image", "instance_data_dir": "balls", **(first or {})}
    text = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}
    data = [balls, *({**common, "dataset_type": "image", **each} for each in more), text]
    (folder / "multidatabackend.json").write_text(json.dumps(data))
    return Run(folder)


def draw_masks(folder: Path, pictures: Path) -> None:
    """For each picture: left of 40 pixels seen, the next 16 seen by a fifth, the rest not at all. In whole latents."""
    folder.mkdir()
    for path in sorted(pictures.glob("*.png")):
        with Image.open(path) as picture:
            mask = np.zeros((picture.height, picture.width), np.uint8)
        mask[:, :40], mask[:, 40:56] = 255, 51
        Image.fromarray(mask).save(folder / path.name)
