"""The order of training: every sample as often as promised, for any sets, batches, schedules and processes."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.plan import Plan, SampleRef, Schedule, Stretch, drawn, make_plan, sample_id, split_eval

SETS = ("a", "b", "c")
few = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Picture:
    set_id: str
    name: str
    bucket: tuple[int, int] = (64, 64)

    @property
    def id(self) -> tuple[str, str]:
        return self.set_id, self.name


@dataclass(frozen=True)
class Case:
    """What a plan is made from."""

    pictures: tuple[Picture, ...]
    schedules: dict[str, Schedule]
    seed: int = 0
    batch: int = 2
    accumulation: int = 1
    world: int = 1

    def plan(self, **changes) -> Plan:
        given = {**self.__dict__, **changes}
        return make_plan(
            given["pictures"], self.schedules, self.seed, self.batch, given["accumulation"], given["world"]
        )


def pictures(*counts: int, set_id: str = "a") -> tuple[Picture, ...]:
    """So many in each bucket."""
    return tuple(
        Picture(set_id, f"{i}-{n}.png", (64, 64 * (i + 1))) for i, count in enumerate(counts) for n in range(count)
    )


schedules = st.builds(
    lambda repeats, probability, start, length: Schedule(
        repeats, probability, start, None if length is None else start + length
    ),
    st.integers(0, 2),
    st.sampled_from([1.0, 1.0, 0.7, 0.5, 0.34, 0.1]),
    st.sampled_from([0, 0, 0, 1, 4, 11]),
    st.sampled_from([None, None, 1, 5, 12]),
)
counts = st.lists(st.integers(0, 7), min_size=1, max_size=4)
cases = st.builds(
    lambda every, plans, *rest: Case(
        sum((pictures(*of, set_id=set_id) for set_id, of in zip(SETS, every, strict=False)), ()) or pictures(1),
        dict(zip(SETS, plans, strict=True)),
        *rest,
    ),
    st.lists(counts, min_size=1, max_size=3),
    st.tuples(schedules, schedules, schedules),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
)


def refs(step) -> list[SampleRef]:
    return [ref for batches in step.ranks for batch in batches for ref in batch]


def whole_epochs(plan: Plan, stretch: Stretch, most: int) -> list[list[SampleRef]]:
    """The showings of the first epochs of a stretch that its end doesn't cut short."""
    if not stretch.sets:
        return []
    size = stretch.steps_per_epoch
    fitting = most if stretch.end is None else min(most, (stretch.end - stretch.start) // size)
    starts = range(stretch.start, stretch.start + fitting * size, size)
    return [[ref for step in range(start, start + size) for ref in refs(plan.step(step))] for start in starts]


@given(cases)
@few
def test_an_epoch_shows_every_sample_in_use_exactly_as_often_as_promised(case):
    plan = case.plan()
    for stretch in plan.stretches:
        for shown in whole_epochs(plan, stretch, 3):
            count = Counter(shown)
            assert set(count.values()) == {1}, "no repeat of a sample comes twice"
            assert len(shown) == stretch.samples_per_epoch
            for group, members in groups(case.pictures, stretch.sets).items():
                schedule = case.schedules[group[0]]
                promised = max(1, round(schedule.probability * len(members)))
                found = {ref.id for ref in shown} & {picture.id for picture in members}
                assert len(found) == promised
                for repeat in range(1 + schedule.repeats):
                    assert all(SampleRef(*id, repeat) in count for id in found)


def groups(every, sets) -> dict[tuple[str, tuple[int, int]], list[Picture]]:
    found: dict[tuple[str, tuple[int, int]], list[Picture]] = {}
    for picture in every:
        if picture.set_id in sets:
            found.setdefault((picture.set_id, picture.bucket), []).append(picture)
    return found


@given(cases, st.integers(1, 9))
@few
def test_over_any_epochs_every_sample_of_a_bucket_is_shown_equally_often_to_within_one(case, epochs):
    plan = case.plan()
    for stretch in plan.stretches:
        shown = Counter(ref.id for epoch in whole_epochs(plan, stretch, epochs) for ref in epoch if ref.repeat == 0)
        for members in groups(case.pictures, stretch.sets).values():
            often = [shown[picture.id] for picture in members]
            assert max(often) - min(often) <= 1


@given(cases)
@few
def test_steps_are_whole_and_lie_in_one_epoch_of_one_stretch(case):
    plan = case.plan()
    epochs: list[int] = []
    for stretch, following in pairwise([*plan.stretches, None]):
        end = stretch.end if stretch.end is not None else stretch.start + 2 * stretch.steps_per_epoch + 1
        for number in range(stretch.start, end) if stretch.sets else ():
            step = plan.step(number)
            epochs.append(step.epoch)
            assert {ref.set_id for ref in refs(step)} <= set(stretch.sets)
            assert step.epoch == stretch.epoch + (number - stretch.start) // stretch.steps_per_epoch
        if following is not None and stretch.sets:
            assert following.epoch == epochs[-1] + 1, "an epoch that is cut short isn't gone on with"
    assert epochs == sorted(epochs)
    assert sorted(set(epochs)) == list(range(len(set(epochs)))), "epochs are counted on"


@given(cases)
@few
def test_ranks_stay_in_lockstep_and_weights_make_a_mean_over_samples(case):
    plan = case.plan()
    bucket_of = {picture.id: picture.bucket for picture in case.pictures}
    for step in numbered(plan):
        assert len(step.ranks) == case.world
        assert len({len(batches) for batches in step.ranks}) == 1
        assert 1 <= len(step.ranks[0]) <= case.accumulation
        batches = [batch for rank in step.ranks for batch in rank]
        assert sum(map(step.weight, batches)) == pytest.approx(1)
        assert step.weight(()) == 0
        assert all(len(batch) <= case.batch for batch in batches)
        assert all(len({bucket_of[ref.id] for ref in batch}) <= 1 for batch in batches)


def numbered(plan: Plan, most: int = 25):
    """The first steps for which there is a data set."""
    last = plan.stretches[-1].start + most
    gaps = {step for gap in plan.gaps(last) for step in gap}
    return islice((plan.step(step) for step in range(last) if step not in gaps), most)


@given(cases, st.integers(2, 4))
@few
def test_processes_and_accumulation_are_interchangeable(case, world):
    alone, together = case.plan(accumulation=case.accumulation * world, world=1), case.plan(world=world)
    assert alone.stretches == together.stretches
    for one, many in zip(numbered(alone), numbered(together), strict=True):
        rounds = [batches[i] for i in range(len(many.ranks[0])) for batches in many.ranks]
        assert [batch for batch in rounds if batch] == list(one.ranks[0])
        assert one.sample_count == many.sample_count
        assert (one.step, one.epoch) == (many.step, many.epoch)


@given(cases, st.randoms(use_true_random=False))
@few
def test_a_plan_has_no_memory_and_neither_the_files_order_nor_the_asking_threads_have_a_say(case, chance):
    plan = case.plan()
    shuffled = case.plan(pictures=chance.sample(case.pictures, len(case.pictures)))
    numbers = [step.step for step in numbered(plan)]
    expected = {number: plan.step(number) for number in numbers}
    chance.shuffle(numbers)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(shuffled.step, numbers)) == [expected[number] for number in numbers]
    resumed = pickle.loads(pickle.dumps(plan))
    assert [resumed.step(number) for number in numbers] == [expected[number] for number in numbers]


