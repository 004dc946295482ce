"""Pictures in an S3 bucket, Amazon's or another server's, read over the network by s3fs and never written.

Credentials come from where all AWS programs have them: the environment, ~/.aws, or the machine's role. Without any,
requests go unsigned, which is enough for buckets that are open to everyone. What is tried again: s3_client.py.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from simpletune.data.sources import (
    TEXT_EXTENSION,
    ImageFile,
    Listing,
    Reason,
    Rejected,
    SourceError,
    Stamp,
    fingerprint,
    text_name,
)
from simpletune.data.sources.listing import NAMED_LIKE_PICTURES, is_hidden, refusal, split_name
from simpletune.data.sources.ranges import open_ranges
from simpletune.data.sources.s3_client import Answer, Client, Patience
from simpletune.data.sources.s3_errors import Where

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_SCHEME = "s3://"
_FIRST_LOOK = 1 << 16
_BUFFER_BYTES = 1 << 18
_END = 8


@dataclass(frozen=True)
class Bucket:
    """The objects below `url`, s3://bucket/folder; a Source. `endpoint` None is the environment's, or Amazon's."""

    url: str
    endpoint: str | None = None
    patience: Patience = field(default_factory=Patience)
    _connection: _Connection = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_connection", _Connection(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url, self.endpoint, self.patience)

    def fetch(self, reporter: Reporter) -> None:
        """Nothing is fetched; says when requests will go unsigned."""
        if not self._client.connect():
            reporter.note(f"no AWS credentials were found: {self._client.where} is read as a bucket open to everyone")

    def list(self) -> Listing:
        """Raises SourceError; also when there is nothing at all below the url."""
        found = _Found(self.prefix)
        for page in self._client.pages(self.prefix):
            for item in page:
                found.add(item)
        if not found.count:
            message = f"{self._client.where}: there is nothing below that"
            raise SourceError(message, "check the spelling of s3_url; capital letters count")
        return found.listing()

    def read(self, name: str) -> bytes:
        return self._client.get(self.prefix + name).data

    def open(self, name: str) -> BinaryIO:
        key = self.prefix + name
        begun = self._connection.take_look(key) or self._client.get(key, stop=_FIRST_LOOK)

        def read_at(offset: int, count: int) -> bytes:
            if offset < len(begun.data):
                return begun.data[offset : offset + count]
            return self._client.get(key, offset, offset + count, begun.etag).data

        return open_ranges(read_at, begun.size_bytes, _BUFFER_BYTES)

    def read_ends(self, file: ImageFile, limit: int) -> tuple[bytes, bytes]:
        """One request; a second for the end where the first doesn't reach it."""
        key = self.prefix + file.name
        begun = self._client.get(key, stop=limit)
        if len(begun.data) >= begun.size_bytes:
            return begun.data, begun.data[-_END:]
        end = self._client.get(key, begun.size_bytes - _END, begun.size_bytes, begun.etag).data
        self._connection.note_look(key, begun)
        return begun.data, end

    def read_text(self, file: ImageFile, limit: int) -> bytes | None:
        if not file.may_have_text:
            return None
        try:
            return self._client.get(self.prefix + text_name(file.name), stop=limit).data
        except FileNotFoundError:
            return None

    def captions(self, file: ImageFile) -> tuple[str, ...]:  # noqa: ARG002 - a Source's method
        return ()

    def stamp(self, name: str) -> Stamp:
        answer = self._client.head(self.prefix + name)
        return _stamp(answer | {"Size": answer["ContentLength"]})

    def location(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    @property
    def bucket(self) -> str:
        return self.url.removeprefix(_SCHEME).partition("/")[0]

    @property
    def prefix(self) -> str:
        """What the keys of all its objects begin with: "" or a folder with its slash."""
        folder = self.url.removeprefix(_SCHEME).partition("/")[2].rstrip("/")
        return f"{folder}/" if folder else ""

    @property
    def _client(self) -> Client:
        return self._connection.client


class _Connection:
    """What a Bucket has in this process only."""

    def __init__(self, bucket: Bucket) -> None:
        self.client = Client(Where(bucket.url, bucket.endpoint, False), bucket.bucket, bucket.patience)
        self._looks = threading.local()

    def note_look(self, key: str, begun: Answer) -> None:
        """Keep the beginning of an object in case this thread opens it next, as a look at a header may."""
        self._looks.last = key, begun

    def take_look(self, key: str) -> Answer | None:
        """The beginning of an object if it is the last that this thread looked at."""
        last: tuple[str, Answer] | None = getattr(self._looks, "last", None)
        self._looks.last = None
        return last[1] if last is not None and last[0] == key else None


class _Found:
    """A listing as it grows."""

    def __init__(self, prefix: str) -> None:
        self.count = 0
        self._prefix = prefix
        self._pictures: list[tuple[str, Stamp]] = []
        self._rejected: list[tuple[str, Rejected]] = []
        self._texts: dict[str, int] = {}
        self._others = 0

    def add(self, item: dict[str, Any]) -> None:
        """An object as list_objects_v2 tells of it. Markers of folders, keys ending in a slash, are none."""
        self.count += 1
        name: str = item["Key"][len(self._prefix) :]
        if not name or name.endswith("/") or is_hidden(name):
            return
        _, extension = split_name(name)
        if extension not in NAMED_LIKE_PICTURES:
            self._others += 1
            if extension == TEXT_EXTENSION:
                self._texts[name] = fingerprint(_stamp(item))
            return
        refused = refusal(extension, item["Size"])
        if "//" in f"/{name}":
            refused = Rejected(Reason.NOT_A_FILE, "its key has two slashes in a row, as no file's name has; rename it")
        if refused is not None:
            self._rejected.append((name, refused))
        else:
            self._pictures.append((name, _stamp(item)))

    def listing(self) -> Listing:
        files = sorted(self._file(name, stamp) for name, stamp in self._pictures)
        return Listing(tuple(files), tuple(sorted(self._rejected, key=lambda entry: entry[0])), self._others)

    def _file(self, name: str, stamp: Stamp) -> ImageFile:
        text = self._texts.get(text_name(name))
        return ImageFile(name, stamp[0], stamp, text is not None, text)


def _stamp(item: dict[str, Any]) -> Stamp:
    """Size, time of change in whole seconds (some servers tell more only in a listing), and a number for the ETag.

    60 bits of it, so that no number here can be taken for a time of this day in nanoseconds.
    """
    etag = hashlib.blake2b(str(item.get("ETag", "")).strip('"').encode(), digest_size=8).digest()
    return int(item["Size"]), int(item["LastModified"].timestamp()), int.from_bytes(etag, "big") >> 4, 0
