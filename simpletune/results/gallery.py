"""A sheet of pictures side by side: rows under their prompts, columns under their names, a heading over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from simpletune.results.lettering import font, line_height, wrap
from simpletune.results.pictures import save_picture

_GAP, _GROUP_GAP, _ROW_GAP, _MARGIN = 8, 28, 24, 24
_TITLE_SIZE, _NAME_SIZE, _TEXT_SIZE = 24, 16, 17
_PLAIN_WIDTH = 1100  # wider sheets are looked at from further away, with larger letters
_LARGEST_ZOOM, _SMALLEST_SIZE = 1.8, 12
_NARROWEST = 568
_CAPTION_LINES, _HEADING_LINES = 6, 3
_SMALLEST_CELL, _LARGEST_CELL = 256, 512  # pixels, width; smaller pictures are enlarged, larger ones reduced
_WIDEST, _MAXIMUM_PIXELS = 4400, 60_000_000  # what a viewer opens at ease
_PAPER, _INK, _FAINT, _EMPTY, _FRAME = (255,) * 3, (34,) * 3, (110,) * 3, (225,) * 3, (205,) * 3
_FORMATS = ("PNG", "JPEG", "WEBP")


class Column(NamedTuple):
    """A column's name, and what is written once over all neighbours of its group ("seed 1")."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """One prompt: its text, and a picture file for each column."""

    prompt: str
    pictures: Mapping[Column, Path]


def gallery(
    rows: Sequence[GalleryRow],
    png_path: Path,
    about: Mapping[str, str] | None = None,
    heading: Sequence[str] = (),
) -> None:
    """Draw the rows into `png_path`: columns in order of appearance, each row under its prompt, all under `heading`,
    whose first line is the title.

    Pictures may have any sizes; they keep their aspect. One that is missing or unreadable is a grey field. Prompts are
    wrapped, and cut after six lines; the file's PNG text entries hold them whole, with `about`.
    """
    layout = _Layout.fit(rows, list(dict.fromkeys(column for row in rows for column in row.pictures)), heading)
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_lines(draw, layout.heading, _MARGIN)
    _draw_column_names(draw, layout)
    y = layout.top
    for row, block in zip(rows, layout.blocks, strict=True):
        y = _draw_row(sheet, draw, layout, row, block, y)
    described = {**(about or {}), **{f"prompt {i}": row.prompt for i, row in enumerate(rows, 1)}}
    save_picture(png_path, np.asarray(sheet), described)


class _Line(NamedTuple):
    text: str
    size: int
    bold: bool = False
    colour: tuple[int, int, int] = _INK


@dataclass(frozen=True)
class _Block:
    """A row as laid out: its caption's lines and the height of its pictures."""

    lines: tuple[_Line, ...]
    picture_height: int

    @property
    def height(self) -> int:
        return _height(self.lines) + _GAP + self.picture_height + _ROW_GAP


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, in pixels. `lefts` are the columns' left edges, `name` says how their names look, `top` is
    where the rows begin."""

    columns: tuple[Column, ...]
    lefts: tuple[int, ...]
    cell: int
    width: int
    height: int
    top: int
    name: _Line
    heading: tuple[_Line, ...]
    blocks: tuple[_Block, ...]

    @classmethod
    def fit(cls, rows: Sequence[GalleryRow], columns: Sequence[Column], heading: Sequence[str]) -> _Layout:
        """The largest cells, up to the pictures' own size, whose sheet isn't too large."""
        sizes = [[_size(path) for path in row.pictures.values()] for row in rows]
        widest = max((size[0] for row in sizes for size in row if size), default=_SMALLEST_CELL)
        cell = min(max(widest, _SMALLEST_CELL), _LARGEST_CELL, _WIDEST // max(1, len(columns)))
        layout = cls._with_cell(rows, columns, heading, sizes, cell)
        while layout.width * layout.height > _MAXIMUM_PIXELS and cell > 32:
            cell = cell * 3 // 4
            layout = cls._with_cell(rows, columns, heading, sizes, cell)
        return layout

    @classmethod
    def _with_cell(
        cls,
        rows: Sequence[GalleryRow],
        columns: Sequence[Column],
        heading: Sequence[str],
        sizes: Sequence[Sequence[tuple[int, int] | None]],
        cell: int,
    ) -> _Layout:
        lefts = _lefts(columns, cell)
        width = max(lefts[-1] + cell + _MARGIN, _NARROWEST)
        title, name, text = (
            round(size * min(max(width / _PLAIN_WIDTH, 1), _LARGEST_ZOOM))
            for size in (_TITLE_SIZE, _NAME_SIZE, _TEXT_SIZE)
        )
        blocks = tuple(
            _Block(
                _wrapped(row.prompt, _Line("", text), width, _CAPTION_LINES),
                max((_scaled(size, cell)[1] for size in of_row if size), default=cell // 4),
            )
            for row, of_row in zip(rows, sizes, strict=True)
        )
        looks = [_Line("", title, bold=True), *[_Line("", name, colour=_FAINT)] * len(heading)]
        lines = tuple(
            line
            for said, look in zip(heading, looks, strict=False)
            for line in _wrapped(said, look, width, _HEADING_LINES)
        )
        grouped = any(column.group for column in columns)
        top = _MARGIN + _height(lines) + (_ROW_GAP if lines else 0) + (1 + grouped) * line_height(name) + _ROW_GAP // 2
        height = top + sum(block.height for block in blocks) + _MARGIN - (_ROW_GAP if blocks else 0)
        return cls(tuple(columns), lefts, cell, width, height, top, _Line("", name), lines, blocks)


def _lefts(columns: Sequence[Column], cell: int) -> tuple[int, ...]:
    """The columns' left edges, groups further apart than neighbours; at least one."""
    lefts = [_MARGIN]
    for before, column in pairwise(columns):
        lefts.append(lefts[-1] + cell + (_GAP if before.group == column.group else _GROUP_GAP))
    return tuple(lefts)


