"""Lines of a live display: what fits the width, in columns that stay where they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simpletune.progress.meter import Meter
from simpletune.progress.sparkline import ASCII_MARKS, BLOCKS, sparkline
from simpletune.progress.training import Facts
from simpletune.progress.words import learning_rate, number, plain_text, time_left

STOPPING = "stopping: the step is finished and saved; Ctrl-C again to end without saving"
_GAP = 2
_UNKNOWN = "-"
_TITLE = 28


@dataclass(frozen=True)
class Signs:
    """What a terminal's encoding has for bars, curves and what is cut off."""

    marks: str
    done: str
    rest: str
    ellipsis: str


UNICODE = Signs(BLOCKS, "━", "─", "…")
ASCII = Signs(ASCII_MARKS, "#", "-", "...")


def signs_for(encoding: str) -> Signs:
    try:
        "".join((UNICODE.marks, UNICODE.done, UNICODE.rest, UNICODE.ellipsis)).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


@dataclass(frozen=True)
class Cell:
    """A column of a line. `keep`: when a line is too narrow, the cell with the least of it goes first.

    A cell with `draw` takes what width the others leave, at least `least`, and gets it to fill.
    """

    text: str
    style: str = ""
    keep: int = 0
    draw: Callable[[int], str] | None = None
    least: int = 0

    @property
    def width(self) -> int:
        return self.least if self.draw else columns(self.text)


Row = Sequence[Cell]
"""A line that fits: every cell has its final text."""


def fitted(cells: Sequence[Cell], width: int, ellipsis: str = "…") -> Row:
    """The cells that fit into `width` columns, and the elastic one drawn; the last that is left is cut."""
    left = list(cells)
    while len(left) > 1 and _width(left) > width:
        left.remove(min(left, key=lambda cell: cell.keep))
    spare = width - _width(left)
    if len(left) == 1 and spare < 0:
        return [Cell(cut(left[0].text, width, ellipsis), left[0].style)]
    return [Cell(cell.draw(cell.least + spare) if cell.draw else cell.text, cell.style, cell.keep) for cell in left]


def _width(cells: Sequence[Cell]) -> int:
    return sum(cell.width for cell in cells) + _GAP * (len(cells) - 1)


def columns(text: str) -> int:
    """Of a terminal: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int, ellipsis: str) -> str:
    """`text` in at most `width` columns, its end replaced."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - len(ellipsis):
        text = text[:-1]
    return (text + ellipsis)[: max(0, width)]


def _cut_start(text: str, width: int, ellipsis: str) -> str:
    """A path's end says more than its beginning."""
    while text and columns(text) > width - len(ellipsis):
        text = text[1:]
    return (ellipsis + text)[: max(0, width)]


def training_rows(facts: Facts, width: int, signs: Signs) -> list[Row]:
    """Three lines, a fourth once there are samples, a fifth when the run is about to stop."""
    rows = [_progress(facts, signs), _loss(facts, signs), _speed(facts)]
    if facts.samples is not None:
        rows.append(_samples(facts.samples, width, signs))
    if facts.stopping:
        rows.append([Cell(STOPPING, "bold yellow")])
    return [fitted(row, width, signs.ellipsis) for row in rows]


def _progress(facts: Facts, signs: Signs) -> Row:
    total = f"{facts.total:,}"
    left = _UNKNOWN if facts.seconds_left is None else time_left(facts.seconds_left)
    return [
        Cell(f"{facts.doing:<10}", "bold", keep=3),
        Cell("", "cyan", 2, lambda width: bar(facts.share, width, signs), least=6),
        Cell(f"step {facts.step:>{len(total)},}/{total}", keep=5),
        Cell(f"{100 * facts.share:3.0f}%", keep=1),
        Cell(f"{left:>8} left", keep=4),
    ]


def _loss(facts: Facts, signs: Signs) -> Row:
    loss = _UNKNOWN if facts.last is None else number(facts.loss, 4)
    rate = _UNKNOWN if facts.last is None else learning_rate(facts.last.learning_rate)

    def curve(width: int) -> str:
        return f"{sparkline(facts.losses, width, signs.marks):<{width}}"

    return [
        Cell(f"  loss {loss:>8}", keep=3),
        Cell("", "cyan", 2, curve, least=8),
        Cell(f"learning rate {rate:>7}", keep=1),
    ]


def _speed(facts: Facts) -> Row:
    images, steps = (_rate(value) for value in (facts.images_a_second, facts.steps_a_second))
    memory = _UNKNOWN if facts.last is None else f"{facts.last.memory_gib:.1f}"
    usable = "" if facts.usable_gib is None else f"/{facts.usable_gib:.1f}"
    norm = _UNKNOWN if facts.last is None else number(facts.last.grad_norm, 3)
    return [
        Cell(f"  images/s {images:>4}", keep=4),
        Cell(f"steps/s {steps:>5}", keep=1),
        Cell(f"memory {memory:>5}{usable} GiB", keep=3),
        Cell(f"grad norm {norm:>7}", keep=2),
    ]


def _rate(value: float) -> str:
    if not value:
        return _UNKNOWN
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}" if value >= 1 else f"{value:.2f}"


def _samples(path: str, width: int, signs: Signs) -> Row:
    label, path = "  samples ", plain_text(path)
    fits = columns(path) <= width - len(label)
    return [Cell(label + (path if fits else _cut_start(path, width - len(label), signs.ellipsis)))]


def meter_rows(meter: Meter, width: int, signs: Signs) -> list[Row]:
    """A piece of work: its title, a bar, its figures; below it what else is known."""
    title = cut(plain_text(meter.title), _TITLE, signs.ellipsis)
    figures, share = plain_text(", ".join(meter.figures())), meter.share
    cells = [Cell(title, "bold", keep=2), Cell(figures, keep=3)]
    if share is not None:
        cells.insert(1, Cell("", "cyan", 1, lambda width: bar(share, width, signs), least=6))
    rows: list[Row] = [cells]
    if meter.shown:
        rows.append([Cell("  " + plain_text(meter.shown_text()), "cyan")])
    return [fitted(row, width, signs.ellipsis) for row in rows]


def bar(share: float, width: int, signs: Signs) -> str:
    done = int(share * width)
    return signs.done * done + signs.rest * (width - done)
