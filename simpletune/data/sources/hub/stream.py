"""A streamed data set: one pass writes its pictures and captions into a folder, which is read from then on.

Pictures are files with the bytes that the data set has. What else is known of each row stands in rows.jsonl; while
the pass goes on, in pieces of it, each with the place in the stream that it ends at. So a pass that was stopped, by
whatever, goes on behind the last whole piece.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune import files
from simpletune.data.sources.hub import errors as hub_errors
from simpletune.data.sources.hub.fetch import ask, begin
from simpletune.data.sources.hub.names import HEAD, numbered, tail
from simpletune.data.sources.hub.prepare import belongs, picture_of, read_path
from simpletune.data.sources.hub.stream_rows import Stream, StreamedRow, is_passing, open_stream
from simpletune.data.sources.hub.wanted import Wanted
from simpletune.machine.hub_access import host_of

if TYPE_CHECKING:
    from simpletune.progress import Phase, Reporter

STREAMED = "stream"
ROWS, PICTURES = "rows.jsonl", "pictures"

_PIECE_ROWS, _PIECE_SECONDS = 64, 2.0
_THREADS = 8
_TRIES = 4
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Reached:
    """How far a pass is: the next row, its place in the stream, and the pictures written; `ended` at the last row."""

    row: int
    place: Any
    pictures: int
    ended: bool = False


def stream(wanted: Wanted, reporter: Reporter) -> None:
    """Fetch what isn't here yet of a streamed data set. Raises SourceError."""
    marker = wanted.marker()
    try:
        commit = ask(wanted, None if marker is None else str(marker["commit"])).commit
        source = open_stream(wanted, commit)
        begin(wanted, reporter)
        (wanted.home / PICTURES).mkdir(exist_ok=True)
        reached = _reached(wanted, marker)
        if marker is None:
            _mark(wanted, source, commit, reached, whole=False)
        _Pass(wanted, source, reporter).go_on(reached, commit)
    except Exception as error:  # the library and the hub's client raise nearly anything
        raise hub_errors.told(error, wanted.data_set, wanted.revision, host_of(wanted.endpoint)) from error


