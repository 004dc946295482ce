"""Data sets with every field spelled out, pictures to put into them, and a reporter that remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from simpletune.config.settings import ImageSet
from simpletune.data.images import prepare
from simpletune.data.scan import Sample, ScanResult
from simpletune.data.scan import scan as scan_source
from simpletune.data.sources import Source, open_source


def image_set(folder: Path = Path("/pictures"), **changes: Any) -> ImageSet:
    values = ImageSet(
        id="pictures",
        dataset_type="image",
        type="local",
        instance_data_dir=folder,
        s3_url=None,
        s3_endpoint=None,
        dataset_name=None,
        dataset_config=None,
        dataset_split="train",
        dataset_revision=None,
        dataset_filter=None,
        image_column=None,
        streaming=False,
        cache_dir_pictures=folder.parent / "fetched-pictures",
        caption_strategy="filename",
        metadata_path=None,
        filename_column=None,
        caption_column=None,
        width_column=None,
        height_column=None,
        instance_prompt=None,
        prepend_instance_prompt=False,
        only_instance_prompt=False,
        caption_filter=(),
        caption_shuffle_count=0,
        caption_shuffle_keep=1,
        caption_separator=",",
        resolution=64,
        resolution_type="pixel_area",
        crop=False,
        crop_style="center",
        crop_aspect="square",
        crop_aspect_buckets=(),
        crop_variants=1,
        horizontal_flip=False,
        minimum_image_size=None,
        maximum_image_size=None,
        target_downsample_size=None,
        minimum_aspect_ratio=None,
        maximum_aspect_ratio=None,
        max_upscale_threshold=None,
        max_num_samples=None,
        mask_source="none",
        mask_data_dir=None,
        is_regularisation_data=False,
        regularisation_weight=1.0,
        repeats=0,
        probability=1.0,
        start_step=0,
        end_step=None,
        cache_dir_vae=folder.parent / "vae-cache",
        text_embeds="text",
    )
    return replace(values, **changes)


def scan(image_set: ImageSet, alignment: int, seed: int) -> ScanResult:
    """A scan of the data set where it is."""
    return scan_source(image_set, open_source(image_set), alignment, seed)


def sources(*image_sets: ImageSet) -> dict[str, Source]:
    return {image_set.id: open_source(image_set) for image_set in image_sets}


def prepared(sample: Sample, folder: Path) -> np.ndarray[Any, Any]:
    """The pixels of a sample's first placement."""
    path = folder / sample.name
    return prepare(str(path), path.read_bytes(), (sample.width, sample.height), sample.placements[0])


def colours(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture that differs by seed and has no two equal corners."""
    across, down = np.linspace(0, 200, width), np.linspace(0, 200, height)
    red, green = np.meshgrid(across, down)
    pixels = np.stack([red, green, np.full_like(red, 40 + seed % 200)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


class Told:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.phases: list[str] = []

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Told]:
        self.phases.append(title)
        yield self

    def advance(self, amount: float = 1, **shown: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_settings(*image_sets: ImageSet, **changes: Any) -> Any:
    """What the data code reads of the settings."""
    values = {
        "config_path": Path("/nowhere/config.json"),
        "data_backend_config": Path("/nowhere/multidatabackend.json"),
        "image_sets": image_sets,
        "aspect_bucket_alignment": 16,
        "model_flavour": "tiny",
        "pretrained_model_name_or_path": "",
        "hf_endpoint": None,
        "seed": 42,
        "num_eval_images": 0,
        "max_unreadable_share": 0.25,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_train_steps": None,
        "num_train_epochs": 3,
        "vae_batch_size": 4,
        "text_encoder_batch_size": 8,
    }
    return SimpleNamespace(**{**values, **changes})
