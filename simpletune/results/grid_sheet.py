"""Sheets of an order's pictures: its axes as rows and columns, on as many pages as can be looked at.

columns    the variants, for as many seeds as fit side by side; with one seed for every size, where these fit
rows       the prompts, and whatever of seeds and sizes is not in the columns
pages      a few thousand pixels high; more variants than fit side by side go on pages of their own, each with the base
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from math import ceil
from pathlib import Path
from typing import NamedTuple, TypeVar

from simpletune import files
from simpletune.progress import Reporter
from simpletune.results.gallery import Column, GalleryRow, gallery, pages
from simpletune.results.order import Order, Variant
from simpletune.results.pictures import read_description
from simpletune.results.studio import Shot
from simpletune.results.variants import BASE, number_text

SHEET_FILE = "sheet.png"
_MOST_COLUMNS = 8
_SHOWN_FROM = 4  # sheets: from here on drawing them takes long enough to show it
_T = TypeVar("_T")
_FURTHER = re.compile(r"sheet-(\d+)\.png")
_PAGE = "page"  # the PNG entry of a sheet


def grid_sheets(order: Order, folder: Path, heading: Sequence[str], reporter: Reporter) -> tuple[Path, ...]:
    """Draw all pictures of the order, which lie in `folder`/VARIANT/, into sheet.png, sheet-2.png, ... there.

    `heading` stands over each. Sheets of these names that an earlier order left beyond the last are removed.
    """
    drawn = [page for rows in _arranged(order, folder) for page in pages(rows, heading)]
    paths = tuple(folder / (SHEET_FILE if number == 1 else f"sheet-{number}.png") for number in _numbers(drawn))
    shown = len(paths) >= _SHOWN_FROM
    with reporter.phase("Drawing sheets", len(paths), "sheet") if shown else nullcontext() as phase:
        for number, (path, rows) in enumerate(zip(paths, drawn, strict=True), 1):
            said = [*heading, f"sheet {number} of {len(paths)}"] if len(paths) > 1 else list(heading)
            gallery(rows, path, {"heading": "\n".join(said), _PAGE: f"{number} of {len(paths)}"}, said)
            if phase is not None:
                phase.advance()
    _remove_further(folder, len(paths))
    return paths


def _arranged(order: Order, folder: Path) -> Iterator[list[GalleryRow]]:
    """Rows that have the same columns, for one sheet or several of their own."""
    strips = _strips(order.variants)
    axes = _axes(order, max(map(len, strips)))
    for variants in strips:
        yield list(_rows(order, axes, variants, folder))


def _strips(variants: Sequence[Variant]) -> list[list[Variant]]:
    """As many variants as go side by side, evenly, those of one adapter together; the base is the first of each."""
    base = [variant for variant in variants if variant.name == BASE]
    of_each: dict[object, list[Variant]] = {}
    for variant in variants:
        if variant.name != BASE:
            of_each.setdefault(variant.adapter, []).append(variant)
    room = _MOST_COLUMNS - len(base)
    parts = [part for group in of_each.values() for part in _evenly(group, room)]
    together = _evenly(parts, room // max(map(len, parts), default=1))
    return [base + [variant for group in of_one for variant in group] for of_one in together]


class _Axes(NamedTuple):
    """What stands in the columns beside the variants; the rest is in the rows. `lines` are the seeds of each row."""

    lines: list[list[int]]
    sizes_across: bool


def _axes(order: Order, variants: int) -> _Axes:
    """For so many variants side by side. Groups of columns are the adapters' where there are several at several scales;
    else seeds, or sizes."""
    by_adapter = _scaled(order) and len({variant.adapter for variant in order.variants if variant.adapter}) > 1
    lines = _evenly(order.seeds, 1 if by_adapter else max(1, _MOST_COLUMNS // variants))
    sizes_across = len(order.seeds) == 1 < len(order.sizes) and variants * len(order.sizes) <= _MOST_COLUMNS
    return _Axes(lines, sizes_across and not by_adapter)


def _rows(order: Order, axes: _Axes, variants: Sequence[Variant], folder: Path) -> Iterator[GalleryRow]:
    """Rows of one prompt stand one below the other."""
    beside = [order.sizes] if axes.sizes_across else [(size,) for size in order.sizes]
    for name, prompt in order.prompts.items():
        again = False
        for sizes in beside:
            for seeds in axes.lines:
                said = _said(axes, seeds)
                if len(beside) > 1:
                    said.append("{} x {}".format(*sizes[0]))
                shots = [Shot(name, prompt, *size, seed) for size in sizes for seed in seeds]
                pictures = {
                    _column(order, axes, variant, shot, place): folder / variant.name / shot.file_name
                    for place, shot in enumerate(shots)
                    for variant in variants
                }
                yield GalleryRow(prompt, pictures, ", ".join(said), again)
                again = True


def _said(axes: _Axes, seeds: Sequence[int]) -> list[str]:
    """A row's seeds, where the columns don't name them."""
    return [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if len(axes.lines) > 1 else []


def _column(order: Order, axes: _Axes, variant: Variant, shot: Shot, place: int) -> Column:
    """Of a variant at one of the shots in a row."""
    scaled = _scaled(order) and variant.adapter is not None
    name = f"scale {number_text(variant.scale)}" if scaled else variant.title
    if axes.sizes_across:
        return Column(name, f"{shot.width} x {shot.height}")
    if max(map(len, axes.lines)) == 1 and _scaled(order):
        return Column(name, _adapter_title(order, variant) if scaled else "")
    if len(axes.lines) == 1:
        return Column(name, f"seed {shot.seed}")
    # Seeds are other ones in each row, which names them: spaces tell the columns apart.
    return Column(" " * place) if len(order.variants) == 1 else Column(name, " " * place)


def _scaled(order: Order) -> bool:
    return len({variant.scale for variant in order.variants if variant.adapter is not None}) > 1


def _adapter_title(order: Order, variant: Variant) -> str:
    """The adapter's, with its name where another is called the same."""
    adapter = variant.adapter
    if adapter is None:
        return variant.title
    titles = [other.title for other in dict.fromkeys(other.adapter for other in order.variants) if other]
    return adapter.title if titles.count(adapter.title) == 1 else f"{adapter.title} ({adapter.name})"


def _evenly(items: Sequence[_T], most: int) -> list[list[_T]]:
    """In as few parts of at most so many as there can be, about equally long; one empty part of nothing."""
    count = max(1, ceil(len(items) / most))
    length = max(1, ceil(len(items) / count))
    return [list(items[start : start + length]) for start in range(0, max(1, len(items)), length)]


def _numbers(drawn: Sequence[object]) -> range:
    return range(1, len(drawn) + 1)


def _remove_further(folder: Path, count: int) -> None:
    for path in folder.glob("sheet-*.png"):
        match = _FURTHER.fullmatch(path.name)
        if match and int(match[1]) > count and _PAGE in (read_description(path) or {}):
            files.remove(path)
