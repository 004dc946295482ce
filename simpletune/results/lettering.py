"""Text on a sheet of pictures: a font that is always there, lines that fit, and no character it can't draw."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

_UNKNOWN_CHARACTER = "□"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which comes with it."""
    return ImageFont.truetype(_font_path(bold), size)


def line_height(size: int) -> int:
    return round(size * 1.35)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, maximum_lines: int) -> list[str]:
    """Break text into lines of at most `width` pixels, between words where that's possible; the rest is an ellipsis."""
    lines: list[str] = []
    line = ""
    for word in drawable(text).split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = _pieces(word, font, width)
        lines.extend(whole)
        if len(lines) > maximum_lines:
            break
    if line:
        lines.append(line)
    if len(lines) > maximum_lines:
        lines = lines[:maximum_lines]
        lines[-1] = _shortened(lines[-1], font, width)
    return lines


def drawable(text: str) -> str:
    """The text with what the font has no picture for shown as a small square; joiners and the like are left out."""
    return "".join(_drawable_character(character) for character in text)


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word too long for a line, cut into lines."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font_path(bold: bool = False) -> str:
    import matplotlib

    return str(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    )


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_font_path()).get_charmap())


def _drawable_character(character: str) -> str:
    if character.isspace():
        return " "
    if character in "\u200b\u200c\u200d\ufe0e\ufe0f\u2060\ufeff":  # zero width: joiners, variation selectors
        return ""
    known = character.isprintable() and ord(character) in _known_characters()
    return character if known else _UNKNOWN_CHARACTER
