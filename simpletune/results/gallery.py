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
from simpletune.results.pictures import open_sample, save_picture

_GAP, _GROUP_GAP, _ROW_GAP, _MARGIN = 8, 28, 24, 24
_TITLE_SIZE, _NAME_SIZE, _TEXT_SIZE = 24, 16, 17
_PLAIN_WIDTH = 1100  # wider sheets are looked at from further away, with larger letters
_LARGEST_ZOOM, _SMALLEST_SIZE = 1.8, 12
_NARROWEST = 568
_CAPTION_LINES, _HEADING_LINES = 6, 3
_SMALLEST_CELL, _LARGEST_CELL = 256, 512  # pixels, width; smaller pictures are enlarged, larger ones reduced
_WIDEST, _MAXIMUM_PIXELS = 4400, 60_000_000  # what a viewer opens at ease
_SLIMMEST = 1 / 3  # width to height that a column's width still follows
_TALLEST = 3600, 1.5  # pixels, and times the width: of a sheet whose rows may go on in the next one
_PAPER, _INK, _FAINT, _EMPTY, _FRAME = (255,) * 3, (34,) * 3, (110,) * 3, (225,) * 3, (205,) * 3
_FORMATS = ("PNG", "JPEG", "WEBP")
_Sizes = Sequence[Mapping["Column", tuple[int, int]]]  # of each row's pictures; those that can't be read are left out