@given(cases)
@few
def test_no_bucket_is_lost(case):
    plan = case.plan()
    assert set(plan.buckets) == {picture.bucket for picture in case.pictures}
    assert list(plan.buckets) == sorted(plan.buckets)
    assert all(count >= 1 for count in plan.buckets.values())
    everything = make_plan(
        case.pictures,
        {key: Schedule(value.repeats, value.probability) for key, value in case.schedules.items()},
        case.seed,
        case.batch,
    )
    assert plan.buckets == everything.buckets
    assert sum(plan.buckets.values()) == everything.samples_per_epoch


@given(cases, st.integers(1, 40))
@few
def test_gaps_are_the_steps_without_a_data_set(case, total):
    plan = case.plan()
    empty = [step for gap in plan.gaps(total) for step in gap]
    used = {picture.set_id for picture in case.pictures}
    active = [any(case.schedules[set_id].covers(step) for set_id in used) for step in range(total)]
    assert empty == [step for step in range(total) if not active[step]]
    for step in empty[:1]:
        with pytest.raises(ValueError, match="no data set"):
            plan.step(step)


def test_epochs_differ_seeds_differ_and_buckets_are_mixed():
    def order(seed: int, epoch: int) -> list[tuple[SampleRef, ...]]:
        plan = make_plan(pictures(40, 40), {}, seed, 2)
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        return [plan.step(step).ranks[0][0] for step in steps]

    first, second, other = order(1, 0), order(1, 1), order(2, 0)
    assert first != second
    assert first != other
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    buckets = [batch[0].name[0] for batch in first]
    assert sum(left != right for left, right in pairwise(buckets)) > 8


def test_the_order_is_the_same_on_every_machine():
    """Written down once: a run that was begun elsewhere, or with an earlier release, goes on with its order."""
    plan = make_plan(pictures(3, 2), {"a": Schedule(repeats=1)}, 7, 2)
    assert [[f"{ref.name}#{ref.repeat}" for ref in refs(plan.step(step))] for step in range(3)] == ORDER


ORDER = [["0-2.png#1", "0-0.png#1"], ["0-1.png#0", "0-2.png#0"], ["0-0.png#0", "0-1.png#1"]]


