"""The rows of a data set on the hub as they come over the network, from any row on.

Of Parquet files only the columns that are kept are transferred, a group of rows at a time, and the groups before the
first wanted row not at all. Other layouts are read by the `datasets` library, which remembers places of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from simpletune.data.sources import SourceError
from simpletune.data.sources.hub.columns import Columns, choose
from simpletune.data.sources.hub.library import PARQUET, Layout, layout, library, schema_of
from simpletune.data.sources.hub.prepare import streamed_columns, undecoded
from simpletune.data.sources.hub.split import check_there
from simpletune.data.sources.hub.wanted import Wanted
from simpletune.machine.hub_access import token_for


class StreamedRow(NamedTuple):
    """A row: its number in the split, its cells by column, and the place in the stream behind it (JSON).

    Of a row that the filter leaves out there are no cells (None).
    """

    number: int
    cells: dict[str, Any] | None
    place: Any


@dataclass(frozen=True)
class Stream:
    """A split to read. `count` is its number of rows, None where nothing says it; `names` are all its columns."""

    wanted: Wanted
    split: str
    found: Layout
    columns: Columns
    names: tuple[str, ...]
    count: int | None
    opened: Any

    def rows(self, first: int, place: Any) -> Iterator[StreamedRow]:
        """The rows from `first` on; `place` is that of the row before it, None at the start."""
        if self.found.kind == PARQUET:
            return self._parquet_rows(first, place or {"file": 0, "before": 0})
        return self._library_rows(first, place or {"row": 0, "state": None})

    def _parquet_rows(self, first: int, place: Any) -> Iterator[StreamedRow]:
        from pyarrow import parquet

        system, before = self.opened, place["before"]
        for number, address in enumerate(self.found.files[self.split]):
            if number < place["file"]:
                continue
            with (
                system.open(address, "rb", cache_type="none") as remote,
                parquet.ParquetFile(remote, pre_buffer=True) as file,
            ):
                for row, cells in self._group_rows(file, before, first):
                    yield StreamedRow(row, cells, {"file": number, "before": before})
                before += file.metadata.num_rows

    def _group_rows(self, file: Any, before: int, first: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(number, cells) of a file's rows from `first` on, where `before` rows are in the files before it.

        Of a group without a row that fits the filter no pictures are transferred.
        """
        names = [self.columns.image, *(name for name in self.columns.texts if name != self.columns.image)]
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if before + count > first:
                skipped = max(0, first - before)
                kept = self._kept(file, group)[skipped:]
                if any(kept):
                    rows = file.read_row_group(group, columns=names).slice(skipped)
                    batches = rows.to_batches(max_chunksize=1)
                    cells = (batch.to_pylist()[0] if fits else None for batch, fits in zip(batches, kept, strict=True))
                    yield from enumerate(cells, before + skipped)
                else:
                    yield from ((row, None) for row in range(before + skipped, before + count))
            before += count

    def _kept(self, file: Any, group: int) -> list[bool]:
        """Whether each row of a group fits the filter."""
        names = [column for column, _ in self.columns.filter]
        if not names:
            return [True] * file.metadata.row_group(group).num_rows
        return [self.columns.keeps(cells) for cells in file.read_row_group(group, columns=names).to_pylist()]

    def _library_rows(self, first: int, place: Any) -> Iterator[StreamedRow]:
        with library(self.wanted.endpoint):
            rows = undecoded(self.opened)
            if place["state"] is not None:
                rows.load_state_dict(place["state"])
            for number, cells in enumerate(rows, place["row"]):
                if number >= first:
                    kept = cells if self.columns.keeps(cells) else None
                    yield StreamedRow(number, kept, {"row": number + 1, "state": rows.state_dict()})


def open_stream(wanted: Wanted, commit: str) -> Stream:
    """The split of a data set at a commit.

    Raises SourceError for what it lacks, and what the library and the hub's client raise.
    """
    found = layout(wanted.data_set, wanted.config, commit, wanted.endpoint)
    check_there(wanted.spans, found.files, wanted.data_set)
    if len(wanted.spans) > 1:
        raise SourceError('"dataset_split": one split at a time can be streamed', "use a data set for each split")
    split = wanted.spans[0].split
    if found.kind == PARQUET:
        return _open_parquet(wanted, found, split)
    with library(wanted.endpoint):
        rows = found.builder.as_streaming_dataset(split=split)
        if rows.features is None:
            rows = rows._resolve_features()
        columns, _ = streamed_columns(rows, wanted)
    return Stream(wanted, split, found, columns, tuple(rows.features), found.rows.get(split), rows)


def _open_parquet(wanted: Wanted, found: Layout, split: str) -> Stream:
    import huggingface_hub

    system = huggingface_hub.HfFileSystem(endpoint=wanted.endpoint, token=token_for(wanted.endpoint))
    schema = schema_of(found, split, wanted.endpoint)
    columns = choose(schema, wanted.image, wanted.captions, wanted.data_set, wanted.filter)
    return Stream(wanted, split, found, columns, tuple(schema.names), found.rows.get(split), system)


def is_passing(error: BaseException) -> bool:
    """Whether an error is one of those that networks have now and then, and a further try may not."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500 or status in {408, 429}
    broken = type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore"))
    return broken or isinstance(error, ConnectionError | TimeoutError)
