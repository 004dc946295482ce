"""What a survey found, in lines for people: counts, two small histograms, and what doesn't reach the resolution."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from simpletune.data.sources import shown
from simpletune.redact import redact

if TYPE_CHECKING:
    from simpletune.data.survey import Survey

BLOCKS, SIGNS, NONE = "▏▎▍▌▋▊▉█", "#", ""
"""What bars are drawn with: parts of a column that grow, whole columns only, or no bars for who has them read out."""

SHAPES = (
    ("tall", 0.0, 0.6),
    ("portrait", 0.6, 0.9),
    ("square", 0.9, 1.1),
    ("landscape", 1.1, 1.7),
    ("wide", 1.7, float("inf")),
)
"""Names of aspect ratios, width / height, from (inclusive) and up to (exclusive)."""

_WIDEST, _SIDE_BY_SIDE = 80, 72
_SHORTEST_BAR, _LONGEST_BAR = 3, 20
_CAPTIONS_SHOWN = 2
_UNREADABLE_SHOWN = 3

Rows = Sequence[tuple[str, int]]
Sizes = Mapping[tuple[int, int], int]
"""How many pictures there are of each (width, height) in pixels."""


def lines(survey: Survey, resolution: int, width: int | None = None, bars: str | None = None) -> list[str]:
    """The report shown in the wizard, for training at `resolution` pixels.

    No line is wider than `width` columns (the terminal's, at most 80); `bars` are BLOCKS, SIGNS or NONE (what the
    terminal can show).
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST) if width is None else width
    if survey.problem is not None:
        return [line for text in (survey.problem, survey.hint) if text for line in wrapped(text, width)]
    report = [line for text in _counts(survey) for line in wrapped(text, width)]
    report += (fit(text, width) for text in _examples(survey))
    if survey.readable:
        report += histograms(survey.sizes, resolution, width, terminal_bars() if bars is None else bars)
        report += (line for text in _below(survey, resolution) for line in wrapped(text, width))
    return report


def shape_of(width: int, height: int) -> str:
    """The name of a picture's aspect among SHAPES."""
    return next(name for name, low, high in SHAPES if low <= width / height < high)


def how_far(survey: Survey) -> str:
    """How many pictures there are, and how many of them were looked at in which time."""
    listed = f"{survey.pictures:,}"
    if survey.unseen is not None:
        return survey.unseen
    if survey.complete:
        return f"{listed} picture{'' if survey.pictures == 1 else 's'}"
    of = listed if survey.listed_all else f"{listed} or more"
    return f"looked at {survey.looked_at:,} of {of} pictures in {survey.seconds:.1f} s"


def _counts(survey: Survey) -> Iterator[str]:
    yield how_far(survey)
    if survey.unreadable_count:
        named = "; ".join(f"{name}: {reason}" for name, reason in survey.unreadable[:_UNREADABLE_SHOWN])
        more = survey.unreadable_count - min(_UNREADABLE_SHOWN, len(survey.unreadable))
        also = f"; and {more:,} more" if more > 0 else ""
        yield f"  {survey.unreadable_count:,} can't be read and will be left out ({named}{also})"
    texts = (
        (survey.with_own, "with a caption in the data set"),
        (survey.with_text, "with a caption in a .txt beside it"),
        (survey.empty_text, "with a .txt that has no caption in it"),
        (survey.missing_text if survey.type != "huggingface" else 0, "without a .txt of the same name"),
    )
    yield from (f"  {count:,} {what}" for count, what in texts if count)
    for note, count in sorted(survey.notes.items()):
        yield f"  {count:,} caption{'' if count == 1 else 's'}: {note}"


def _examples(survey: Survey) -> Iterator[str]:
    if survey.with_text or survey.with_own:
        yield from (f'    "{caption}"' for caption in survey.captions[:_CAPTIONS_SHOWN])
    elif survey.likely_names * 2 > survey.readable:
        yield "  the file names read like captions:"
        yield from (f'    "{name}"' for name in survey.name_captions[:_CAPTIONS_SHOWN])