class Column(NamedTuple):
    """A column's name, and what is written once over all neighbours of its group ("seed 1")."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """A picture file for each column it has one in, under a prompt and a fainter line that tells rows of one prompt
    apart.

    `again`: the row before is of the same prompt, which is written over the first of them on a sheet.
    """

    prompt: str
    pictures: Mapping[Column, Path]
    note: str = ""
    again: bool = False


def gallery(
    rows: Sequence[GalleryRow],
    png_path: Path,
    about: Mapping[str, str] | None = None,
    heading: Sequence[str] = (),
) -> None:
    """Draw the rows into `png_path`: columns in order of appearance, each row under its prompt, all under `heading`,
    whose first line is the title.

    Pictures may have any sizes; they keep their aspect. One that is missing or unreadable is a grey field. Prompts are
    wrapped, and cut after six lines; the file's PNG text entries hold each of them whole, with `about`.
    """
    layout = _Layout.fit(rows, list(dict.fromkeys(column for row in rows for column in row.pictures)), heading)
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_lines(draw, layout.heading, _MARGIN)
    _draw_column_names(draw, layout)
    y = layout.top
    for row, block in zip(rows, layout.blocks, strict=True):
        y = _draw_row(sheet, draw, layout, row, block, y)
    prompts = dict.fromkeys(row.prompt for row in rows)
    described = {**(about or {}), **{f"prompt {i}": prompt for i, prompt in enumerate(prompts, 1)}}
    save_picture(png_path, np.asarray(sheet), described)


def pages(rows: Sequence[GalleryRow], heading: Sequence[str] = ()) -> list[list[GalleryRow]]:
    """The rows in groups for sheets of a height that can be looked at, each of at least one row."""
    columns = list(dict.fromkeys(column for row in rows for column in row.pictures))
    layout = _Layout.large(rows, columns, heading, _sizes(rows))
    found: list[list[GalleryRow]] = []
    tallest = max(_TALLEST[0], _TALLEST[1] * layout.width)
    height = tallest
    for row, block in zip(rows, layout.blocks, strict=True):
        if height + block.height > tallest:
            found.append([])
            height = layout.top
        found[-1].append(row)
        height += block.height
    return found


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
    """Where everything goes, in pixels. `lefts` are the columns' left edges, `widths` their own; `cell` is what these
    are on average, `name` says how the columns' names look, `top` is where the rows begin."""

    columns: tuple[Column, ...]
    lefts: tuple[int, ...]
    widths: tuple[int, ...]
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
        sizes = _sizes(rows)
        layout = cls.large(rows, columns, heading, sizes)
        while layout.width * layout.height > _MAXIMUM_PIXELS and layout.cell > 32:
            layout = cls._with_cell(rows, columns, heading, sizes, layout.cell * 3 // 4)
        return layout

    @classmethod
    def large(
        cls, rows: Sequence[GalleryRow], columns: Sequence[Column], heading: Sequence[str], sizes: _Sizes
    ) -> _Layout:
        """Cells as large as the pictures, of a sheet that may be as high as it likes."""
        widest = max((size[0] for row in sizes for size in row.values()), default=_SMALLEST_CELL)
        cell = min(max(widest, _SMALLEST_CELL), _LARGEST_CELL, _WIDEST // max(1, len(columns)))
        return cls._with_cell(rows, columns, heading, sizes, cell)

    @classmethod
    def _with_cell(
        cls,
        rows: Sequence[GalleryRow],
        columns: Sequence[Column],
        heading: Sequence[str],
        sizes: _Sizes,
        cell: int,
    ) -> _Layout:
        widths = _widths(columns, sizes, cell)
        lefts = _lefts(columns, widths)
        width = max(lefts[-1] + widths[-1] + _MARGIN, _NARROWEST)
        title, name, text = (
            round(size * min(max(width / _PLAIN_WIDTH, 1), _LARGEST_ZOOM))
            for size in (_TITLE_SIZE, _NAME_SIZE, _TEXT_SIZE)
        )
        by_column = dict(zip(columns, widths, strict=False))
        blocks = tuple(
            _Block(
                _caption(row, number == 0, _Line("", text), width),
                max((_scaled(size, by_column[column])[1] for column, size in of_row.items()), default=cell // 4),
            )
            for number, (row, of_row) in enumerate(zip(rows, sizes, strict=True))
        )
        looks = [_Line("", title, bold=True), *[_Line("", name, colour=_FAINT)] * len(heading)]
        lines = tuple(
            line
            for said, look in zip(heading, looks, strict=False)
            for line in _wrapped(said, look, width, _HEADING_LINES)
        )
        named = sum(any(text.strip() for text in texts) for texts in zip(*columns, strict=False))
        top = _MARGIN + _height(lines) + (_ROW_GAP if lines else 0) + named * line_height(name) + _ROW_GAP // 2
        height = top + sum(block.height for block in blocks) + _MARGIN - (_ROW_GAP if blocks else 0)
        return cls(tuple(columns), lefts, widths, cell, width, height, top, _Line("", name), lines, blocks)


def _widths(columns: Sequence[Column], sizes: _Sizes, cell: int) -> tuple[int, ...]:
    """The columns' widths, at least one: where each has pictures of one shape, all pictures become equally high."""
    shapes = [{size[0] / size[1] for row in sizes for at, size in row.items() if at == column} for column in columns]
    if not columns or any(len(of_one) != 1 for of_one in shapes):
        return (cell,) * max(1, len(columns))
    aspects = [min(max(max(of_one), _SLIMMEST), 1 / _SLIMMEST) for of_one in shapes]
    height = cell * len(aspects) / sum(aspects)
    return tuple(round(aspect * height) for aspect in aspects)


def _lefts(columns: Sequence[Column], widths: Sequence[int]) -> tuple[int, ...]:
    """The columns' left edges, groups further apart than neighbours; at least one."""
    lefts = [_MARGIN]
    for (before, column), width in zip(pairwise(columns), widths, strict=False):
        lefts.append(lefts[-1] + width + (_GAP if before.group == column.group else _GROUP_GAP))
    return tuple(lefts)


def _caption(row: GalleryRow, first: bool, look: _Line, width: int) -> tuple[_Line, ...]:
    """A row's prompt, unless it stands over the row before, and its note."""
    prompt = () if row.again and not first else _wrapped(row.prompt, look, width, _CAPTION_LINES)
    return (*prompt, *_wrapped(row.note, look._replace(colour=_FAINT), width, 1))


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
    grouped = any(column.group.strip() for column in layout.columns)
    before = ""
    for column, x, width in zip(layout.columns, layout.lefts, layout.widths, strict=False):
        if column.group != before:
            _draw_name(draw, column.group, heavy, x, y - line_height(look.size), width)
        _draw_name(draw, column.name, look if grouped else heavy, x, y, width)
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
    for column, x, width in zip(layout.columns, layout.lefts, layout.widths, strict=False):
        if column not in row.pictures:
            continue
        picture = _open(row.pictures[column], width)
        if picture is None:
            draw.rectangle((x, top, x + width - 1, top + block.picture_height - 1), fill=_EMPTY)
            draw.text((x + _GAP, top + _GAP), "no picture", font=font(_NAME_SIZE), fill=_FAINT)
        else:
            # A frame just outside, as pictures are often white at their edges.
            draw.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=_FRAME)
            sheet.paste(picture, (x, top))
    return y + block.height


def _open(path: Path, cell: int) -> Image.Image | None:
    """The picture scaled to the cell's width, or None where there is none that can be read."""
    try:
        with open_sample(path, _FORMATS) as image:
            return image.convert("RGB").resize(_scaled(image.size, cell), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, ValueError):
        return None


def _sizes(rows: Sequence[GalleryRow]) -> _Sizes:
    found = [{column: _size(path) for column, path in row.pictures.items()} for row in rows]
    return [{column: size for column, size in of_row.items() if size} for of_row in found]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with open_sample(path, _FORMATS) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError):
        return None


def _scaled(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """The size at the cell's width, or less for pictures more than three times as high as wide."""
    width, height = size
    scale = min(cell / width, 3 * cell / height)
    return max(1, round(width * scale)), max(1, round(height * scale))
