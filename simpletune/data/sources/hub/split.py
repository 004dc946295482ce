"""Which rows a `dataset_split` takes: train, train[:500], train[10%:20%], or several joined by a plus sign.

The notation is that of the `datasets` library, percentages rounded as it does: to the nearest row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from simpletune.config.suggest import close, did_you_mean
from simpletune.data.sources import SourceError, shown

_BOUND = r"-?\d+%?"
_PIECE = re.compile(rf"(?P<name>\w[\w.-]*)(?:\[(?P<start>{_BOUND})?:(?P<stop>{_BOUND})?\])?")
_EXAMPLE = "write for instance train, train[:500], train[10%:20%] or train+test"


class Span(NamedTuple):
    """Rows of one split as they are asked for; a bound is None, "500", "-100" or "20%"."""

    split: str
    start: str | None
    stop: str | None

    def rows(self, count: int | None) -> tuple[int, int | None]:
        """First row and the one behind the last, of a split of `count` rows.

        With a count that isn't known (None) the end may be None. Raises SourceError where that doesn't say enough.
        """
        start, stop = _row(self.start, count, 0), _row(self.stop, count, count)
        if count is not None:
            start, stop = min(max(start or 0, 0), count), min(max(count if stop is None else stop, 0), count)
        if stop is not None and start is not None and stop <= start and count != 0:
            raise SourceError(f'"dataset_split": {self} takes no rows', _EXAMPLE)
        return start or 0, stop

    def __str__(self) -> str:
        if self.start is None and self.stop is None:
            return self.split
        return f"{self.split}[{self.start or ''}:{self.stop or ''}]"


def parse(text: str) -> tuple[Span, ...]:
    """The spans of a `dataset_split`. Raises SourceError for what isn't one, or takes from a split twice."""
    spans = []
    for piece in text.split("+"):
        match = _PIECE.fullmatch(piece.strip())
        if match is None:
            raise SourceError(f'"dataset_split": {shown(text)} can\'t be read', _EXAMPLE)
        bounds = [bound for bound in (match["start"], match["stop"]) if bound is not None]
        if len({bound.endswith("%") for bound in bounds}) > 1:
            raise SourceError(f'"dataset_split": {shown(text)} has one bound in rows and one in per cent', _EXAMPLE)
        spans.append(Span(match["name"], match["start"], match["stop"]))
    names = [span.split for span in spans]
    if len(set(names)) < len(names):
        raise SourceError(f'"dataset_split": {shown(text)} names a split twice', "use one data set for each part")
    return tuple(spans)


def check_there(spans: Sequence[Span], splits: Sequence[str] | Mapping[str, object], data_set: str) -> None:
    """Raise SourceError, naming the splits there are, when one of `spans` isn't among them."""
    there = list(splits)
    for span in spans:
        if span.split not in there:
            message = f"{data_set} has no split {shown(span.split)}{did_you_mean(close(span.split, there))}"
            raise SourceError(message, f'"dataset_split" can be {shown(", ".join(there))}')


def _row(bound: str | None, count: int | None, otherwise: int | None) -> int | None:
    if bound is None:
        return otherwise
    number, is_share = int(bound.rstrip("%")), bound.endswith("%")
    if number >= 0 and not is_share:
        return number
    if count is None:
        message = f'"dataset_split": {bound} needs the number of rows, which the data set doesn\'t say'
        raise SourceError(message, "count rows from the start, such as train[:500]")
    row = round(number * count / 100) if is_share else number
    return row if number >= 0 else count + row
