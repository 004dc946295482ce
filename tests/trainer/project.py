"""A small training set and the two files that train on it: what the end-to-end tests start from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from simpletune.trainer.metrics import Metrics, read_metrics

COLOURS = ("red", "green", "blue", "orange", "purple", "brown", "black", "teal")
QUICK: dict[str, Any] = {
    "model_flavour": "tiny",
    "device": "cpu",
    "mixed_precision": "no",
    "base_model_precision": "no_change",
    "text_encoder_3_precision": "no_change",
    "lora_rank": 4,
    "learning_rate": 0.01,
    "max_train_steps": 4,
    "train_batch_size": 2,
    "gradient_checkpointing": False,
    "resolution": 64,
    "output_dir": "output",
    "validation_num_inference_steps": 2,
    "validation_resolution": 64,
}


@dataclass(frozen=True)
class Project:
    """A folder with config.json, multidatabackend.json and pictures/."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def set(self, **keys: Any) -> Project:
        """Change keys of config.json; None removes one."""
        values = json.loads(self.config.read_text())
        values.update(keys)
        self.config.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return self

    def metrics(self) -> Metrics:
        return read_metrics(self.output / "metrics.jsonl")

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics().steps]

    def command(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """`python -m simpletune ARGUMENTS` as a process of its own, in this folder."""
        return subprocess.Popen(
            [sys.executable, "-m", "simpletune", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            **more,
        )


def make_project(folder: Path, pictures: int = 6, **keys: Any) -> Project:
    """Draw the pictures (half of them wide) and write the two files, with `keys` over QUICK."""
    (folder / "pictures").mkdir(parents=True)
    for index in range(pictures):
        size = (96, 64) if index % 2 else (64, 64)
        picture = Image.new("RGB", size, "white")
        colour = COLOURS[index % len(COLOURS)]
        ImageDraw.Draw(picture).ellipse((8 + index, 8, 48, 56 - index), fill=colour)
        picture.save(folder / "pictures" / f"{index}-{colour}.png")
        (folder / "pictures" / f"{index}-{colour}.txt").write_text(f"a {colour} ball")
    (folder / "config.json").write_text(json.dumps(QUICK | keys))
    data = [
        {
            "id": "balls",
            "type": "local",
            "dataset_type": "image",
            "instance_data_dir": "pictures",
            "caption_strategy": "textfile",
            "cache_dir_vae": "cache/vae",
        },
        {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"},
    ]
    (folder / "multidatabackend.json").write_text(json.dumps(data))
    return Project(folder)
