"""gallery.png: what each prompt looked like before and after training, at the same seeds, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from simpletune.results.pictures import save_picture

_GAP, _MARGIN = 12, 24
_CAPTION_SIZE, _HEADER_SIZE = 17, 20
_MAXIMUM_LINES = 6
_SMALLEST_CELL, _LARGEST_CELL = 256, 512  # pixels, width
_MAXIMUM_PIXELS = 80_000_000
_PAPER, _INK, _FAINT, _EMPTY = (255, 255, 255), (34, 34, 34), (110, 110, 110), (225, 225, 225)
_FORMATS = ("PNG", "JPEG", "WEBP")
_UNKNOWN_CHARACTER = "□"


@dataclass(frozen=True)
class GalleryRow:
    """One prompt: its text, and a picture file for each column's name ("base", "tuned, 500 steps")."""

    prompt: str
    pictures: Mapping[str, Path]


def gallery(rows: Sequence[GalleryRow], png_path: Path, about: Mapping[str, str] | None = None) -> None:
    """Draw the rows into `png_path`: columns by name in order of appearance, each row under its prompt.

    Pictures may have any sizes; they keep their aspect. One that is missing or unreadable is a grey field. Prompts are
    wrapped, and cut after six lines; the file's PNG text entries hold them whole, with `about`.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.pictures))
    layout = _Layout.fit(rows, columns)
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, layout, columns)
    y = layout.top
    for row, block in zip(rows, layout.blocks, strict=True):
        y = _draw_row(sheet, draw, layout, columns, row, block, y)
    described = {**(about or {}), **{f"prompt {i}": row.prompt for i, row in enumerate(rows, 1)}}
    save_picture(png_path, np.asarray(sheet), described)


@dataclass(frozen=True)
class _Block:
    """A row as laid out: its caption's lines and the height of its pictures."""

    lines: tuple[str, ...]
    picture_height: int


@dataclass(frozen=True)
class _Layout:
    cell: int
    width: int
    height: int
    top: int
    blocks: tuple[_Block, ...]

    @classmethod
    def fit(cls, rows: Sequence[GalleryRow], columns: Sequence[str]) -> _Layout:
        """The largest cells, up to the pictures' own size, whose sheet has no more than _MAXIMUM_PIXELS."""
        sizes = [[_size(path) for path in row.pictures.values()] for row in rows]
        widest = max((size[0] for row in sizes for size in row if size), default=_SMALLEST_CELL)
        cell = min(max(widest, _SMALLEST_CELL), _LARGEST_CELL)
        layout = cls._with_cell(rows, columns, sizes, cell)
        while layout.width * layout.height > _MAXIMUM_PIXELS and cell > 32:
            cell = cell * 3 // 4
            layout = cls._with_cell(rows, columns, sizes, cell)
        return layout

    @classmethod
    def _with_cell(
        cls,
        rows: Sequence[GalleryRow],
        columns: Sequence[str],
        sizes: Sequence[Sequence[tuple[int, int] | None]],
        cell: int,
    ) -> _Layout:
        count = max(1, len(columns))
        width = 2 * _MARGIN + count * cell + (count - 1) * _GAP
        blocks = tuple(
            _Block(
                tuple(wrap(row.prompt, _font(_CAPTION_SIZE), width - 2 * _MARGIN, _MAXIMUM_LINES)),
                max((_scaled(size, cell)[1] for size in of_row if size), default=cell // 4),
            )
            for row, of_row in zip(rows, sizes, strict=True)
        )
        top = _MARGIN + _line_height(_HEADER_SIZE) + _GAP
        height = top + sum(_block_height(block) for block in blocks) + _MARGIN
        return cls(cell, width, height, top, blocks)

    def x(self, column: int) -> int:
        return _MARGIN + column * (self.cell + _GAP)


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


def _draw_header(draw: ImageDraw.ImageDraw, layout: _Layout, columns: Sequence[str]) -> None:
    font = _font(_HEADER_SIZE, bold=True)
    for index, name in enumerate(columns):
        line = (wrap(name, font, layout.cell, 1) or [""])[0]
        draw.text((layout.x(index), _MARGIN), line, font=font, fill=_INK)


def _draw_row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    columns: Sequence[str],
    row: GalleryRow,
    block: _Block,
    y: int,
) -> int:
    """Draw one row at height y; returns where the next one begins."""
    pictures_y = y + len(block.lines) * _line_height(_CAPTION_SIZE) + _GAP // 2
    for number, line in enumerate(block.lines):
        draw.text((_MARGIN, y + number * _line_height(_CAPTION_SIZE)), line, font=_font(_CAPTION_SIZE), fill=_INK)
    for index, name in enumerate(columns):
        x = layout.x(index)
        picture = _open(row.pictures.get(name), layout.cell)
        if picture is None:
            draw.rectangle((x, pictures_y, x + layout.cell - 1, pictures_y + block.picture_height - 1), fill=_EMPTY)
            draw.text((x + _GAP, pictures_y + _GAP), "no picture", font=_font(_CAPTION_SIZE), fill=_FAINT)
        else:
            sheet.paste(picture, (x, pictures_y))
    return y + _block_height(block)


def _block_height(block: _Block) -> int:
    return len(block.lines) * _line_height(_CAPTION_SIZE) + _GAP // 2 + block.picture_height + 2 * _GAP


def _open(path: Path | None, cell: int) -> Image.Image | None:
    """The picture scaled to the cell's width, or None where there is none that can be read."""
    if path is None:
        return None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.convert("RGB").resize(_scaled(image.size, cell), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, ValueError):
        return None


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError):
        return None


def _scaled(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """The size at the cell's width, or less for pictures more than three times as high as wide."""
    width, height = size
    scale = min(cell / width, 3 * cell / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _line_height(size: int) -> int:
    return round(size * 1.35)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path(bold), size)


def _font_path(bold: bool = False) -> str:
    """A font that is always there: matplotlib ships it."""
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
