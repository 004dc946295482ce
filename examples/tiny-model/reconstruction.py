"""How faithful the autoencoder is: held-out pictures through the loading code's own encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import markdown_table, psnr
from pictures import Pictures
from sampler import Painter
from sheets import sheet

from simpletune import files
from simpletune.progress import Reporter

_ON_SHEET = 32
_COLUMNS = 8


@dataclass(frozen=True)
class Reconstruction:
    """PSNR over RGB in [0, 1] of pictures the model has never seen, in dB."""

    mean: float
    median: float
    worst_twentieth: float  # 5 of 100 pictures are below it
    count: int

    def as_json(self) -> dict[str, float]:
        return {"psnr_mean": self.mean, "psnr_median": self.median, "psnr_5th_percentile": self.worst_twentieth,
                "pictures": self.count}  # fmt: skip

    def markdown(self) -> str:
        row = [f"{value:.2f} dB" for value in (self.mean, self.median, self.worst_twentieth)]
        return markdown_table(["mean PSNR", "median", "5th percentile", "pictures"], [[*row, self.count]])


def through_vae(painter: Painter, pixels_N3PP: torch.Tensor, reporter: Reporter, title: str) -> torch.Tensor:
    """What comes back of uint8 pictures (N, 3, P, P), the same shape: encoded and decoded as in a run."""
    batch = 256 if painter.device.type == "cuda" else 16
    copies = []
    with reporter.phase(title, len(pixels_N3PP), "picture") as phase:
        for start in range(0, len(pixels_N3PP), batch):
            part = pixels_N3PP[start : start + batch].permute(0, 2, 3, 1).numpy()
            keys = [str(start + number) for number in range(len(part))]
            copies.append(painter.vae.decode(painter.vae.encode(part, keys)))
            phase.advance(len(part))
    return as_tensor(np.concatenate(copies))


def as_tensor(pixels_NPP3: np.ndarray[Any, Any]) -> torch.Tensor:
    """uint8 (N, P, P, 3) as (N, 3, P, P)."""
    return torch.from_numpy(pixels_NPP3).permute(0, 3, 1, 2).contiguous()


def measure(painter: Painter, held_out: Pictures, out: Path, reporter: Reporter) -> Reconstruction:
    """Encode and decode every held-out picture; leaves reconstructions.png in `out`."""
    copies = through_vae(painter, held_out.pixels, reporter, "through the VAE")
    decibels = psnr(held_out.pixels.numpy(), copies.numpy())
    rows = []
    for start in range(0, min(_ON_SHEET, len(copies)), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        rows.append((list(held_out.pixels[part]), ["original"] * len(copies[part])))
        rows.append((list(copies[part]), [f"{value:.1f} dB" for value in decibels[part]]))
    files.write_with(out / "reconstructions.png", lambda path: sheet(rows).save(path, format="PNG"))
    return Reconstruction(
        float(decibels.mean()), float(np.median(decibels)), float(np.percentile(decibels, 5)), len(decibels)
    )
