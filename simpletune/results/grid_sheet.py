"""Sheets of an order's pictures: its axes as rows and columns, on as many pages as can be looked at.

columns    the variants; beside each other for each seed, else for each size, where that is not too many
rows       the prompts, and whatever of seeds and sizes is not in the columns
pages      a few thousand pixels high; more variants than fit side by side go on pages of their own, each with the base
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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


class _Axes(NamedTuple):
    """What stands in the columns beside the variants, and what in the rows."""

    seeds_across: bool
    sizes_across: bool


def _arranged(order: Order, folder: Path) -> Iterator[list[GalleryRow]]:
    """Rows that have the same columns, for one sheet or several of their own."""
    if len(order.variants) == 1 and len(order.seeds) > _MOST_COLUMNS:
        yield _seeds_in_lines(order, folder)
        return
    for variants in _strips(order.variants):
        axes = _axes(order, variants)
        yield list(_rows(order, axes, _columns(variants, axes), folder))


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


def _axes(order: Order, variants: Sequence[Variant]) -> _Axes:
    """Groups of columns are the adapters' where there are several at several scales; else seeds, or sizes."""
    if _scaled(variants) and len({variant.adapter for variant in variants if variant.adapter}) > 1:
        return _Axes(seeds_across=False, sizes_across=False)
    seeds_across = len(variants) * len(order.seeds) <= _MOST_COLUMNS
    sizes_across = len(order.seeds) == 1 < len(order.sizes) and len(variants) * len(order.sizes) <= _MOST_COLUMNS
    return _Axes(seeds_across, sizes_across)


def _scaled(variants: Sequence[Variant]) -> bool:
    return len({variant.scale for variant in variants if variant.adapter is not None}) > 1


def _columns(variants: Sequence[Variant], axes: _Axes) -> Callable[[Shot], list[tuple[Column, Variant]]]:
    """What gives a shot's columns: one for each variant."""
    scaled = _scaled(variants)

    def name(variant: Variant) -> str:
        return f"scale {number_text(variant.scale)}" if scaled and variant.adapter else variant.title

    def group(variant: Variant, shot: Shot) -> str:
        if axes.sizes_across:
            return f"{shot.width} x {shot.height}"
        if axes.seeds_across:
            return f"seed {shot.seed}"
        return _adapter_title(variant, variants) if scaled and variant.adapter else ""

    return lambda shot: [(Column(name(variant), group(variant, shot)), variant) for variant in variants]


def _adapter_title(variant: Variant, variants: Sequence[Variant]) -> str:
    """The adapter's, with its name where another is called the same."""
    adapter = variant.adapter
    if adapter is None:
        return variant.title
    alike = {other.adapter for other in variants if other.adapter and other.adapter.title == adapter.title}
    return adapter.title if len(alike) == 1 else f"{adapter.title} ({adapter.name})"


def _rows(
    order: Order, axes: _Axes, columns: Callable[[Shot], list[tuple[Column, Variant]]], folder: Path
) -> Iterator[GalleryRow]:
    """A row for each prompt, and in it for each seed and size that is not in the columns."""
    rows: dict[tuple[str, tuple[int, int] | None, int | None], dict[Column, Path]] = {}
    for shot in order.shots():
        size = None if axes.sizes_across or len(order.sizes) == 1 else (shot.width, shot.height)
        seed = None if axes.seeds_across or len(order.seeds) == 1 else shot.seed
        pictures = rows.setdefault((shot.prompt, size, seed), {})
        pictures |= {column: folder / variant.name / shot.file_name for column, variant in columns(shot)}
    before = None
    for (prompt, size, seed), pictures in rows.items():
        said = [f"seed {seed}"] if seed is not None else []
        said += [f"{size[0]} x {size[1]}"] if size is not None else []
        yield GalleryRow(prompt, pictures, ", ".join(said), again=prompt == before)
        before = prompt


def _seeds_in_lines(order: Order, folder: Path) -> list[GalleryRow]:
    """One variant at many seeds: they go on in the next row, as words do."""
    (variant,) = order.variants
    rows: list[GalleryRow] = []
    of_each: dict[tuple[str, int, int], list[Shot]] = {}
    for shot in order.shots():
        of_each.setdefault((shot.prompt, shot.width, shot.height), []).append(shot)
    for (prompt, width, height), shots in of_each.items():
        for start in range(0, len(shots), _MOST_COLUMNS):
            line = shots[start : start + _MOST_COLUMNS]
            note = f"seeds {', '.join(str(shot.seed) for shot in line)}"
            note += f", {width} x {height}" if len(order.sizes) > 1 else ""
            pictures = {Column(" " * place): folder / variant.name / shot.file_name for place, shot in enumerate(line)}
            rows.append(GalleryRow(prompt, pictures, note, again=bool(rows) and rows[-1].prompt == prompt))
    return rows


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