def test_a_bucket_smaller_than_the_batch_still_trains():
    plan = make_plan(pictures(1, 2), {}, 0, 8)
    assert sorted(plan.step(step).sample_count for step in range(2)) == [1, 2]
    assert plan.steps_per_epoch == plan.batches_per_epoch == 2
    assert plan.samples_per_epoch == 3
    assert plan.total_steps(None, 3) == 6
    assert plan.total_steps(5, None) == 5


def test_a_run_by_epochs_counts_those_that_are_cut_short():
    both = pictures(4) + pictures(4, set_id="b")
    plan = make_plan(both, {"b": Schedule(start_step=6)}, 0, 1)
    assert [(s.start, s.end, s.epoch, s.steps_per_epoch) for s in plan.stretches] == [(0, 6, 0, 4), (6, None, 2, 8)]
    assert [plan.total_steps(None, epochs) for epochs in (1, 2, 3, 4)] == [4, 6, 14, 22]
    assert [plan.epochs(steps) for steps in (0, 2, 4, 6, 10, 14)] == [0, 0.5, 1, 1.5, 2.5, 3]


def test_a_run_by_epochs_ends_where_no_data_set_is_left():
    plan = make_plan(pictures(4), {"a": Schedule(end_step=6)}, 0, 1)
    assert plan.total_steps(None, 100) == 6
    assert plan.gaps(6) == ()
    assert plan.gaps(10) == (range(6, 10),)


def test_a_data_set_that_never_begins_is_a_gap():
    plan = make_plan(pictures(4), {"a": Schedule(start_step=5, end_step=3)}, 0, 1)
    assert plan.gaps(plan.total_steps(None, 1)) != ()
    assert plan.gaps(8) == (range(0, 3), range(3, 5), range(5, 8))
    assert plan.epochs(8) == 0


def test_an_empty_plan_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        make_plan([], {}, 0, 1)


@given(st.integers(0, 12), st.integers(0, 5), st.randoms(use_true_random=False))
@few
def test_holding_out_is_a_partition_that_does_not_depend_on_order(count, seed, chance):
    everything = [*pictures(7, 5), *pictures(3, set_id="e")]
    training, held_out = split_eval(everything, {"e"}, count, seed, str)
    assert len(held_out) == count + 3
    assert {sample.set_id for sample in training} <= {"a"}
    assert sorted(s.id for s in (*training, *held_out)) == sorted(s.id for s in everything)
    assert split_eval(chance.sample(everything, 15), {"e"}, count, seed, str) == (training, held_out)


def test_the_held_out_differ_by_seed_and_leave_every_set_they_are_in():
    everything = pictures(20)
    assert split_eval(everything, (), 4, 1, str)[1] != split_eval(everything, (), 4, 2, str)[1]
    twice = [Picture("a", "x.png"), Picture("b", "x.png"), Picture("b", "y.png"), Picture("e", "y.png")]
    for seed in range(8):
        training, held_out = split_eval(twice, {"e"}, 1, seed, lambda picture: picture.name)
        assert not training, "x is held out of both sets, y by being in the eval set"
        assert [picture.set_id for picture in held_out if picture.name == "y.png"] == ["e"]


def test_a_showing_draws_among_its_captions_evenly_and_always_the_same():
    showings = [SampleRef("a", f"{number}.png", repeat) for number in range(200) for repeat in range(5)]
    drawn_ = [drawn("wxyz", "caption", 1, 0, ref) for ref in showings]
    assert drawn_ == [drawn("wxyz", "caption", 1, 0, ref) for ref in showings]
    assert drawn_ != [drawn("wxyz", "caption", 1, 1, ref) for ref in showings]
    assert drawn_ != [drawn("wxyz", "placement", 1, 0, ref) for ref in showings]
    assert all(200 < often < 300 for often in Counter(drawn_).values())


def test_sample_ids_are_63_bit_distinct_and_fixed():
    every = [SampleRef(s, f"{n}.png", r) for s in "ab" for n in range(50) for r in range(3)]
    ids = [sample_id(ref) for ref in every]
    assert len(set(ids)) == len(ids)
    assert all(0 <= number < 2**63 for number in ids)
    assert sample_id(SampleRef("a", "1.png", 0)) == sample_id(SampleRef("a", "1.png"))
    assert sample_id(SampleRef("a", "\udcff.png")) > 0


@pytest.mark.slow
def test_half_a_million_samples_are_planned_in_seconds_and_resumed_at_once():
    edges = range(512, 1536, 64)
    every = [Picture("abc"[n % 3], f"folder/{n:07}.jpg", (edges[n % 16], edges[-1 - n % 16])) for n in range(500_000)]
    began = time.perf_counter()
    plan = make_plan(every, {"a": Schedule(probability=0.3), "b": Schedule(repeats=1)}, 0, 4)
    first = plan.step(0)
    planned = time.perf_counter() - began
    plan.step(9_999_999)
    resumed = time.perf_counter() - began - planned
    print(f"500,000 samples: plan and first step {planned:.2f} s, another step {resumed:.2f} s")
    assert first.sample_count == 4
    assert planned < 10
    assert resumed < 2
