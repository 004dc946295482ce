"""The arithmetic of an epoch's order: every sample a row of numbers, sorted by hashes. No name is touched but once.

A sample's 64-bit id is a SHA-256 of its names, taken once; each epoch's sort keys are made from the ids by splitmix64's
finalizer (Steele, Lea and Flood 2014; constants by Stafford, variant 13), in wrapping uint64 arithmetic that is the
same everywhere. Half a million samples take 10 MB and are put in order in half a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simpletune.data.sources import name_bytes

if TYPE_CHECKING:
    from simpletune.data.plan import Bucket, Placed, Schedule

Column = np.ndarray[Any, Any]

_REPEAT_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


@dataclass(frozen=True)
class Epoch:
    """An epoch's showings and how they are cut into batches.

    sample and repeat: int32, one entry a showing, sorted by bucket; begin and end: where each batch lies in them, in
    the order of training.
    """

    sample: Column
    repeat: Column
    begin: Column
    end: Column

    def batch(self, number: int) -> list[tuple[int, int]]:
        """(the sample's position in the table's list, repeat) of each showing in a batch."""
        part = slice(int(self.begin[number]), int(self.end[number]))
        return list(zip(self.sample[part].tolist(), self.repeat[part].tolist(), strict=True))


class Table:
    """All samples of a plan as columns; rows lie together by group, which is a data set's samples of one bucket.

    Nothing of it depends on the order in which the samples were given.
    """

    def __init__(self, samples: Sequence[Placed], schedules: Mapping[str, Schedule], seed: int) -> None:
        self.sets = tuple(sorted({sample.set_id for sample in samples}))
        self.buckets: tuple[Bucket, ...] = tuple(sorted({sample.bucket for sample in samples}))
        self._seed = seed
        ids = _column((_number(sample.set_id, sample.name) for sample in samples), np.uint64, samples)
        codes = {set_id: code for code, set_id in enumerate(self.sets)}
        set_code = _column((codes[sample.set_id] for sample in samples), np.int32, samples)
        places = {bucket: code for code, bucket in enumerate(self.buckets)}
        bucket_code = _column((places[sample.bucket] for sample in samples), np.int32, samples)
        order = np.lexsort((_mix(ids ^ _key("window", seed)), set_code, bucket_code))
        self._sample = order.astype(np.int32)
        self._id = ids[order]
        set_code, bucket_code = set_code[order], bucket_code[order]
        first = np.flatnonzero(np.diff(set_code, prepend=-1) | np.diff(bucket_code, prepend=-1))
        size = np.diff(first, append=len(order))
        self._set, self._bucket, self._size = set_code[first], bucket_code[first], size
        self._row_group: Column = np.repeat(np.arange(len(first), dtype=np.int32), size)
        self._row_place = (np.arange(len(order)) - np.repeat(first, size)).astype(np.int32)
        schedule = [schedules[self.sets[code]] for code in self._set]
        self._shown = _column((_shown(a.probability, int(n)) for a, n in zip(schedule, size, strict=True)), np.int64)
        self._times = _column((1 + a.repeats for a in schedule), np.int64)
        self._bucket_id = _column((_number("bucket", *map(str, bucket)) for bucket in self.buckets), np.uint64)

    def showings(self, sets: Collection[str]) -> Column:
        """int64, one entry a bucket: how many showings an epoch of these data sets has."""
        counts = np.bincount(self._bucket, self._shown * self._times * self._active(sets), len(self.buckets))
        whole: Column = counts.astype(np.int64)
        return whole

    def epoch(self, number: int, sets: Collection[str], batch_size: int) -> Epoch:
        """The order of an epoch of these data sets."""
        row, repeat = self._chosen(number, sets)
        key = _mix(_mix(self._id[row] + repeat.astype(np.uint64) * np.uint64(_REPEAT_STRIDE)) ^ self._key(number))
        sorted_ = np.lexsort((key, self._bucket[self._row_group[row]]))
        begin, end = self._batches(number, self.showings(sets), batch_size)
        return Epoch(self._sample[row[sorted_]], repeat[sorted_].astype(np.int32), begin, end)

    def _chosen(self, epoch: int, sets: Collection[str]) -> tuple[Column, Column]:
        """(row, repeat) of each showing: of each group the window that this epoch shows, which moves on by its size."""
        begin = epoch * self._shown % self._size
        inside = (self._row_place - begin[self._row_group]) % self._size[self._row_group]
        row = np.flatnonzero((inside < self._shown[self._row_group]) & self._active(sets)[self._row_group])
        times = self._times[self._row_group[row]]
        before = np.cumsum(times) - times
        repeated: Column = np.repeat(row, times)
        return repeated, np.arange(len(repeated)) - np.repeat(before, times)

    def _batches(self, epoch: int, showings: Column, batch_size: int) -> tuple[Column, Column]:
        """Cut each bucket's showings, which lie in a row, into batches, and mix the batches of all buckets."""
        count: Column = -(-showings // batch_size)
        bucket: Column = np.repeat(np.arange(len(showings)), count)
        index = np.arange(len(bucket)) - np.repeat(np.cumsum(count) - count, count)
        stop = np.cumsum(showings)
        begin = (stop - showings)[bucket] + index * batch_size
        end = np.minimum(begin + batch_size, stop[bucket])
        place = self._bucket_id[bucket] + index.astype(np.uint64) * np.uint64(_REPEAT_STRIDE)
        order = np.argsort(_mix(_mix(place) ^ self._key(epoch)), kind="stable")
        return begin[order], end[order]

    def _active(self, sets: Collection[str]) -> Column:
        """bool, one entry a group."""
        active: Column = np.array([set_id in sets for set_id in self.sets], dtype=bool)[self._set]
        return active

    def _key(self, epoch: int) -> np.uint64:
        return _key("epoch", self._seed, epoch)


def _shown(probability: float, size: int) -> int:
    """How many of a group's samples an epoch shows."""
    return min(size, max(1, round(probability * size)))


def _column(values: Any, dtype: Any, sized: Sequence[Any] | None = None) -> Column:
    column: Column = np.fromiter(values, dtype, count=-1 if sized is None else len(sized))
    return column


def _number(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(b"\0".join(map(name_bytes, parts))).digest()[:8], "big")


def _key(*parts: str | int) -> np.uint64:
    return np.uint64(_number(*map(str, parts)))


def _mix(x: Column) -> Column:
    """The finalizer on uint64, a bijection whose output bits each depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Column = x ^ (x >> np.uint64(31))
    return mixed