def _below(survey: Survey, resolution: int) -> Iterator[str]:
    from simpletune.data.survey import below

    small = below(survey, resolution)
    if small:
        of = f"{small:,} of {survey.readable:,}"
        yield f"  {of} have fewer pixels than {resolution} x {resolution} and would be enlarged"


def histograms(counted: Sizes, resolution: int, width: int, bars: str) -> list[str]:
    """Pictures by shorter edge and by shape, side by side where `width` columns are enough for it."""
    sizes = "shorter edge, pixels", size_rows(counted, resolution)
    shapes = "shape", shape_rows(counted)
    if width < _SIDE_BY_SIDE:
        return [*_histogram(*sizes, width, bars), *_histogram(*shapes, width, bars)]
    half = width // 2
    left, right = _histogram(*sizes, half - 1, bars), _histogram(*shapes, width - half, bars)
    return [f"{one:<{half}}{other}".rstrip() for one, other in zip_longest(left, right, fillvalue="")]


def _histogram(title: str, rows: Rows, width: int, bars: str) -> list[str]:
    label, figure = max(len(name) for name, _ in rows), max(len(f"{count:,}") for _, count in rows)
    room = min(_LONGEST_BAR, width - label - figure - 6)
    bars = bars if room >= _SHORTEST_BAR else NONE
    most = max(count for _, count in rows)
    drawn = (f"    {name:<{label}} {count:>{figure},} {bar(count / most, room, bars)}" for name, count in rows)
    return [f"  {title}", *(line.rstrip() for line in drawn)]


def bar(share: float, room: int, bars: str) -> str:
    """A bar over `share` of `room` columns; something is seen of any share above 0."""
    parts = len(bars)
    if share <= 0 or not parts:
        return ""
    full, rest = divmod(max(1, round(share * room * parts)), parts)
    return bars[-1] * full + (bars[rest - 1] if rest else "")


def size_rows(sizes: Sizes, resolution: int) -> Rows:
    """Pictures by shorter edge, in ranges of which `resolution` is a border; empty ones at either end left out."""
    borders = [0, resolution // 2, resolution * 3 // 4, resolution, resolution * 3 // 2, resolution * 2]
    counts = [0] * len(borders)
    for (width, height), count in sizes.items():
        edge = min(width, height)
        counts[max(index for index, border in enumerate(borders) if edge >= border)] += count
    names = [f"below {borders[1]}"]
    names += [f"{low}-{high - 1}" for low, high in pairwise(borders[1:])]
    names.append(f"{borders[-1]} and up")
    used = [index for index, count in enumerate(counts) if count]
    return [(names[index], counts[index]) for index in range(used[0], used[-1] + 1)]


def shape_rows(sizes: Sizes) -> Rows:
    """Pictures by the names of their aspect ratios."""
    counts = dict.fromkeys((name for name, _, _ in SHAPES), 0)
    for (width, height), count in sizes.items():
        counts[shape_of(width, height)] += count
    return [(name, count) for name, count in counts.items() if count]


def terminal_bars() -> str:
    """What this terminal can draw bars with."""
    if os.environ.get("ACCESSIBLE", "0") not in {"", "0"}:
        return NONE
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return BLOCKS if encoding.replace("-", "").startswith("utf") else SIGNS


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns, the later ones indented by two more; a long word is broken."""
    text = shown(redact(text))
    indent = text[: len(text) - len(text.lstrip())]
    found, line = [], indent
    for word in text.split():
        gap = "" if line == indent or not line.strip() else " "
        if columns(line + gap + word) > width and line.strip():
            found.append(line)
            line, gap = f"{indent}  ", ""
        while columns(line + gap + word) > width:
            head = _head(word, max(1, width - columns(line)))
            found.append(line + head)
            line, word = f"{indent}  ", word[len(head) :]
        line += gap + word
    return [*found, line]


def fit(text: str, width: int) -> str:
    """`text` as one line of at most `width` columns, cut with three dots; without tokens and control characters."""
    text = shown(redact(text))
    return text if columns(text) <= width else f"{_head(text, width - 3)}..."


def _head(text: str, width: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += columns(character)
        if used > width:
            return text[: max(1, index)]
    return text


def columns(text: str) -> int:
    """Terminal columns of `text`: East Asian wide characters and emoji take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
