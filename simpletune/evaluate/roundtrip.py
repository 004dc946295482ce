"""Real pictures, encoded by the VAE and decoded again: what no adapter gets beyond. Pictures are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simpletune.evaluate.features import Picture, file_picture
from simpletune.evaluate.metrics import Array
from simpletune.evaluate.metrics.roundtrip import psnr
from simpletune.evaluate.pictures import Found
from simpletune.models.memory import release
from simpletune.results.pictures import read_description, save_picture

if TYPE_CHECKING:
    import torch

    from simpletune.config.settings import Settings
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Reporter

MOST = 64
"""Pictures that go through the VAE; more say little more."""
_ABOUT = "round trip of"


@dataclass(frozen=True)
class RoundTrip:
    """Real pictures, what came out of the VAE, and the PSNR of each in dB (N,). `held_out`: none was trained on."""

    originals: tuple[Found, ...]
    restored: tuple[Picture, ...]
    decibels: Array
    held_out: bool


def take_round_trip(
    training: Sequence[Found],
    held_out: Sequence[Found],
    settings: Settings,
    family: Family,
    model: ModelFiles,
    device: torch.device,
    folder: Path,
    reporter: Reporter,
) -> RoundTrip | None:
    """Of the held-out pictures where there are any, else of training pictures; None without either."""
    chosen = sorted(held_out or training, key=lambda found: found.picture.digest)[:MOST]
    if not chosen:
        return None
    identity = family.vae_identity(model, settings)
    names = [hashlib.sha256((found.picture.digest + identity).encode()).hexdigest() for found in chosen]
    paths = [folder / f"{name[:32]}.png" for name in names]
    missing = [
        (found, path, name)
        for found, path, name in zip(chosen, paths, names, strict=True)
        if (read_description(path) or {}).get(_ABOUT) != name
    ]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        vae = family.load_vae(model, settings, device)
        with reporter.phase("Through the VAE and back", len(missing), "image") as phase:
            for found, path, name in missing:
                pixels = np.array(found.picture.open())  # torch wants it writable
                save_picture(path, vae.decode(vae.encode(pixels[None], [name]))[0], {_ABOUT: name})
                phase.advance()
        del vae
        release(device)
    restored = tuple(file_picture(path) for path in paths)
    ratios = [
        psnr(np.asarray(found.picture.open()), np.asarray(picture.open()))
        for found, picture in zip(chosen, restored, strict=True)
    ]
    return RoundTrip(tuple(chosen), restored, np.array(ratios), bool(held_out))
