"""What a row of a caption table is, and which columns are read of those it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from simpletune.config.suggest import close, did_you_mean
from simpletune.data.sources import SourceError, shown

FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")

_SHOWN_COLUMNS = 12
_SHOWN_LENGTH = 40


class TableError(SourceError):
    """A caption table can't be used."""

    def __init__(self, message: str, hint: str, key: str = "metadata_path") -> None:
        super().__init__(message, hint, key)


@dataclass(frozen=True)
class Wanted:
    """Names of the columns to read. None takes the first of the documented names that is there; () takes none."""

    file_name: str | None
    captions: tuple[str, ...] | None
    size: tuple[str, str] | None


class Row(NamedTuple):
    """A row's cells as they are in the file: text, numbers, lists or None. `size` is (width, height) or None."""

    number: int
    file_name: Any
    captions: Sequence[Any]
    size: tuple[Any, Any] | None


class Wrong(NamedTuple):
    """A row that can't be used, and why."""

    number: int
    message: str


class Chosen(NamedTuple):
    """Places of the wanted columns among those there are."""

    file_name: int
    captions: tuple[int, ...]
    size: tuple[int, int] | None


def choose(columns: Sequence[str], candidates: Sequence[str], wanted: Wanted, name: str) -> Chosen:
    """Places of the wanted columns; without a name the first known one among `candidates`. Raises TableError."""

    def named(column: str, key: str) -> int:
        if column in columns:
            return columns.index(column)
        message = f"{name} has no column {_quoted(column)}{did_you_mean(close(column, columns))}"
        raise TableError(message, _there(columns), key)

    def found(known: Iterable[str], key: str) -> int:
        folded = {column.lower(): column for column in reversed(candidates)}
        column = next((folded[one] for one in known if one in folded), None)
        if column is None:
            raise TableError(f"{name} has no column named {_any(known)}", f'{_there(columns)}; set "{key}"', key)
        return columns.index(column)

    key = "filename_column"
    file_name = found(FILE_COLUMNS, key) if wanted.file_name is None else named(wanted.file_name, key)
    key = "caption_column"
    if wanted.captions is None:
        captions: tuple[int, ...] = (found(CAPTION_COLUMNS, key),)
    else:
        captions = tuple(named(column, key) for column in wanted.captions)
    if wanted.size is None:
        return Chosen(file_name, captions, None)
    return Chosen(file_name, captions, (named(wanted.size[0], "width_column"), named(wanted.size[1], "height_column")))


def cells_of(cells: Sequence[Any], chosen: Chosen) -> tuple[Any, list[Any], tuple[Any, Any] | None]:
    size = None if chosen.size is None else (cells[chosen.size[0]], cells[chosen.size[1]])
    return cells[chosen.file_name], [cells[place] for place in chosen.captions], size


def lacks(column: str | None, known: Sequence[str], there: Sequence[str]) -> str:
    return f"no {_quoted(column) if column else _any(known)} in it; {_there(there)}"


def _any(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _there(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return f"there is {', '.join(map(_quoted, columns[:_SHOWN_COLUMNS])) or 'nothing'}{more}"


def _quoted(column: str) -> str:
    text = shown(column)
    return f'"{text}"' if len(text) <= _SHOWN_LENGTH else f'"{text[:_SHOWN_LENGTH]}..."'
