"""What the VAE alone loses: a picture against itself, encoded and decoded."""

from __future__ import annotations

import math

import numpy as np

from simpletune.evaluate.metrics import Array

_LARGEST = 255.0


def psnr(original: Array, restored: Array) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures (H, W, 3): 10 log10(255^2 / mean squared error).

    Infinite for equal pictures.
    """
    error = np.asarray(original, np.float64) - np.asarray(restored, np.float64)
    mean_squared = float((error**2).mean())
    return math.inf if mean_squared == 0 else 10 * math.log10(_LARGEST**2 / mean_squared)
