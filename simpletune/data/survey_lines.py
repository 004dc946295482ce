"""What a survey found, in lines for people: counts, two small histograms, and what doesn't reach the resolution."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from simpletune.data.sources import shown
from simpletune.redact import redact

if TYPE_CHECKING:
    from simpletune.data.survey import Survey

_SIDE_BY_SIDE = 72
_CAPTIONS_SHOWN = 2
_UNREADABLE_SHOWN = 3
_EIGHTHS = "▏▎▍▌▋▊▉█"

SHAPES = (
    ("tall", 0.0, 0.6),
    ("portrait", 0.6, 0.9),
    ("square", 0.9, 1.1),
    ("landscape", 1.1, 1.7),
    ("wide", 1.7, float("inf")),
)
"""Names of aspect ratios, width / height, from (inclusive) and up to (exclusive)."""

Rows = Sequence[tuple[str, int]]


def lines(survey: Survey, resolution: int, width: int = 80, ascii_only: bool = False) -> list[str]:
    """The report shown in the wizard, for training at `resolution` pixels; no line is wider than `width` columns."""
    if survey.problem is not None:
        return [fit(text, width) for text in (survey.problem, survey.hint or "") if text]
    report = list(_counts(survey))
    if survey.readable:
        report += _histograms(survey, resolution, width, ascii_only)
        report += _below(survey, resolution)
    return [fit(line, width) for line in report]


def shape_of(width: int, height: int) -> str:
    """The name of a picture's aspect among SHAPES."""
    return next(name for name, low, high in SHAPES if low <= width / height < high)


def _counts(survey: Survey) -> Iterator[str]:
    yield how_far(survey)
    texts = (
        (survey.with_text, "with a caption in a .txt"),
        (survey.empty_text, "with an empty .txt"),
        (survey.missing_text, "without a .txt"),
    )
    found = [f"{count:,} {what}" for count, what in texts if count]
    yield from (f"  {text}" for text in found)
    for caption in survey.captions[:_CAPTIONS_SHOWN]:
        yield f'    "{caption}"'
    if not survey.with_text and survey.likely_names * 2 > survey.readable:
        yield "  the file names read like captions:"
        yield from (f'    "{name}"' for name in survey.name_captions[:_CAPTIONS_SHOWN])
    yield from _unreadable(survey)


def how_far(survey: Survey) -> str:
    """One line: how many pictures there are, and how many of them were looked at in which time."""
    listed = f"{survey.pictures:,}"
    if survey.complete:
        return f"{listed} picture{'' if survey.pictures == 1 else 's'}"
    of = listed if survey.listed_all else f"{listed} or more"
    return f"looked at {survey.looked_at:,} of {of} in {survey.seconds:.1f} s"


def _unreadable(survey: Survey) -> Iterator[str]:
    if not survey.unreadable_count:
        return
    yield f"  {survey.unreadable_count:,} can't be read and will be left out"
    for name, reason in survey.unreadable[:_UNREADABLE_SHOWN]:
        yield f"    {name}: {reason}"
    more = survey.unreadable_count - _UNREADABLE_SHOWN
    if more > 0:
        yield f"    and {more:,} more"


def _histograms(survey: Survey, resolution: int, width: int, ascii_only: bool) -> list[str]:
    sizes = "shorter edge (pixels)", _size_rows(survey, resolution)
    shapes = "shape", _shape_rows(survey)
    if width < _SIDE_BY_SIDE:
        return [*_histogram(*sizes, width, ascii_only), *_histogram(*shapes, width, ascii_only)]
    half = width // 2
    pairs = zip_longest(
        _histogram(*sizes, half - 1, ascii_only), _histogram(*shapes, width - half, ascii_only), fillvalue=""
    )
    return [f"{left:<{half}}{right}".rstrip() for left, right in pairs]


def _histogram(title: str, rows: Rows, width: int, ascii_only: bool) -> list[str]:
    label = max(len(name) for name, _ in rows)
    figure = max(len(f"{count:,}") for _, count in rows)
    room = min(20, width - label - figure - 6)
    most = max(count for _, count in rows)
    drawn = [
        f"    {name:>{label}} {count:>{figure},} {bar(count / most, room, ascii_only)}".rstrip() for name, count in rows
    ]
    return [f"  {title}", *drawn]


def bar(share: float, room: int, ascii_only: bool) -> str:
    """A bar of `share` of `room` columns; something is seen of any share above 0."""
    if share <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, round(share * room))
    full, rest = divmod(max(1, round(share * room * 8)), 8)
    return _EIGHTHS[-1] * full + (_EIGHTHS[rest - 1] if rest else "")


def _size_rows(survey: Survey, resolution: int) -> Rows:
    """Pictures by shorter edge, in ranges of which `resolution` is a border; empty ones at either end left out."""
    borders = [0, resolution // 2, resolution * 3 // 4, resolution, resolution * 3 // 2, resolution * 2]
    counts = [0] * len(borders)
    for (width, height), count in survey.sizes.items():
        edge = min(width, height)
        counts[max(index for index, border in enumerate(borders) if edge >= border)] += count
    names = [f"below {borders[1]}"]
    names += [f"{low}-{high - 1}" for low, high in pairwise(borders[1:])]
    names.append(f"{borders[-1]} and up")
    used = [index for index, count in enumerate(counts) if count]
    return [(names[index], counts[index]) for index in range(used[0], used[-1] + 1)]


def _shape_rows(survey: Survey) -> Rows:
    counts = dict.fromkeys((name for name, _, _ in SHAPES), 0)
    for (width, height), count in survey.sizes.items():
        counts[shape_of(width, height)] += count
    return [(name, count) for name, count in counts.items() if count]


def _below(survey: Survey, resolution: int) -> Iterator[str]:
    from simpletune.data.survey import below

    small = below(survey, resolution)
    if small:
        yield f"  {small:,} of {survey.readable:,} would be enlarged at {resolution} pixels"


def fit(text: str, width: int) -> str:
    """`text` as one line of at most `width` columns, cut with three dots; without tokens and control characters."""
    text = shown(redact(text))
    if columns(text) <= width:
        return text
    kept, room = "", width - 3
    for character in text:
        room -= columns(character)
        if room < 0:
            break
        kept += character
    return f"{kept}..."


def columns(text: str) -> int:
    """Terminal columns of `text`: East Asian wide characters and emoji take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
