"""What encoding is measured with: a model of real size with random weights, JPEGs as cameras make them, captions."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from simpletune import files
from simpletune.config import architecture
from simpletune.config.builtin import tiny_folder
from simpletune.config.load import load_for_elsewhere
from simpletune.config.settings import Settings
from simpletune.data.scan import Sample, scan
from simpletune.data.sources import Source, open_source
from simpletune.models import builder
from simpletune.models.family import ModelFiles

WORDS = """
    a the red old wooden house beside quiet lake under morning light with soft shadows birds flying over distant hills
    painted in oil detailed texture warm colours person walking dog along narrow street rain reflections on glass
"""
_DIFFERENT = 6  # pictures that are drawn; the others hold the same pixels in a file of other bytes


@dataclass(frozen=True)
class Bench:
    """Where things are, what to measure on, and how much of it."""

    folder: Path
    device: torch.device
    flavour: str
    resolution: int
    pictures: int
    captions: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The folders of pictures and their sizes in pixels."""
        if self.flavour == "tiny":
            return {"large": (400, 300), "small": (200, 150)}
        return {"12-megapixels": (4000, 3000), "2-megapixels": (1600, 1200)}

    def samples(self, settings: Settings, name: str) -> tuple[list[Sample], dict[str, Source]]:
        """The pictures of one size."""
        image_set = next(entry for entry in settings.image_sets if entry.id == name)
        source = open_source(image_set)
        return list(scan(image_set, source, settings.aspect_bucket_alignment, 0).samples), {name: source}


def settings_for(bench: Bench, **keys: Any) -> Settings:
    """The settings of a run on this bench, with `keys` over them."""
    project = bench.folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    mixed = "bf16" if bench.device.type == "cuda" else "no"
    config: dict[str, Any] = {"model_flavour": bench.flavour, "mixed_precision": mixed, "resolution": bench.resolution}
    config |= {f"text_encoder_{number}_precision": "no_change" for number in (1, 2, 3)}
    config |= {"train_batch_size": 1, "output_dir": "output"}
    data = [
        {"id": name, "instance_data_dir": str(bench.folder / name), "caption_strategy": "filename"}
        | {"crop": True, "crop_aspect": "square"}
        for name in bench.sizes
    ]
    (project / "config.json").write_text(json.dumps(config | keys))
    (project / "multidatabackend.json").write_text(json.dumps(data))
    return load_for_elsewhere(project / "config.json")[0]


def make_model(bench: Bench) -> ModelFiles:
    """The flavour's text encoders and VAE; its transformer, which nothing here runs, has a config and no weights."""
    if bench.flavour == "tiny":
        return ModelFiles("tiny", tiny_folder(), "folder", None, None)
    root = bench.folder / bench.flavour
    if not root.exists():
        parts = [part for part in builder.ALL_PARTS if part != "transformer"]
        builder.build(root, bench.flavour, "bf16", parts)
    transformer = root / "transformer"
    if not transformer.exists():
        transformer.mkdir()
        files.write_json(transformer / "config.json", architecture.component_config(bench.flavour, "transformer"))
        save_file({"none": torch.zeros(1)}, transformer / "diffusion_pytorch_model.safetensors")
    return ModelFiles(str(root), root, "folder", None, None)


def make_pictures(bench: Bench) -> None:
    """JPEGs of each size; no two files have the same bytes."""
    for name, size in bench.sizes.items():
        folder = bench.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_DIFFERENT) as pool:
            drawn = list(pool.map(lambda seed, size=size: _jpeg(size, seed), range(min(_DIFFERENT, bench.pictures))))
        for index in range(bench.pictures):
            (folder / f"picture {index}.jpg").write_bytes(_remarked(drawn[index % len(drawn)], f"number {index}"))


def make_captions(count: int) -> list[str]:
    """Different captions of 20 to 90 words."""
    chosen, words = random.Random(0), WORDS.split()
    return [f"{index} " + " ".join(chosen.choices(words, k=chosen.randint(20, 90))) for index in range(count)]


def _jpeg(size: tuple[int, int], seed: int) -> bytes:
    """A picture with about the detail of a photograph: noise of several sizes over each other."""
    noise = np.random.default_rng(seed)
    layers = [noise.normal(0, 40, (size[1] // step, size[0] // step, 3)) for step in (100, 25, 6)]
    grown = [np.asarray(Image.fromarray(_bytes(layer)).resize(size), np.float32) - 128 for layer in layers]
    file = BytesIO()
    Image.fromarray(_bytes(sum(grown))).save(file, "JPEG", quality=90)
    return file.getvalue()


def _bytes(values: Any) -> np.ndarray[Any, Any]:
    return np.clip(values + 128, 0, 255).astype(np.uint8)


def _remarked(jpeg: bytes, remark: str) -> bytes:
    """The same picture with a comment, so that its bytes are its own."""
    text = remark.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]
