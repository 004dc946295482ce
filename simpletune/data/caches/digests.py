"""The SHA-256 of pictures' bytes, from the indexes where they know it. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from simpletune.data.scan import Sample
from simpletune.data.sources import Source, SourceError, Stamp
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.data.index import Index
    from simpletune.progress import Reporter

_THREADS = 8


def digests(
    samples: Sequence[Sample], sources: Mapping[str, Source], indexes: Mapping[str, Index], reporter: Reporter
) -> Iterator[tuple[Sample, str]]:
    """The hex SHA-256 of each sample's bytes; they are read where the index doesn't know it, and it is noted there.

    Those that can't be read are passed over. Raises DataError when a source as a whole can't be read.
    """
    unknown = []
    for sample in samples:
        index = indexes.get(sample.set_id)
        digest = index.digest(sample.name, sample.stamp) if index is not None else None
        if digest is None:
            unknown.append(sample)
        else:
            yield sample, digest
    if unknown:
        yield from _read(unknown, sources, indexes, reporter)


def _read(
    samples: Sequence[Sample], sources: Mapping[str, Source], indexes: Mapping[str, Index], reporter: Reporter
) -> Iterator[tuple[Sample, str]]:
    pool = ThreadPoolExecutor(_THREADS, "digests")
    try:
        with reporter.phase("Reading pictures", len(samples), "image") as phase:
            answers = pool.map(lambda sample: _digest(sample, sources), samples)
            for sample, found in zip(samples, answers, strict=True):
                phase.advance()
                if found is None:
                    continue
                digest, stamp = found
                index = indexes.get(sample.set_id)
                if index is not None and stamp == sample.stamp:
                    index.note_digest(sample.name, stamp, digest)
                yield sample, digest
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(sample: Sample, sources: Mapping[str, Source]) -> tuple[str, Stamp] | None:
    source = sources[sample.set_id]
    try:
        data = source.read(sample.name)
        return hashlib.sha256(data).hexdigest(), source.stamp(sample.name)
    except SourceError as error:
        raise DataError(f'data set "{sample.set_id}": {error.message}', error.hint) from error
    except OSError:
        return None
