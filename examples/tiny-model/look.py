"""How a drawing looks, measured from its pixels, in words: its colours, or that it is a silhouette or an outline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from drawing import Drawing
from numpy.typing import NDArray
from PIL import Image

# Upper ends of hue ranges in degrees; reds go on at 345.
_HUES = ((12, "red"), (40, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (292, "purple"), (345, "pink"))
_COLOURED = 0.12  # the share of the drawing's pixels that a colour must hold to be named


@dataclass(frozen=True)
class Look:
    """`kind` is "silhouette", "outline", "gray" (no colours) or "colour"; `colours`: at most two, commonest first."""

    kind: str
    colours: tuple[str, ...]


def look(drawing: Drawing) -> Look:
    """Measure at 128 pixels' detail; the body of a drawing is all that was opaque or isn't white."""
    rgb = drawing.pixels.astype(np.float32) / 255
    light, low = rgb.max(axis=2), rgb.min(axis=2)
    ink = low < 0.92
    saturation = np.where(light > 0, (light - low) / np.maximum(light, 1e-6), 0)
    body = ink | drawing.coverage
    tinted = ink & (saturation > 0.22) & (light > 0.15)
    if tinted.sum() > 0.04 * ink.sum():
        return Look("colour", _colours(drawing.pixels, body, ink))
    dark, middle = ink & (light < 0.35), ink & (light >= 0.35) & (light < 0.85)
    filled = _filled(ink)
    if dark.sum() > 0.62 * filled.sum() and middle.sum() < 0.5 * dark.sum():
        return Look("silhouette", ("black",))
    if _is_line_art(ink, filled, light):
        return Look("outline", ("black", "white"))
    return Look("gray", ("black", "white") if dark.sum() > 0.25 * ink.sum() else ("gray",))


def _is_line_art(ink: NDArray[np.bool_], filled: NDArray[np.bool_], light: NDArray[np.float32]) -> bool:
    """Black on white paper: half of the inside is white, and hardly anything is an even gray."""
    gray = ink & (light > 0.3) & (light < 0.93)
    flat_gray = gray & _eroded(gray, 2)
    return bool(ink.sum() < 0.6 * filled.sum() and flat_gray.sum() < 0.03 * filled.sum())


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _filled(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The drawing with its inside: all that white can't reach from the border, four ways."""
    outside = np.zeros_like(ink)
    outside[[0, -1], :] = outside[:, [0, -1]] = True
    outside &= ~ink
    while True:
        padded = np.pad(outside, 1)
        grown = outside | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        grown &= ~ink
        if (grown == outside).all():
            return ~outside
        outside = grown


def _colours(pixels: NDArray[np.uint8], body: NDArray[np.bool_], ink: NDArray[np.bool_]) -> tuple[str, ...]:
    hue, saturation, value = (np.asarray(part) for part in Image.fromarray(pixels).convert("HSV").split())
    names = _names(hue * (360 / 255), saturation / 255, value / 255)
    shares = {str(name): float((names[body] == name).mean()) for name in np.unique(names[body])}
    least = {"black": 0.45, "white": 0.5, "gray": 0.3}
    named = [name for name, share in shares.items() if share >= least.get(name, _COLOURED)]
    if not set(named) - set(least):  # thin coloured lines
        lines = [name for name in shares if name not in least]
        named += [max(lines, key=lambda name: shares[name])] if lines else []
    if ink.sum() > 0.8 * body.sum() and "white" in named:
        named.remove("white")
    return tuple(sorted(named, key=lambda name: (-shares[name], name))[:2])


def _names(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.str_]:
    ends = [end for end, _ in _HUES]
    words = np.array([name for _, name in _HUES] + ["red"])
    named = words[np.searchsorted(ends, hue)]
    dark_warm = np.isin(named, ["orange", "red", "yellow"]) & (value < 0.62) & (saturation > 0.2)
    named = np.where(dark_warm & ~((named == "red") & (saturation > 0.75) & (value > 0.4)), "brown", named)
    pale = (named == "orange") & (saturation < 0.5)
    named = np.where(pale & (value > 0.8), "beige", np.where(pale, "brown", named))
    named = np.where((named == "red") & (saturation < 0.5) & (value > 0.75), "pink", named)
    colourless = (saturation < 0.16) | (value < 0.15)
    gray = np.where(value > 0.92, "white", np.where(value < 0.25, "black", "gray"))
    return np.where(colourless, gray, np.where(value < 0.2, "black", named))
