"""A Source whose pictures are cells of a table: what a Hugging Face data set is once its files are on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune import files
from simpletune.data.sources import ImageFile, Listing, Reason, Rejected, Stamp
from simpletune.data.sources.hub.columns import ADDRESSES, Columns
from simpletune.data.sources.hub.names import numbered, row_of
from simpletune.data.sources.hub.row_filter import nothing_fits
from simpletune.data.sources.hub.shards import Shard
from simpletune.data.sources.reading import read_ends

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_END = 8


@dataclass(frozen=True)
class Part:
    """A file of rows: the split they belong to, the number of its first row in that, and how many it has.

    `identity` names the content. `changing` is for files that aren't the program's own: theirs is `file_identity`.
    """

    split: str
    path: str
    kind: str
    first: int
    count: int
    identity: str
    changing: bool = True

    @property
    def stop(self) -> int:
        return self.first + self.count


@dataclass(frozen=True)
class Taken:
    """Rows [start, stop) of a split that has `count`; its pictures' names begin with `folder`."""

    split: str
    folder: str
    start: int
    stop: int
    count: int


class Rows:
    """The pictures in the rows of some files; a Source. `home` is where what was found out about the files is kept.

    `named` is how the data set is called in a location. With `anywhere`, files of this machine that rows name in place
    of bytes are read too.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        taken: Sequence[Taken],
        columns: Columns,
        home: Path,
        named: str,
        anywhere: bool = False,
    ) -> None:
        self._parts, self._taken, self._columns, self._home = tuple(parts), tuple(taken), columns, home
        self._named, self._anywhere = named, anywhere
        self._opened = _Opened()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=_Opened())

    def fetch(self, reporter: Reporter) -> None:
        """Find out the pictures' sizes and kinds, if that wasn't done before: the whole table is read for it once."""
        parts = [part for part in self._wanted() if not self._index_path(part).exists()]
        if parts:
            with reporter.phase(f"looking through {self._named}", sum(part.count for part in parts), "row") as phase:
                for part in parts:
                    self._keep(part)
                    phase.advance(part.count)

    def list(self) -> Listing:
        """Every row taken that fits the filter. Raises SourceError when none does."""
        listed: list[ImageFile] = []
        rejected: list[tuple[str, Rejected]] = []
        for taken in self._taken:
            for name, part, row, size, path in self._rows(taken):
                found = self._listed(name, part, row, size, path)
                if isinstance(found, ImageFile):
                    listed.append(found)
                else:
                    rejected.append((name, found))
        listed.sort(key=lambda file: file.name)
        rejected.sort(key=lambda entry: entry[0])
        if self._columns.filter and not listed and not rejected:
            raise nothing_fits(self._columns.filter, self._named, self._seen())
        return Listing(tuple(listed), tuple(rejected), 0)

    def read(self, name: str) -> bytes:
        data, path = self._picture(name)
        return data.to_pybytes() if path is None else Path(path).read_bytes()

    def open(self, name: str) -> BinaryIO:
        data, path = self._picture(name)
        return io.BytesIO(memoryview(data)) if path is None else Path(path).open("rb")

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        data, path = self._picture(file.name)
        if path is not None:
            return read_ends(path, limit, file.size_bytes)
        whole = memoryview(data)
        return bytes(whole[:limit]), bytes(whole[-_END:])

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:  # noqa: ARG002 - a Source's method
        return None

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        part, row = self._found(file.name)
        shard = self._shard(part)
        found: list[str] = []
        for column in self._columns.captions:
            found += self._columns.values(column, shard.cell(row - part.first, column).as_py())
        return tuple(dict.fromkeys(found))

    def stamp(self, name: str) -> Stamp:
        part, row = self._found(name)
        index = self._index(part)
        size, path = index["size"][row - part.first].as_py(), index["path"][row - part.first].as_py()
        if size < 0:
            return _file_stamp(os.stat(path or ""))  # noqa: PTH116
        return self._stamp(replace(part, identity=file_identity(part.path)) if part.changing else part, row, size)

    def location(self, name: str) -> str:
        return f"{self._named}:{name}" if "/" in name else f"{self._named}:{self._taken[0].split}/{name}"

    def _rows(self, taken: Taken) -> Iterator[tuple[str, Part, int, int, str | None]]:
        """(name, part, row, size, path) of each row taken of a split that fits the filter."""
        for part in self._wanted(taken):
            index = self._index(part)
            start, stop = max(taken.start, part.first), min(taken.stop, part.stop)
            piece = index.slice(start - part.first, stop - start)
            cells = zip(*(piece[name].to_pylist() for name in ("size", "tail", "path")), strict=True)
            kept = self._kept(part)
            for row, (size, tail, path) in enumerate(cells, start):
                if kept is None or kept[row - part.first]:
                    yield numbered(row, taken.count, tail, taken.folder), part, row, size, path

    def _kept(self, part: Part) -> Sequence[bool] | None:
        """Whether each row of a file fits the filter; None without one."""
        if not self._columns.filter:
            return None
        names = [column for column, _ in self._columns.filter]
        cells = zip(*(self._shard(part).cells(name) for name in names), strict=True)
        return [self._columns.keeps(dict(zip(names, row, strict=True))) for row in cells]

    def _seen(self) -> dict[str, set[str]]:
        """The values that the filter's columns hold in the files that rows are taken of."""
        seen: dict[str, set[str]] = {column: set() for column, _ in self._columns.filter}
        for part in self._wanted():
            for column, values in seen.items():
                for cell in self._shard(part).cells(column):
                    values.update(self._columns.values(column, cell))
        return seen

    def _wanted(self, taken: Taken | None = None) -> Sequence[Part]:
        return [
            part
            for part in self._parts
            for one in ([taken] if taken else self._taken)
            if part.split == one.split and part.first < one.stop and one.start < part.stop
        ]

    def _listed(self, name: str, part: Part, row: int, size: int, path: str | None) -> ImageFile | Rejected:
        if size > 0:
            return ImageFile(name, size, self._stamp(part, row, size), may_have_text=False)
        if size == 0:
            return Rejected(Reason.ZERO_BYTES, "its row holds no bytes")
        if path is None:
            return Rejected(Reason.UNREADABLE, "its row holds no picture")
        if path.startswith(ADDRESSES):
            return Rejected(Reason.UNREADABLE, "its row holds only an address (URL), which isn't fetched")
        if not self._may_read(path):
            return Rejected(Reason.UNREADABLE, f"its row holds only a path, of a file that isn't part of it: {path}")
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            return Rejected(Reason.UNREADABLE, f"its row holds only a path: {error.strerror}: {path}")
        if not stat.S_ISREG(status.st_mode):
            return Rejected(Reason.NOT_A_FILE, f"its row holds only a path, of a pipe, socket or device: {path}")
        return ImageFile(name, status.st_size, _file_stamp(status), may_have_text=False)

    def _may_read(self, path: str) -> bool:
        return self._anywhere and os.path.isabs(path)  # noqa: PTH117

    def _stamp(self, part: Part, row: int, size: int) -> Stamp:
        """The picture's size, the file's times (0 for what never changes), and a hash of everything else."""
        changed, made = map(int, part.identity.split()[1:3]) if part.changing else (0, 0)
        what = f"{part.identity}\0{self._columns.image}\0{row}"
        digest = hashlib.sha256(what.encode("utf-8", "surrogateescape")).digest()
        return size, changed, made, int.from_bytes(digest[:7], "big")

    def _found(self, name: str) -> tuple[Part, int]:
        folder, row = row_of(name)
        for taken in self._taken:
            if taken.folder == folder:
                for part in self._parts:
                    if part.split == taken.split and part.first <= row < part.stop:
                        return part, row
        raise FileNotFoundError(2, "there is no such row", name)

    def _picture(self, name: str) -> tuple[Any, str | None]:
        """(buffer, None), or (None, path of a file)."""
        part, row = self._found(name)
        data, path = self._shard(part).picture(row - part.first, self._columns.image)
        if data is not None:
            return data, None
        if path is None or path.startswith(ADDRESSES) or not self._may_read(path):
            raise OSError(2, "its row holds no picture", name)
        return None, path

    def _shard(self, part: Part) -> Shard:
        return self._opened.shard(part)

    def _index_path(self, part: Part) -> Path:
        key = "\0".join((part.path, part.identity, self._columns.image))
        return self._home / "index" / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.arrow"

    def _index(self, part: Part) -> Any:
        return self._opened.index(part, lambda: self._load_index(part))

    def _keep(self, part: Part) -> None:
        """Write the index of a file down, unless that can't be: it is made again then whenever it is needed."""
        path = self._index_path(part)
        index = self._index(part)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_with(path, lambda temporary: _write(index, temporary))

    def _load_index(self, part: Part) -> Any:
        """The index of a file, from where it is kept, or made now."""
        import pyarrow

        path = self._index_path(part)
        with suppress(OSError, pyarrow.ArrowException):
            index = pyarrow.ipc.open_stream(path.read_bytes()).read_all()
            if index.num_rows == part.count and index.column_names == ["size", "tail", "path"]:
                return index
        return self._shard(part).index(self._columns.image)


class _Opened:
    """What is open in this process: a copy in another process, or a fork of this one, opens its own."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._shards: dict[str, Shard] = {}
        self._indexes: dict[str, Any] = {}

    def shard(self, part: Part) -> Shard:
        shard: Shard = self._kept(self._of_process()._shards, part.path, lambda: Shard(part.path, part.kind))
        return shard

    def index(self, part: Part, load: Any) -> Any:
        return self._kept(self._of_process()._indexes, part.path, load)

    def _of_process(self) -> _Opened:
        if self._process != os.getpid():
            self._begin()
        return self

    def _kept(self, kept: dict[str, Any], key: str, make: Any) -> Any:
        found = kept.get(key)
        if found is None:
            with self._lock:
                found = kept.get(key)
                if found is None:
                    found = kept[key] = make()
        return found


def file_identity(path: str) -> str:
    """What changes when a file does: its size, times and inode. Raises OSError."""
    return " ".join(map(str, _file_stamp(os.stat(path))))  # noqa: PTH116


def _file_stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _write(table: Any, path: Path) -> None:
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
