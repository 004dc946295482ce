"""Real pictures in the colours of a style: how much of a subject is left when only its shape may tell it.

A picture has three tones afterwards: the style's ground where it is almost white, the style's darkest tone where it is
dark, the style's middle tone elsewhere. Outlines within a thing stay; what differs in hue alone becomes one. Nothing is
redrawn, so a person who knows the thing by its shape still knows it.

Shapes: N pictures, P the pictures' side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from style_set import StyleSet
from torch import Tensor
from torch.nn import functional

_ALMOST_WHITE = 230  # the least of red, green and blue above which a pixel is ground
_DARK = 110  # the mean of red, green and blue below which a pixel is dark
_ROOM = 0.8  # of the side: the drawing stands within the style's tile


@dataclass(frozen=True)
class Tones:
    """ground: uint8 (3, P, P); middle and dark: float (3,), 0 .. 255."""

    ground: Tensor
    middle: Tensor
    dark: Tensor


def tones_of(style: StyleSet) -> Tones:
    """The ground of a style's pictures, and the middles of the lighter and the darker half of what is drawn on it."""
    pixels_N3PP = style.pixels.float()
    drawn_NPP = (style.ground.float() - pixels_N3PP).mean(1) > 40
    # The outermost pixels are the tile's own edge.
    drawn_NPP[:, :12] = drawn_NPP[:, -12:] = drawn_NPP[:, :, :12] = drawn_NPP[:, :, -12:] = False
    colours_M3 = pixels_N3PP.permute(0, 2, 3, 1)[drawn_NPP]
    order_M = colours_M3.mean(1).argsort()
    dark_M, middle_M = order_M.chunk(2)
    return Tones(style.ground, colours_M3[middle_M].median(0).values, colours_M3[dark_M].median(0).values)


def recoloured(pixels_N3PP: Tensor, tones: Tones) -> Tensor:
    """uint8 pictures on white -> the same things in the style's tones on its ground, smaller, uint8."""
    side = pixels_N3PP.shape[-1]
    inner = round(side * _ROOM)
    margin = (side - inner) // 2
    rest = side - inner - margin
    small = functional.interpolate(pixels_N3PP.float(), (inner, inner), mode="area")
    small = functional.pad(small, (margin, rest, margin, rest), value=255.0)
    drawn_N1PP = small.amin(1, keepdim=True) < _ALMOST_WHITE
    dark_N1PP = small.mean(1, keepdim=True) < _DARK
    tone = torch.where(dark_N1PP, tones.dark.view(1, 3, 1, 1), tones.middle.view(1, 3, 1, 1))
    return torch.where(drawn_N1PP, tone, tones.ground.float()).round().to(torch.uint8)
