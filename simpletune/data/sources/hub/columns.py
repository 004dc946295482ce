"""Which column of a Hugging Face data set holds the pictures, and which the captions.

A schema is pyarrow's. What the `datasets` library knows of a column beyond its type stands in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simpletune import outside
from simpletune.config.suggest import close, did_you_mean
from simpletune.data.captions.table_columns import CAPTION_COLUMNS
from simpletune.data.sources import SourceError, shown
from simpletune.data.sources.hub.row_filter import Filter, check

ADDRESSES = ("http://", "https://")
_MOST_NAMED = 20


@dataclass(frozen=True)
class Columns:
    """Columns of a data set: the one with pictures, those that captions are taken from, and all that hold text.

    `captions` is () unless captions come from the data set. `labels` are the names that a column's numbers stand for.
    `filter` says which rows are used.
    """

    image: str
    captions: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    filter: Filter = ()

    def values(self, column: str, cell: Any) -> tuple[str, ...]:
        """The captions in a cell: none, one, or those of a list."""
        names = dict(self.labels).get(column)
        if isinstance(cell, int) and names is not None:
            return (names[cell],) if 0 <= cell < len(names) else ()
        cells = cell if isinstance(cell, list | tuple) else (cell,)
        return tuple(text for text in cells if isinstance(text, str) and text.strip())

    def keeps(self, cells: Mapping[str, Any]) -> bool:
        """Whether a row with these cells is used."""
        return all(
            any(value in wanted for value in self.values(column, cells.get(column))) for column, wanted in self.filter
        )


def choose(
    schema: Any, image: str | None, captions: Sequence[str] | None, data_set: str, filter: Filter = ()
) -> Columns:
    """The columns to read; `image` None takes the only one with pictures, `captions` None the first with a known name.

    `captions` () takes none. Raises SourceError, naming the columns there are, also for a filter that can't be met.
    """
    features = _features(schema)
    labels = {name: tuple(map(str, told["names"])) for name, told in features.items() if _is_label(told)}
    texts = tuple(field.name for field in schema if _holds_text(field.type) or field.name in labels)
    picture = _image(schema, features, image, data_set)
    taken = caption_columns(schema.names, texts, captions, data_set)
    check(filter, schema.names, texts, labels, data_set)
    return Columns(picture, taken, texts, tuple(labels.items()), filter)


def _image(schema: Any, features: dict[str, Any], wanted: str | None, data_set: str) -> str:
    pictures: list[str] = [name for name in schema.names if _kind(features.get(name)) == "Image"]
    pictures = pictures or [field.name for field in schema if _is_image_struct(field.type)]
    holding = pictures or [field.name for field in schema if _is_bytes(field.type)]
    if wanted is None:
        if len(holding) == 1:
            return holding[0]
        if holding:
            message = f"{data_set} has several columns with pictures: {_list(holding)}"
            raise SourceError(message, 'name one of them with "image_column"')
        message = f"{data_set} has no column with pictures; there is {_list(schema.names)}"
        hint = "a data set whose column holds only addresses (URLs) isn't fetched: download its pictures into a folder"
        raise SourceError(message, hint)
    if wanted not in schema.names:
        message = f"{data_set} has no column {shown(wanted)}{did_you_mean(close(wanted, schema.names))}"
        raise SourceError(message, f'"image_column" can be {_list(holding or schema.names)}')
    kind = schema.field(wanted).type
    if wanted in holding or _is_image_struct(kind) or _is_bytes(kind):
        return wanted
    what = "text; pictures given as addresses (URLs) aren't fetched" if _holds_text(kind) else f"{kind}, no pictures"
    there = f"; {_list(holding)} holds pictures" if holding else ""
    raise SourceError(f'"image_column": the column {shown(wanted)} of {data_set} holds {what}{there}', _hint(holding))


def _hint(holding: Sequence[str]) -> str:
    return f"set it to {_list(holding)}" if holding else "download the pictures into a folder and use that"


def caption_columns(
    names: Sequence[str], texts: Sequence[str], wanted: Sequence[str] | None, data_set: str
) -> tuple[str, ...]:
    """The columns to take captions from, of all `names` of which `texts` hold text. Raises SourceError."""
    if wanted is None:
        folded = {name.lower(): name for name in reversed(texts)}
        found = next((folded[name] for name in CAPTION_COLUMNS if name in folded), None)
        if found is None:
            message = f"{data_set} has no column named {', '.join(CAPTION_COLUMNS[:-1])} or {CAPTION_COLUMNS[-1]}"
            there = f"text is in {_list(texts)}" if texts else f"there is {_list(names)}, none of it text"
            raise SourceError(f"{message}; {there}", 'name the column with the captions in "caption_column"')
        return (found,)
    for name in wanted:
        if name not in names:
            message = f"{data_set} has no column {shown(name)}{did_you_mean(close(name, names))}"
            raise SourceError(message, f'"caption_column" can be {_list(texts or names)}')
        if name not in texts:
            message = f'"caption_column": the column {shown(name)} of {data_set} holds no text'
            raise SourceError(message, f"text is in {_list(texts)}" if texts else "use another caption_strategy")
    return tuple(wanted)


def _features(schema: Any) -> dict[str, Any]:
    """What the `datasets` library wrote of the columns; {} where it wrote nothing that can be read."""
    try:
        found = outside.parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _is_label(feature: Any) -> bool:
    return _kind(feature) == "ClassLabel" and isinstance(feature.get("names"), list)


def _is_bytes(kind: Any) -> bool:
    return str(kind) in {"binary", "large_binary", "binary_view"}


def _is_image_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<") and any(
        field.name == "bytes" and _is_bytes(field.type) for field in (kind.field(i) for i in range(kind.num_fields))
    )


def _holds_text(kind: Any) -> bool:
    """Whether a column's type is text or a list of texts."""
    said = str(kind)
    return "string" in said and "struct" not in said and "map<" not in said


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (", ".join(shown(name) for name in names[:_MOST_NAMED]) or "nothing") + more
