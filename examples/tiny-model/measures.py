"""The figures of the evaluation, as functions of arrays: how close pictures are, how often a label is right.

Shapes: N pictures, H and W their sides, K categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_INTERVAL = (2.5, 97.5)
_RESAMPLES = 2000


def psnr(pictures_NHWC: Array, copies_NHWC: Array) -> Array:
    """The peak signal-to-noise ratio of each picture's copy in dB, (N,): 10 log10(1 / mean squared error).

    Both uint8, taken as RGB in [0, 1]. An exact copy counts as one that is wrong by half a step of 8 bits in one
    colour of one pixel, so that a mean over pictures stays finite.
    """
    difference = (pictures_NHWC.astype(np.float64) - copies_NHWC.astype(np.float64)) / 255
    error_N = np.square(difference).reshape(len(difference), -1).mean(axis=1)
    smallest = (0.5 / 255) ** 2 / difference[0].size
    decibels_N: Array = 10 * np.log10(1 / np.maximum(error_N, smallest))
    return decibels_N


@dataclass(frozen=True)
class Share:
    """How many of `count` were so, and the interval that holds the true share in 95 of 100 repetitions."""

    share: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%})"

    def as_json(self) -> dict[str, float]:
        return {key: round(value, 4) for key, value in asdict(self).items()}


def share_of(right_N: Sequence[bool] | Array, seed: int = 0) -> Share:
    """The share of True with its 95% percentile bootstrap interval (Efron 1979), 2,000 resamples."""
    right = np.asarray(right_N, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(right), size=(_RESAMPLES, len(right)))
    low, high = np.percentile(right[drawn].mean(axis=1), _INTERVAL)
    return Share(float(right.mean()), float(low), float(high), len(right))


def confusion(truth_N: Sequence[int] | Array, said_N: Sequence[int] | Array, kinds: int) -> Array:
    """Counts (K, K): row the true category, column the one that was said."""
    table_KK = np.zeros((kinds, kinds), dtype=np.int64)
    np.add.at(table_KK, (np.asarray(truth_N), np.asarray(said_N)), 1)
    return table_KK


def recall(table_KK: Array) -> Array:
    """The share of each row on the diagonal, (K,); NaN for an empty row."""
    with np.errstate(invalid="ignore"):
        share_K: Array = np.diag(table_KK) / table_KK.sum(axis=1)
    return share_K


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as Markdown, every column to the width of its longest cell."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    head_line, *lines = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    )
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head_line, rule, *lines]) + "\n"
