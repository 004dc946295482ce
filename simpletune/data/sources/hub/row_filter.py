"""Which rows of a data set are used: those that hold one of the values that `dataset_filter` names for a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from simpletune.config.suggest import close, did_you_mean
from simpletune.data.sources import SourceError, shown

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

Filter = tuple[tuple[str, tuple[str, ...]], ...]
"""Columns, each with the values that are wanted of it; () takes every row."""

KEY = "dataset_filter"
_MOST_NAMED = 8


def filter_of(image_set: ImageSet) -> Filter:
    """The filter of an entry: a row must fit every column, and fits one by any of its values."""
    asked = dict(image_set.dataset_filter or {})
    return tuple((column, (values,) if isinstance(values, str) else tuple(values)) for column, values in asked.items())


def check(
    asked: Filter, names: Sequence[str], texts: Sequence[str], labels: Mapping[str, Sequence[str]], data_set: str
) -> None:
    """Raise SourceError for a column that isn't among `names`, or not among `texts`, and for a value that is no label.

    Which values a column of free text has is not known before its rows are read.
    """
    for column, values in asked:
        if column not in names:
            message = f'"{KEY}": {data_set} has no column {shown(column)}{did_you_mean(close(column, names))}'
            raise SourceError(message, f"it can be {listed(texts or names)}", KEY)
        if column not in texts:
            message = f'"{KEY}": the column {shown(column)} of {data_set} holds neither text nor labels'
            raise SourceError(message, f"text or labels are in {listed(texts)}" if texts else "leave it out", KEY)
        for value in values:
            if column in labels and value not in labels[column]:
                raise _unknown(value, column, labels[column], data_set)


def nothing_fits(asked: Filter, data_set: str, seen: Mapping[str, Iterable[str]] | None = None) -> SourceError:
    """The error of a filter that no row fits; `seen` are the values that columns hold, where they are known."""
    told = " and ".join(f"{shown(column)} {listed(values, ' or ')}" for column, values in asked)
    for column, values in asked:
        there = sorted(set((seen or {}).get(column, ())))
        for value in values:
            if there and value not in there:
                return _unknown(value, column, there, data_set, "value")
    hint = "values are compared letter by letter, capitals and spaces too; all columns named must fit at once"
    return SourceError(f'"{KEY}": no row taken of {data_set} has {told}', hint, KEY)


def no_columns(data_set: str, streamable: bool) -> SourceError:
    """The error of a filter on pictures in folders, whose tables are read for captions only."""
    whole = 'load it with the datasets library, save it with `save_to_disk`, and set "dataset_name" to that folder'
    hint = f'set "streaming": true, or {whole}' if streamable else whole
    return SourceError(f'"{KEY}": {data_set} is pictures in folders, which have no columns to filter by', hint, KEY)


def _unknown(value: str, column: str, there: Sequence[str], data_set: str, kind: str = "label") -> SourceError:
    message = f'"{KEY}": {shown(value)} is no {kind} of the column {shown(column)} of {data_set}'
    return SourceError(
        f"{message}{did_you_mean(close(value, there))}", f"its {len(there)} {kind}s: {listed(there)}", KEY
    )


def listed(names: Iterable[str], between: str = ", ") -> str:
    """Names for a person; of many, the first."""
    every = list(names)
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return (between.join(shown(name) for name in every[:_MOST_NAMED]) or "nothing") + more