def is_enough(marker: dict[str, Any], wanted: Wanted) -> bool:
    """Whether a finished pass took all rows, or as many pictures as are wanted."""
    if not marker.get("whole"):
        return False
    return bool(marker["ended"]) or (wanted.limit is not None and marker["pictures"] >= wanted.limit)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """What a file of rows says of each. Raises OSError."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _pieces(home: Path) -> list[Path]:
    return sorted(home.glob("rows-*.jsonl"))


def _reached(wanted: Wanted, marker: dict[str, Any] | None) -> Reached:
    """Where the last pass stopped: at the end of its last piece, or where its marker says."""
    last = Reached(0, None, 0) if marker is None else Reached(marker["next"], marker["place"], marker["pictures"])
    for piece in _pieces(wanted.home):
        reached = json.loads(piece.read_text(encoding="utf-8").splitlines()[-1])["reached"]
        last = Reached(reached["next"], reached["place"], reached["pictures"])
    return last


def _mark(wanted: Wanted, source: Stream, commit: str, reached: Reached, whole: bool) -> None:
    wanted.mark(
        kind=STREAMED,
        commit=commit,
        count=source.count,
        names=list(source.names),
        texts=list(source.columns.texts),
        next=reached.row,
        place=reached.place,
        pictures=reached.pictures,
        ended=reached.ended,
        whole=whole,
    )


class _Pass:
    """A pass through the rows that are wanted, from where the last one stopped.

    Rows that a filter leaves out are passed over, and count for how far it is: what is left of them is their number.
    """

    def __init__(self, wanted: Wanted, source: Stream, reporter: Reporter) -> None:
        self._wanted, self._source, self._reporter = wanted, source, reporter
        self._start, self._stop = wanted.spans[0].rows(source.count)

    def go_on(self, reached: Reached, commit: str) -> None:
        reached = Reached(max(reached.row, self._start), reached.place, reached.pictures)
        total, done = self._total(), reached.row - self._start
        unit = "row" if self._wanted.filter else "picture"
        with self._reporter.phase(f"fetching {self._wanted.data_set}", total, unit, done=done) as phase:
            with ThreadPoolExecutor(_THREADS, "fetch") as pool:
                reached = self._all_pieces(reached, phase, pool)
        self._merge()
        _mark(self._wanted, self._source, commit, reached, whole=True)
        for piece in _pieces(self._wanted.home):
            files.remove(piece)

    def _total(self) -> int | None:
        """How many rows will be passed, where that is known: how many it takes to find `limit` that fit isn't."""
        if self._wanted.filter:
            return None if self._stop is None else self._stop - self._start
        known = [count for count in (self._stop, self._wanted.limit) if count is not None]
        return min(known) - (self._start if self._stop == min(known) else 0) if known else None

    def _all_pieces(self, reached: Reached, phase: Phase, pool: ThreadPoolExecutor) -> Reached:
        """Piece after piece to the end; a connection that breaks is tried again from the last whole one."""
        failures = 0
        while not self._is_enough(reached):
            try:
                for piece, ended in self._pieces_from(reached):
                    reached = self._keep(piece, reached, ended, pool)
                    phase.advance(len(piece))
                    failures = 0
                    if reached.ended or self._is_enough(reached):
                        return reached
            except Exception as error:
                failures += 1
                if failures >= _TRIES or not is_passing(error):
                    raise
                time.sleep(_PAUSE_SECONDS * 2**failures)
        return Reached(reached.row, reached.place, reached.pictures, self._is_last(reached.row))

    def _is_enough(self, reached: Reached) -> bool:
        limit = self._wanted.limit
        return self._is_last(reached.row) or (limit is not None and reached.pictures >= limit)

    def _is_last(self, row: int) -> bool:
        return self._stop is not None and row >= self._stop

    def _pieces_from(self, reached: Reached) -> Iterator[tuple[list[StreamedRow], bool]]:
        """Rows as they come, in pieces small enough that little is lost; with the last whether it is the last."""
        piece: list[StreamedRow] = []
        began, taken = time.monotonic(), 0
        most = self._most(reached.pictures)
        for row in self._source.rows(reached.row, reached.place):
            piece.append(row)
            taken += row.cells is not None
            if taken >= most or time.monotonic() - began >= _PIECE_SECONDS or self._is_last(row.number + 1):
                yield piece, self._is_last(row.number + 1)
                piece, began, taken = [], time.monotonic(), 0
        yield piece, True

    def _most(self, pictures: int) -> int:
        limit = self._wanted.limit
        return _PIECE_ROWS if limit is None else max(1, min(_PIECE_ROWS, limit - pictures))

    def _keep(self, piece: list[StreamedRow], reached: Reached, ended: bool, pool: ThreadPoolExecutor) -> Reached:
        if not piece:
            return Reached(reached.row, reached.place, reached.pictures, ended)
        lines = list(pool.map(self._store, (row for row in piece if row.cells is not None)))
        pictures = reached.pictures + sum("rejected" not in line for line in lines)
        now = Reached(piece[-1].number + 1, piece[-1].place, pictures, ended)
        told = {"reached": {"next": now.row, "place": now.place, "pictures": pictures}}
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*lines, told])
        path = self._wanted.home / f"rows-{piece[0].number:012d}.jsonl"
        files.write_bytes(path, text.encode("utf-8", "surrogatepass"))
        return now

    def _store(self, row: StreamedRow) -> dict[str, Any]:
        """Write a row's picture; what rows.jsonl says of the row."""
        columns, count, cells = self._source.columns, self._source.count, row.cells or {}
        data, path = picture_of(cells[columns.image])
        reason = None
        if data is None:
            data, reason = self._fetched(path)
        name = numbered(row.number, count or 1, tail((data or b"")[:HEAD], path))
        if not data:
            return {"row": row.number, "name": name, "rejected": reason or "its row holds no bytes"}
        target = self._wanted.home / PICTURES / name
        if not (target.is_file() and target.stat().st_size == len(data)):
            files.write_bytes(target, data)
        texts = {column: columns.values(column, cells.get(column)) for column in columns.texts}
        return {"row": row.number, "name": name, "texts": {column: told for column, told in texts.items() if told}}

    def _fetched(self, path: str | None) -> tuple[bytes | None, str | None]:
        """The bytes of a picture that its row only names, or None and why not."""
        inside = f"hf://datasets/{self._wanted.data_set}@"
        if path is None:
            return None, "its row holds no picture"
        if not belongs(path, inside):
            return None, "its row holds only an address (URL) or a path, which isn't fetched"
        for attempt in range(1, _TRIES + 1):
            try:
                return read_path(path, inside, self._wanted.endpoint), None
            except FileNotFoundError:
                return None, "its row names a file that the data set doesn't have"
            except Exception as error:
                if attempt == _TRIES or not is_passing(error):
                    raise
                time.sleep(_PAUSE_SECONDS * 2**attempt)
        raise AssertionError

    def _merge(self) -> None:
        """Write rows.jsonl from what it was and the pieces; a row counts once."""
        whole, last = self._wanted.home / ROWS, -1
        lines = []
        for path in [*([whole] if whole.exists() else []), *_pieces(self._wanted.home)]:
            for row in rows_of(path):
                if row.get("row", -1) > last:
                    last = row["row"]
                    lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        files.write_bytes(whole, "".join(lines).encode("utf-8", "surrogatepass"))
