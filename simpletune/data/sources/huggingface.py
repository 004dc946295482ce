"""Data sets of the Hugging Face hub, or in one of its layouts on this machine, as a Source.

One of the hub is fetched first: into Arrow files (`hub_fetch.py`), or, streamed, into a folder of pictures
(`hub_stream.py`). What is on this machine is read where it is (`hub_local.py`).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune.config.rules import exists, looks_like_hub_id
from simpletune.data.sources import ImageFile, Listing, NotHere, Source, SourceError, Stamp, shown
from simpletune.data.sources.hub import errors as hub_errors
from simpletune.data.sources.hub import fetch as hub_fetch
from simpletune.data.sources.hub import stream as hub_stream
from simpletune.data.sources.hub.columns import caption_columns, choose
from simpletune.data.sources.hub.library import is_offline, need_library, need_pyarrow
from simpletune.data.sources.hub.local import open_local, take
from simpletune.data.sources.hub.pictures import PictureFolder
from simpletune.data.sources.hub.row_filter import no_columns, nothing_fits
from simpletune.data.sources.hub.rows import Part, Rows
from simpletune.data.sources.hub.shards import Shard
from simpletune.data.sources.hub.streamed import Streamed
from simpletune.data.sources.hub.wanted import Wanted, alone, wanted

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.progress import Reporter


class HuggingFace:
    """The data set that an entry names. `endpoint` is a mirror's address, which HF_ENDPOINT wins over.

    What it is made of is found out when it is first asked for, and goes along into other processes.
    """

    def __init__(self, image_set: ImageSet, endpoint: str | None = None) -> None:
        self._image_set, self._endpoint = image_set, endpoint
        self._lock = threading.Lock()
        self._found: Source | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def fetch(self, reporter: Reporter) -> None:
        """Download what isn't on this machine yet; see the module's other parts for how it goes on after a stop."""
        self._found = None
        if self._local() is None:
            asked = self._wanted()
            commit = _fetched_commit(asked)
            if commit is None:
                _fetch(asked, reporter)
            else:
                hub_fetch.tell_if_newer(asked, commit, reporter)
        self._source().fetch(reporter)

    def list(self) -> Listing:
        return self._source().list()

    def read(self, name: str) -> bytes:
        return self._source().read(name)

    def open(self, name: str) -> BinaryIO:
        return self._source().open(name)

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        return self._source().read_ends(file, limit)

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        return self._source().read_text(file, limit)

    def captions(self, file: ImageFile) -> tuple[str, ...]:
        return self._source().captions(file)

    def stamp(self, name: str) -> Stamp:
        return self._source().stamp(name)

    def location(self, name: str) -> str:
        return self._source().location(name)

    def _source(self) -> Source:
        found = self._found
        if found is None:
            with self._lock:
                if self._found is None:
                    self._found = self._opened()
                found = self._found
        return found

    def _local(self) -> Path | None:
        """The path of a data set that is on this machine; None for one of the hub. Raises SourceError for neither."""
        named = str(self._image_set.dataset_name)
        if exists(Path(named)):
            return Path(named)
        if looks_like_hub_id(named):
            return None
        message = f"{shown(named)} is neither a folder or file here nor a name on the hub"
        raise SourceError(message, "a name on the hub is OWNER/NAME")

    def _wanted(self) -> Wanted:
        return wanted(self._image_set, self._endpoint)

    def _opened(self) -> Source:
        path = self._local()
        return open_local(path, self._image_set) if path is not None else _open_fetched(self._wanted(), self._image_set)


def _fetched_commit(asked: Wanted) -> str | None:
    """The commit of what is wholly on this machine; None for what isn't."""
    marker = asked.marker()
    is_here = hub_stream.is_enough if asked.streaming else hub_fetch.is_whole
    return None if marker is None or not is_here(marker, asked) else str(marker["commit"])


def _fetch(asked: Wanted, reporter: Reporter) -> None:
    """Fetch, unless another process does: then that is waited for, and finished if it doesn't come to its end."""
    need_library()
    if is_offline():
        raise hub_errors.offline(asked.data_set)
    with alone(asked.home, reporter):
        if _fetched_commit(asked) is None:
            (hub_stream.stream if asked.streaming else hub_fetch.fetch)(asked, reporter)


def _open_fetched(asked: Wanted, image_set: ImageSet) -> Source:
    """What was fetched of a data set of the hub, without asking the hub. Raises SourceError when it isn't here."""
    marker = asked.marker()
    if marker is None:
        raise _not_here(asked, "isn't on this machine yet")
    if marker["kind"] == hub_stream.STREAMED:
        if not hub_stream.is_enough(marker, asked):
            raise _not_here(asked, f"isn't fully on this machine yet: {marker['pictures']} pictures are")
        if asked.filter and not (asked.home / hub_stream.ROWS).stat().st_size:
            raise nothing_fits(asked.filter, asked.data_set)
        return Streamed(asked.home, caption_columns(marker["names"], marker["texts"], asked.captions, asked.data_set))
    if marker["kind"] == hub_fetch.BEGUN:
        raise _not_here(asked, f"({marker['bytes'] / 10**9:.2g} GB) isn't fully on this machine yet")
    if not hub_fetch.is_whole(marker, asked):
        raise _not_here(asked, "was fetched, but its files are gone from this machine")
    if marker["kind"] == hub_fetch.FOLDER:
        if asked.filter:
            raise no_columns(asked.data_set, streamable=True)
        return PictureFolder(marker["folder"], asked.spans, image_set)
    return _open_rows(asked, marker)


def _open_rows(asked: Wanted, marker: dict[str, Any]) -> Rows:
    need_pyarrow()
    commit, configuration = marker["commit"], marker["config_taken"]
    parts, counts = [], {span.split: 0 for span in asked.spans}
    for part in marker["parts"]:
        identity = f"{asked.data_set} {commit} {configuration} {part['split']}"
        path = str(asked.home / part["path"])
        parts.append(Part(part["split"], path, part["kind"], part["first"], part["count"], identity, changing=False))
        counts[part["split"]] += part["count"]
    schema = Shard(parts[0].path, parts[0].kind).schema
    columns = choose(schema, asked.image, asked.captions, asked.data_set, asked.filter)
    taken = [take(span, counts[span.split], len(asked.spans) > 1) for span in asked.spans]
    return Rows(parts, taken, columns, asked.home, f"{asked.data_set}@{commit[:12]}:{configuration}")


def _not_here(asked: Wanted, what: str) -> NotHere:
    message = f"the data set {shown(asked.data_set)} {what}"
    return NotHere(message, "`simpletune train` fetches it, and so does `simpletune data`")