def _wrapped(text: str, look: _Line, sheet_width: int, maximum_lines: int) -> tuple[_Line, ...]:
    lines = wrap(text, font(look.size, look.bold), sheet_width - 2 * _MARGIN, maximum_lines)
    return tuple(look._replace(text=line) for line in lines)


def _height(lines: Sequence[_Line]) -> int:
    return sum(line_height(line.size) for line in lines)


def _draw_lines(draw: ImageDraw.ImageDraw, lines: Sequence[_Line], y: int) -> int:
    """Draw lines at the left margin, from height y on; returns where they end."""
    for line in lines:
        draw.text((_MARGIN, y), line.text, font=font(line.size, line.bold), fill=line.colour)
        y += line_height(line.size)
    return y


def _draw_column_names(draw: ImageDraw.ImageDraw, layout: _Layout) -> None:
    """The names, the groups' above them, in the lines that end at the rows' top."""
    look, heavy = layout.name, layout.name._replace(bold=True)
    y = layout.top - _ROW_GAP // 2 - line_height(look.size)
    grouped = any(column.group for column in layout.columns)
    before = ""
    for column, x in zip(layout.columns, layout.lefts, strict=False):
        if column.group != before:
            _draw_name(draw, column.group, heavy, x, y - line_height(look.size), layout.cell)
        _draw_name(draw, column.name, look if grouped else heavy, x, y, layout.cell)
        before = column.group


def _draw_name(draw: ImageDraw.ImageDraw, name: str, look: _Line, x: int, y: int, width: int) -> None:
    """One line above a column, smaller if need be, and cut to its width if even that is too wide."""
    size = look.size
    while size > _SMALLEST_SIZE and font(size, look.bold).getlength(name) > width:
        size -= 1
    letters = font(size, look.bold)
    line = (wrap(name, letters, width, 1) or [""])[0]
    draw.text((x, y + line_height(look.size) - line_height(size)), line, font=letters, fill=look.colour)


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, layout: _Layout, row: GalleryRow, block: _Block, y: int
) -> int:
    """Draw one row at height y; returns where the next one begins."""
    top = _draw_lines(draw, block.lines, y) + _GAP
    for column, x in zip(layout.columns, layout.lefts, strict=False):
        picture = _open(row.pictures.get(column), layout.cell)
        if picture is None:
            draw.rectangle((x, top, x + layout.cell - 1, top + block.picture_height - 1), fill=_EMPTY)
            draw.text((x + _GAP, top + _GAP), "no picture", font=font(_NAME_SIZE), fill=_FAINT)
        else:
            # A frame just outside, as pictures are often white at their edges.
            draw.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=_FRAME)
            sheet.paste(picture, (x, top))
    return y + block.height


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
