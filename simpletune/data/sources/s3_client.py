"""Requests to an S3 server: a connection for each process, answers in time or tried again, errors in words.

Tried again, each time after twice the wait: connections that can't be made, break or stay silent, answers that end
early or don't fit their checksum, and a server that says it is busy or failed (429, 5xx, SlowDown). Nothing else is.
The libraries' own retries are off, so that this is all there is.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from simpletune.data.sources import SourceError
from simpletune.data.sources.s3_errors import NO_SUCH_RANGE, Where, code_of, of_bucket, of_picture, passes

_T = TypeVar("_T")
_CONNECTIONS = 32
_FAILURES_IN_A_ROW = 16
"""So many pictures failing one after the other, each tried several times, is a server that is gone."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds, and how often it is asked."""

    connect: float = 10.0
    silence: float = 20.0
    tries: int = 4
    first_wait: float = 0.5
    least_rate: float = 20_000.0  # bytes a second: an answer may take `silence` and its size at this rate

    def limit(self, size_bytes: int) -> float:
        """How long an answer of this size may take in all."""
        return self.connect + self.silence + size_bytes / self.least_rate


class Answer(NamedTuple):
    """Some bytes of an object, its whole size and its ETag (which differs when the content does)."""

    data: bytes
    size_bytes: int
    etag: str


class Client:
    """The connection to one server, made when first used. A process that was forked or spawned makes its own."""

    def __init__(self, where: Where, bucket: str, patience: Patience) -> None:
        self._asked, self._bucket, self._patience = where, bucket, patience
        self._lock = threading.Lock()
        self._process = 0
        self._system: Any = None
        self._unsigned = False
        self._failures = 0

    @property
    def where(self) -> Where:
        """With the server's address if it isn't Amazon's."""
        return replace(self._asked, endpoint=self._asked.endpoint or _environment_endpoint(), unsigned=self._unsigned)

    def connect(self) -> bool:
        """Find credentials; whether there are any. Raises SourceError when they are damaged, or s3fs is missing."""
        self._connected()
        return not self._unsigned

    def pages(self, prefix: str) -> Iterator[list[dict[str, Any]]]:
        """Everything whose key begins with `prefix`, up to 1000 objects at a time, as list_objects_v2 tells it.

        Raises SourceError.
        """
        more: dict[str, str] = {}
        while True:
            page = self._ask_bucket("list_objects_v2", Prefix=prefix, **more)
            yield page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def get(self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> Answer:
        """The bytes from `start` up to `stop`, as far as there are any; with an `etag`, only of that content.

        Raises OSError: FileNotFoundError, PermissionError, SourceError when the whole bucket fails, or another.
        """
        wanted: dict[str, str] = {"IfMatch": etag} if etag else {}
        if start or stop is not None:
            wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"

        async def ask(server: Any) -> Answer:
            try:
                answer = await server.get_object(Bucket=self._bucket, Key=key, **wanted)
            except Exception as error:
                if not start and code_of(error) in NO_SUCH_RANGE:
                    return Answer(b"", 0, "")  # an empty object has no first byte
                raise
            limit = self._patience.limit(int(answer.get("ContentLength", 0)))
            async with answer["Body"] as body:
                data = await asyncio.wait_for(body.read(), limit)
            total = str(answer.get("ContentRange", "")).rpartition("/")[2]
            return Answer(data, int(total) if total.isdigit() else len(data), str(answer.get("ETag", "")))

        return self._ask_picture(ask)

    def head(self, key: str) -> dict[str, Any]:
        """An object's size, LastModified and ETag. Raises OSError as `get` does."""

        async def ask(server: Any) -> dict[str, Any]:
            answer: dict[str, Any] = await server.head_object(Bucket=self._bucket, Key=key)
            return answer

        return self._ask_picture(ask)

    def _ask_bucket(self, method: str, **arguments: str) -> dict[str, Any]:
        async def ask(server: Any) -> dict[str, Any]:
            asked = getattr(server, method)(Bucket=self._bucket, **arguments)
            answer: dict[str, Any] = await asyncio.wait_for(asked, self._patience.limit(0))
            return answer

        system = self._connected()
        try:
            return _wait(system, self._patiently(system, ask))
        except Exception as error:  # botocore, aiohttp and asyncio raise errors of their own
            raise of_bucket(error, self.where, self._patience.tries) from error

    def _ask_picture(self, ask: Callable[[Any], Awaitable[_T]]) -> _T:
        if self._failures >= _FAILURES_IN_A_ROW:
            raise _gave_up(self.where)
        system = self._connected()
        try:
            answer = _wait(system, self._patiently(system, ask))
        except Exception as error:  # as above
            self._failures = self._failures + 1 if passes(error) else 0
            raise of_picture(error, self.where, self._patience.tries) from error
        self._failures = 0
        return answer

    async def _patiently(self, system: Any, ask: Callable[[Any], Awaitable[_T]]) -> _T:
        for tried in range(1, self._patience.tries + 1):
            try:
                return await ask(await system.set_session())
            except Exception as error:
                if not passes(error) or tried == self._patience.tries:
                    raise
                await asyncio.sleep(self._patience.first_wait * 2 ** (tried - 1))
        raise AssertionError("at least one try")

    def _connected(self) -> Any:
        with self._lock:
            if self._system is None or self._process != os.getpid():
                try:
                    self._system, self._unsigned = self._open()
                except SourceError:
                    raise
                except Exception as error:  # botocore's, and ValueError for an address that is none
                    raise of_bucket(error, self.where, self._patience.tries) from error
                self._process = os.getpid()
            return self._system

    def _open(self) -> tuple[Any, bool]:
        """The file system of s3fs, which brings an event loop in a thread of its own; and whether requests go unsigned.

        Without any credentials they do, as a bucket may be open to everyone.
        """
        s3fs = _s3fs()
        config = {
            "connect_timeout": self._patience.connect,
            "read_timeout": self._patience.silence,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": _CONNECTIONS,
        }
        options = {"endpoint_url": self._asked.endpoint, "config_kwargs": config, "skip_instance_cache": True}
        system = s3fs.S3FileSystem(**options)
        system.connect()
        if _wait(system, system.session.get_credentials()) is not None:
            return system, False
        unsigned = s3fs.S3FileSystem(anon=True, session=system.session, **options)
        unsigned.connect()
        return unsigned, True


def _s3fs() -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise SourceError(
            "reading from S3 needs s3fs, which isn't installed", "pip install 'simpletune[s3]'"
        ) from error
    return s3fs


def _environment_endpoint() -> str | None:
    """What botocore takes from the environment (the configuration files may name one too)."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _gave_up(where: Where) -> SourceError:
    return SourceError(f"{where}: the server has stopped answering", "check the network, and run it again")


def _wait(system: Any, work: Awaitable[_T]) -> _T:
    """The result of work in the file system's event loop, from whatever thread this is."""
    from fsspec.asyn import sync

    async def done() -> list[_T | Exception]:
        try:
            return [await work]
        except Exception as error:  # handed over as it is: fsspec makes its own of a TimeoutError
            return [error]

    [result] = sync(system.loop, done)
    if isinstance(result, Exception):
        raise result
    return result  # type: ignore[no-any-return]
