"""Which samples each optimizer step sees: a pure function of (seed, epoch, samples), so a run can resume at any step.

An epoch shows every sample 1 + repeats times. Its order:

1. Each bucket's samples are shuffled and cut into batches; the last batch of a bucket is smaller, never dropped.
2. The batches of all buckets are shuffled together.
3. Every `accumulation * world_size` batches in a row make an optimizer step, dealt to the processes in turn: batch i of
   the step goes to rank i % world_size. So two processes with accumulation 1 see what one sees with accumulation 2.
   A step may hold batches of several buckets; an epoch's last step holds what is left, and no step spans two epochs.

In that last step some ranks may be a batch short. They get an empty one, so that all ranks make the same number of
forward and backward passes, and every sample still counts exactly once.

A step's loss is the mean over its samples, wherever they are: a micro-batch's mean loss has the weight
(its samples) / (the step's samples on all ranks), 0 for an empty one. A framework that averages gradients over ranks
needs these weights times world_size. The number of micro-batches, and so of steps, is the same in every epoch.

"Shuffled" is sorted by SHA-256 of the seed, the epoch and the name: independent of the files' order, of the number of
workers and of Python's generators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from simpletune.data.sources import name_bytes

Bucket = tuple[int, int]
"""(width, height) in pixels."""


class Placed(Protocol):
    """What the plan needs to know of a sample; `scan.Sample` is one."""

    @property
    def set_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def bucket(self) -> Bucket: ...


ChoiceT = TypeVar("ChoiceT")
PlacedT = TypeVar("PlacedT", bound=Placed)


@dataclass(frozen=True, order=True)
class SampleRef:
    """One showing of a sample in an epoch; `repeat` counts from 0."""

    set_id: str
    name: str
    repeat: int = 0

    @property
    def id(self) -> tuple[str, str]:
        return self.set_id, self.name


MicroBatchRefs = tuple[SampleRef, ...]


@dataclass(frozen=True)
class PlannedStep:
    """One optimizer step. `ranks[r]` are the micro-batches of rank r, as many for each; an empty one is ()."""

    step: int
    epoch: int
    ranks: tuple[tuple[MicroBatchRefs, ...], ...]

    @property
    def sample_count(self) -> int:
        """Samples on all ranks."""
        return sum(len(batch) for batches in self.ranks for batch in batches)

    def weight(self, batch: MicroBatchRefs) -> float:
        """What a micro-batch's mean loss counts for in the step's: the weights of all ranks sum to 1."""
        return len(batch) / self.sample_count


def split_eval(
    samples: Iterable[PlacedT], count: int, seed: int, location: Callable[[PlacedT], str]
) -> tuple[tuple[PlacedT, ...], tuple[PlacedT, ...]]:
    """(training samples, `count` held out), a choice by seed alone that doesn't depend on the samples' order.

    A file that is in several data sets is held out of all of them, so that what is validated on was never trained on.
    """
    ordered = sorted(samples, key=lambda sample: _hash("eval", seed, sample.set_id, sample.name))
    held_out = ordered[:count]
    files = {location(sample) for sample in held_out}
    training = sorted((sample for sample in ordered if not files or location(sample) not in files), key=_by_name)
    return tuple(training), tuple(sorted(held_out, key=_by_name))


def bucketed(samples: Iterable[Placed], repeats: Mapping[str, int]) -> dict[Bucket, tuple[SampleRef, ...]]:
    """Every showing of an epoch by bucket, buckets in order of size; `repeats` are a data set's extra showings."""
    buckets: dict[Bucket, list[SampleRef]] = {}
    for sample in samples:
        refs = (SampleRef(sample.set_id, sample.name, repeat) for repeat in range(1 + repeats.get(sample.set_id, 0)))
        buckets.setdefault(sample.bucket, []).extend(refs)
    return {bucket: tuple(sorted(buckets[bucket])) for bucket in sorted(buckets)}


def sample_id(ref: SampleRef) -> int:
    """A 63-bit number that stands for a showing in the trainer's random streams, the same in every run and epoch."""
    return int.from_bytes(_hash("sample", 0, ref.set_id, ref.name, ref.repeat)[:8], "big") >> 1


def drawn(choices: Sequence[ChoiceT], stream: str, seed: int, epoch: int, ref: SampleRef) -> ChoiceT:
    """The one of a sample's captions or placements that a showing has: a function of its arguments alone."""
    if len(choices) == 1:
        return choices[0]
    number = int.from_bytes(_hash(stream, seed, epoch, ref.set_id, ref.name, ref.repeat)[:8], "big")
    return choices[number % len(choices)]


@dataclass
class Plan:
    """The order of a whole training run. `buckets` as `bucketed` gives them; all counts are at least 1."""

    buckets: Mapping[Bucket, Sequence[SampleRef]]
    seed: int
    batch_size: int
    accumulation: int = 1
    world_size: int = 1
    _kept: tuple[int, list[MicroBatchRefs]] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not any(self.buckets.values()):
            raise ValueError("a plan needs at least one sample")

    @property
    def samples_per_epoch(self) -> int:
        """Showings an epoch, repeats counted."""
        return sum(len(refs) for refs in self.buckets.values())

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches an epoch, on all ranks."""
        return sum(_ceil(len(refs), self.batch_size) for refs in self.buckets.values())

    @property
    def steps_per_epoch(self) -> int:
        return _ceil(self.batches_per_epoch, self.accumulation * self.world_size)

    def total_steps(self, max_train_steps: int | None, num_train_epochs: int | None) -> int:
        """Optimizer steps of a run given one of the two settings."""
        if max_train_steps is not None:
            return max_train_steps
        return self.steps_per_epoch * (num_train_epochs or 1)

    def step(self, global_step: int) -> PlannedStep:
        """Optimizer step `global_step`, counted from 0 over the whole run; costs at most one epoch's ordering."""
        epoch, position = divmod(global_step, self.steps_per_epoch)
        size = self.accumulation * self.world_size
        batches = self.epoch(epoch)[position * size : (position + 1) * size]
        rounds = _ceil(len(batches), self.world_size)
        batches += [()] * (rounds * self.world_size - len(batches))
        return PlannedStep(
            global_step, epoch, tuple(tuple(batches[rank :: self.world_size]) for rank in range(self.world_size))
        )

    def epoch(self, epoch: int) -> list[MicroBatchRefs]:
        """All micro-batches of an epoch, in order; the last epoch asked for is remembered."""
        kept = self._kept
        if kept is None or kept[0] != epoch:
            kept = epoch, self._order(epoch)
            self._kept = kept
        return kept[1]

    def _order(self, epoch: int) -> list[MicroBatchRefs]:
        batches: list[tuple[bytes, MicroBatchRefs]] = []
        for bucket, refs in self.buckets.items():
            mixed = sorted(refs, key=lambda ref: _hash("sample", self.seed, epoch, ref.set_id, ref.name, ref.repeat))
            for start in range(0, len(mixed), self.batch_size):
                place = _hash("batch", self.seed, epoch, bucket[0], bucket[1], start)
                batches.append((place, tuple(mixed[start : start + self.batch_size])))
        return [batch for _, batch in sorted(batches)]


def _by_name(sample: Placed) -> tuple[str, str]:
    return sample.set_id, sample.name


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _hash(*parts: str | int) -> bytes:
    return hashlib.sha256(b"\0".join(name_bytes(str(part)) for part in parts)).digest()
