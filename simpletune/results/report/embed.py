"""Pictures for a page: made smaller, as JPEG inside the page, and together no larger than a page can be."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from simpletune.data.header import SIDEWAYS, open_picture, orientation
from simpletune.data.report.thumbnails import small_jpeg
from simpletune.pages import data_uri

_QUALITY, _QUALITY_OF_SMALL = 80, 92
_SMALL = 256  # pixels: such pictures are shown enlarged
_LEAST_EDGE = 48
_PROBED = 12
"""Pictures that are tried first: making all of them twice would take twice as long."""

_REDUCING_GAP = 2.0
"""Whole pixels are averaged first while that leaves this many times the final size."""

_THREADS = min(4, os.cpu_count() or 1)

Key = tuple[Path, int, int, int]


@dataclass(frozen=True)
class Embedded:
    """A picture in a page: its address, and the size it has there in pixels."""

    uri: str
    width: int
    height: int


class Embedder:
    """Makes pictures small, each once: a page that is written again and again makes only what is new."""

    def __init__(self) -> None:
        self._made: dict[Key, Embedded | None] = {}
        self._used: set[Key] = set()

    def forget_unused(self) -> None:
        """Let go of what no page has used since the last call: while a run is watched its pictures become more, and
        each of them smaller, so that all that were made once would fill the memory."""
        self._made = {key: made for key, made in self._made.items() if key in self._used}
        self._used = set()

    def embed(self, paths: Iterable[Path], edge: int, budget: int) -> dict[Path, Embedded]:
        """The pictures whose files can be read, their longer edge at most `edge` pixels; smaller when they would have
        more than `budget` bytes in the page together."""
        wanted = list(dict.fromkeys(paths))
        some = wanted[:: max(1, len(wanted) // _PROBED)]
        edge = self._fitting(some, edge, budget * len(some) // max(1, len(wanted)))
        return self._all(wanted, self._fitting(wanted, edge, budget))

    def _fitting(self, paths: Sequence[Path], edge: int, budget: int) -> int:
        """The largest edge, not above `edge`, with which the pictures have at most `budget` bytes."""
        while True:
            taken = sum(len(made.uri) for made in self._all(paths, edge).values())
            if taken <= budget or edge <= _LEAST_EDGE:
                return edge
            edge = max(_LEAST_EDGE, int(edge * min(0.9, 0.95 * (budget / taken) ** 0.5)))

    def _all(self, paths: Sequence[Path], edge: int) -> dict[Path, Embedded]:
        keys = {path: key for path in paths if (key := _key(path, edge)) is not None}
        self._used.update(keys.values())
        missing = [key for key in keys.values() if key not in self._made]
        with ThreadPoolExecutor(_THREADS) as pool:  # decoding and resizing leave Python's lock
            self._made.update(zip(missing, pool.map(_small, missing), strict=True))
        made = {path: self._made[key] for path, key in keys.items()}
        return {path: one for path, one in made.items() if one is not None}


def _key(path: Path, edge: int) -> Key | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return path, status.st_mtime_ns, status.st_size, edge


def _small(key: Key) -> Embedded | None:
    path, _, _, edge = key
    try:
        data = path.read_bytes()
        with open_picture(io.BytesIO(data)) as picture:
            turn = orientation(picture)
            width, height = reversed(picture.size) if turn in SIDEWAYS else picture.size
            scale = min(1.0, edge / max(width, height))
            size = max(1, round(width * scale)), max(1, round(height * scale))
            quality = _QUALITY_OF_SMALL if max(width, height) <= _SMALL else _QUALITY
            if picture.format == "PNG" and picture.mode == "RGB" and turn == 1 and "icc_profile" not in picture.info:
                made: bytes | None = _plain_jpeg(picture, size, quality)
            else:
                made = small_jpeg(path.name, data, (width, height), edge, quality)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return None if made is None else Embedded(data_uri(made), *size)


def _plain_jpeg(picture: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    """A sample as the trainer writes it needs nothing of what other people's pictures need: half the time."""
    written = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP).save(written, "JPEG", quality=quality)
    return written.getvalue()
