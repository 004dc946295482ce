"""Which samples each optimizer step sees: a pure function of (seed, epoch, samples), so a run can resume at any step.

An epoch shows every sample 1 + repeats times. Its order:

1. Each bucket's showings are shuffled and cut into batches; the last batch of a bucket is smaller, never dropped.
2. The batches of all buckets are shuffled together.
3. Every `accumulation * world_size` batches in a row make an optimizer step, dealt to the processes in turn: batch i of
   the step goes to rank i % world_size. So two processes with accumulation 1 see what one sees with accumulation 2.
   A step may hold batches of several buckets; an epoch's last step holds what is left, and no step spans two epochs.

In that last step some ranks may be a batch short. They get an empty one, so that all ranks make the same number of
forward and backward passes, and every sample still counts exactly once.

A data set's `probability` p below 1 shows a part of it an epoch: of its n samples in a bucket round(p n), at least one
(so a set spread thinly over many buckets shows more than p of itself). They are a window that moves on through a fixed
permutation from epoch to epoch, so that after any number of epochs every sample of the bucket was shown equally often,
to within one. `repeats` repeat what is shown.

`start_step` and `end_step` cut the run into stretches, within which the data sets in use are always the same. Epochs
are counted on through all of them; one that a stretch's end cuts short isn't made up for, and no step spans two
stretches. The number of micro-batches, and so of steps, is the same in every whole epoch of a stretch.

A step's loss is the mean over its samples, wherever they are: a micro-batch's mean loss has the weight
(its samples) / (the step's samples on all ranks), 0 for an empty one. A framework that averages gradients over ranks
needs these weights times world_size.

"Shuffled" is sorted by a hash of the seed, the epoch and the name (order.py): independent of the files' order, of the
number of workers and of all generators.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from simpletune.data.sources import name_bytes

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.order import Epoch, Table

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


@dataclass(frozen=True)
class Schedule:
    """How often and when a data set is shown: `repeats` extra times an epoch, a share `probability` of it an epoch,
    in the steps from start_step up to end_step (excluded; None for the run's end)."""

    repeats: int = 0
    probability: float = 1.0
    start_step: int = 0
    end_step: int | None = None

    def covers(self, step: int) -> bool:
        return self.start_step <= step and (self.end_step is None or step < self.end_step)


def schedule_of(image_set: ImageSet) -> Schedule:
    return Schedule(image_set.repeats, image_set.probability, image_set.start_step, image_set.end_step)


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


@dataclass(frozen=True)
class Stretch:
    """Steps from `start` up to `end` (excluded; None for the run's end) in which the same data sets are in use.

    `epoch` is the number of its first. The counts are those of a whole epoch, all 0 where no data set is in use.
    """

    start: int
    end: int | None
    sets: tuple[str, ...]
    epoch: int
    samples_per_epoch: int
    batches_per_epoch: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int | None:
        """How many epochs begin in it; None for no end of them."""
        if not self.steps_per_epoch:
            return 0
        return None if self.end is None else _ceil(self.end - self.start, self.steps_per_epoch)


def split_eval(
    samples: Iterable[PlacedT],
    eval_set_ids: Collection[str],
    count: int,
    seed: int,
    location: Callable[[PlacedT], str],
) -> tuple[tuple[PlacedT, ...], tuple[PlacedT, ...]]:
    """(training samples, held out): all of the eval data sets, and `count` of the others, chosen by seed alone.

    A file (`location`) that is held out is held out of every data set it is in, so that what is validated on was never
    trained on. The samples' order has no say.
    """
    ordered = sorted(samples, key=_by_name)
    evaluated = [sample for sample in ordered if sample.set_id in eval_set_ids]
    files = {location(sample) for sample in evaluated}
    training = _elsewhere([sample for sample in ordered if sample.set_id not in eval_set_ids], files, location)
    by_seed = sorted(training, key=lambda sample: _hash("eval", seed, sample.set_id, sample.name)) if count else []
    chosen = by_seed[:count]
    training = _elsewhere(training, {location(sample) for sample in chosen}, location)
    return tuple(training), tuple(sorted([*evaluated, *chosen], key=_by_name))


def sample_id(ref: SampleRef) -> int:
    """A 63-bit number that stands for a showing in the trainer's random streams, the same in every run and epoch."""
    return int.from_bytes(_hash("sample", 0, ref.set_id, ref.name, ref.repeat)[:8], "big") >> 1


def drawn(choices: Sequence[ChoiceT], stream: str, seed: int, epoch: int, ref: SampleRef) -> ChoiceT:
    """The one of a sample's captions or placements that a showing has: a function of its arguments alone."""
    if len(choices) == 1:
        return choices[0]
    number = int.from_bytes(_hash(stream, seed, epoch, ref.set_id, ref.name, ref.repeat)[:8], "big")
    return choices[number % len(choices)]


class Plan:
    """The order of a whole training run; `make_plan` makes one.

    `buckets` are the showings of an epoch with all data sets, by bucket in order of size. Counts an epoch are those of
    the first stretch that has a data set.
    """

    def __init__(
        self,
        samples: Sequence[Placed],
        table: Table,
        schedules: Mapping[str, Schedule],
        seed: int,
        batch_size: int,
        accumulation: int,
        world_size: int,
    ) -> None:
        self.seed, self.batch_size, self.accumulation, self.world_size = seed, batch_size, accumulation, world_size
        self._samples = samples
        self._table = table
        counts = table.showings(table.sets).tolist()
        self.buckets: Mapping[Bucket, int] = dict(zip(table.buckets, counts, strict=True))
        self.stretches = tuple(self._lay_out(schedules))
        self._starts = [stretch.start for stretch in self.stretches]
        self._kept: tuple[tuple[int, int], Epoch] | None = None
        self._ordering = threading.Lock()

    @property
    def samples_per_epoch(self) -> int:
        """Showings, repeats counted."""
        return self._first.samples_per_epoch

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches, on all ranks."""
        return self._first.batches_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        return self._first.steps_per_epoch

    def total_steps(self, max_train_steps: int | None, num_train_epochs: int | None) -> int:
        """Optimizer steps of a run given one of the two settings.

        A run by epochs counts one that a stretch's end cuts short as one, and ends where no data set is left.
        """
        if max_train_steps is not None:
            return max_train_steps
        last = num_train_epochs or 1
        for stretch in self.stretches:
            if stretch.epochs is None or stretch.epoch + stretch.epochs >= last:
                steps = stretch.start + (last - stretch.epoch) * stretch.steps_per_epoch
                return steps if stretch.end is None else min(steps, stretch.end)
        return self.stretches[-1].start

    def gaps(self, total_steps: int) -> tuple[range, ...]:
        """The steps of a run of that length for which there is no data set."""
        empty = [stretch for stretch in self.stretches if not stretch.sets and stretch.start < total_steps]
        return tuple(range(stretch.start, min(stretch.end or total_steps, total_steps)) for stretch in empty)

    def epochs(self, total_steps: int) -> float:
        """How many epochs a run of that length has; those that a stretch's end cuts short count as one."""
        if total_steps <= 0:
            return 0.0
        stretch = self._stretch(total_steps - 1)
        return (
            stretch.epoch + (total_steps - stretch.start) / stretch.steps_per_epoch if stretch.sets else stretch.epoch
        )

    def step(self, global_step: int) -> PlannedStep:
        """Optimizer step `global_step`, counted from 0 over the whole run; costs at most one epoch's ordering.

        Safe to call from several threads. Raises ValueError in a gap.
        """
        stretch = self._stretch(global_step)
        if not stretch.sets:
            raise ValueError(f"no data set is in use at step {global_step}")
        epoch, position = divmod(global_step - stretch.start, stretch.steps_per_epoch)
        size = self.accumulation * self.world_size
        order = self._epoch(stretch, stretch.epoch + epoch)
        numbers = range(stretch.batches_per_epoch)[position * size : (position + 1) * size]
        batches = [self._refs(order, number) for number in numbers]
        rounds = _ceil(len(batches), self.world_size)
        batches += [()] * (rounds * self.world_size - len(batches))
        ranks = tuple(tuple(batches[rank :: self.world_size]) for rank in range(self.world_size))
        return PlannedStep(global_step, stretch.epoch + epoch, ranks)

    @property
    def _first(self) -> Stretch:
        return next((stretch for stretch in self.stretches if stretch.sets), self.stretches[0])

    def _stretch(self, step: int) -> Stretch:
        return self.stretches[bisect_right(self._starts, step) - 1]

    def _epoch(self, stretch: Stretch, epoch: int) -> Epoch:
        """The order of one epoch; the last one asked for is kept."""
        with self._ordering:
            if self._kept is None or self._kept[0] != (stretch.start, epoch):
                self._kept = (stretch.start, epoch), self._table.epoch(epoch, stretch.sets, self.batch_size)
            return self._kept[1]

    def _refs(self, order: Epoch, number: int) -> MicroBatchRefs:
        found = ((self._samples[position], repeat) for position, repeat in order.batch(number))
        return tuple(SampleRef(sample.set_id, sample.name, repeat) for sample, repeat in found)

    def _lay_out(self, schedules: Mapping[str, Schedule]) -> Iterator[Stretch]:
        """Cut the run at every start and end of a data set."""
        used = {set_id: schedules[set_id] for set_id in self._table.sets}
        cuts = {0}.union(*({schedule.start_step, schedule.end_step or 0} for schedule in used.values()))
        starts = sorted(cuts)
        epoch = 0
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            sets = tuple(set_id for set_id, schedule in used.items() if schedule.covers(start))
            showings = self._table.showings(sets)
            batches = int((-(-showings // self.batch_size)).sum())
            steps = _ceil(batches, self.accumulation * self.world_size)
            stretch = Stretch(start, end, sets, epoch, int(showings.sum()), batches, steps)
            yield stretch
            epoch += stretch.epochs or 0

    def __getstate__(self) -> dict[str, Any]:
        """A lock can't be copied to another process; nor need the kept order be."""
        return {**self.__dict__, "_kept": None, "_ordering": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ordering = threading.Lock()


def make_plan(
    samples: Iterable[Placed],
    schedules: Mapping[str, Schedule],
    seed: int,
    batch_size: int,
    accumulation: int = 1,
    world_size: int = 1,
) -> Plan:
    """Plan a run over `samples`; `schedules` are the data sets', one that has none is shown once an epoch, always.

    Raises ValueError when there are no samples.
    """
    from simpletune.data.order import Table  # numpy takes a tenth of a second to import

    every = tuple(samples)
    known = {sample.set_id: schedules.get(sample.set_id, Schedule()) for sample in every}
    if not every:
        raise ValueError("a plan needs at least one sample")
    return Plan(every, Table(every, known, seed), known, seed, batch_size, accumulation, world_size)


def _elsewhere(
    samples: Sequence[PlacedT], files: Collection[str], location: Callable[[PlacedT], str]
) -> Sequence[PlacedT]:
    """The samples that aren't among these files."""
    return [sample for sample in samples if location(sample) not in files] if files else samples


def _by_name(sample: Placed) -> tuple[str, str]:
    return sample.set_id, sample.name


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _hash(*parts: str | int) -> bytes:
    return hashlib.sha256(b"\0".join(name_bytes(str(part)) for part in parts)).digest()
