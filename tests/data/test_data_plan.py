"""The order of training: every sample as often as promised, for any batch, repeats, accumulation and processes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.geometry import Placement
from simpletune.data.plan import Plan, SampleRef, bucketed, sample_id, split_eval
from simpletune.data.scan import Sample


def sample(name: str, bucket: tuple[int, int] = (64, 64), set_id: str = "a", path: Path | None = None) -> Sample:
    placement = Placement(bucket, (0, 0, *bucket), bucket)
    return Sample(set_id, name, path or Path("/p", set_id, name), *bucket, "caption", placement)


def samples(counts: list[int]) -> list[Sample]:
    return [
        sample(f"{i}-{n}.png", (64, 64 * (i + 1)), "ab"[n % 2]) for i, count in enumerate(counts) for n in range(count)
    ]


plans = st.builds(
    lambda counts, repeats, batch, accumulation, world, seed: Plan(
        bucketed(samples(counts), {"a": repeats}), seed, batch, accumulation, world
    ),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 5),
)


def shown(plan: Plan, steps: range) -> list[SampleRef]:
    return [ref for step in steps for rank in plan.step(step).ranks for batch in rank for ref in batch]


@given(plans, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_sample_exactly_once_per_repeat_in_every_epoch(plan, epoch):
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    promised = [ref for refs in plan.buckets.values() for ref in refs]
    assert Counter(shown(plan, steps)) == Counter(promised)
    assert {plan.step(step).epoch for step in steps} == {epoch}
    assert plan.samples_per_epoch == len(promised)


@given(plans)
@settings(max_examples=100, deadline=None)
def test_ranks_stay_in_lockstep_and_weights_make_a_mean_over_samples(plan):
    bucket_of = {ref: bucket for bucket, refs in plan.buckets.items() for ref in refs}
    for step in map(plan.step, range(plan.steps_per_epoch)):
        assert len(step.ranks) == plan.world_size
        assert len({len(batches) for batches in step.ranks}) == 1
        assert 1 <= len(step.ranks[0]) <= plan.accumulation
        batches = [batch for rank in step.ranks for batch in rank]
        assert sum(map(step.weight, batches)) == pytest.approx(1)
        assert step.weight(()) == 0
        assert all(len(batch) <= plan.batch_size for batch in batches)
        assert all(len({bucket_of[ref] for ref in batch}) <= 1 for batch in batches)


@given(plans, st.integers(2, 4))
@settings(max_examples=50, deadline=None)
def test_processes_and_accumulation_are_interchangeable(plan, world):
    alone = Plan(plan.buckets, plan.seed, plan.batch_size, plan.accumulation * world, 1)
    together = Plan(plan.buckets, plan.seed, plan.batch_size, plan.accumulation, world)
    assert alone.steps_per_epoch == together.steps_per_epoch
    for number in range(2 * alone.steps_per_epoch):
        one, many = alone.step(number), together.step(number)
        rounds = [batches[i] for i in range(len(many.ranks[0])) for batches in many.ranks]
        assert [batch for batch in rounds if batch] == list(one.ranks[0])
        assert one.sample_count == many.sample_count


@given(plans, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_plan_has_no_memory_and_the_order_of_the_files_says_nothing(plan, chance):
    buckets = list(plan.buckets.items())
    chance.shuffle(buckets)
    again = Plan({bucket: chance.sample(refs, len(refs)) for bucket, refs in buckets}, *astuple(plan))
    numbers = list(range(3 * plan.steps_per_epoch))
    chance.shuffle(numbers)
    assert [again.step(number) for number in numbers] == [plan.step(number) for number in numbers]


def astuple(plan: Plan) -> tuple[int, int, int, int]:
    return plan.seed, plan.batch_size, plan.accumulation, plan.world_size


def test_epochs_differ_seeds_differ_and_buckets_are_mixed():
    buckets = bucketed(samples([40, 40]), {})
    plan = Plan(buckets, 1, 2)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) != Plan(buckets, 2, 2).epoch(0)
    assert {frozenset(batch) for batch in plan.epoch(0)} != {frozenset(batch) for batch in plan.epoch(1)}
    first = [batch[0].name[0] for batch in plan.epoch(0)]
    changes = sum(left != right for left, right in pairwise(first))
    assert changes > 8


def test_a_bucket_smaller_than_the_batch_still_trains():
    plan = Plan(bucketed(samples([1, 2]), {}), 0, 8)
    assert sorted(len(batch) for batch in plan.epoch(0)) == [1, 2]
    assert plan.steps_per_epoch == 2
    assert plan.total_steps(None, 3) == 6
    assert plan.total_steps(5, None) == 5


def test_an_empty_plan_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        Plan({}, 0, 1)


@given(st.integers(0, 12), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_holding_out_is_a_partition_that_does_not_depend_on_order(count, seed, chance):
    everything = samples([7, 5])
    training, held_out = split_eval(everything, count, seed)
    assert len(held_out) == count
    assert sorted(s.id for s in (*training, *held_out)) == sorted(s.id for s in everything)
    assert split_eval(chance.sample(everything, 12), count, seed) == (training, held_out)


def test_the_held_out_differ_by_seed_and_leave_every_set_they_are_in():
    everything = samples([20])
    assert split_eval(everything, 4, 1)[1] != split_eval(everything, 4, 2)[1]
    path = Path("/p/shared.png")
    twice = [sample("x.png", path=path, set_id="a"), sample("x.png", path=path, set_id="b"), sample("y.png")]
    for seed in range(8):
        training, held_out = split_eval(twice, 1, seed)
        assert not {s.path for s in training} & {s.path for s in held_out}


def test_sample_ids_are_63_bit_distinct_and_fixed():
    refs = [SampleRef(s, f"{n}.png", r) for s in "ab" for n in range(50) for r in range(3)]
    ids = [sample_id(ref) for ref in refs]
    assert len(set(ids)) == len(ids)
    assert all(0 <= number < 2**63 for number in ids)
    assert sample_id(SampleRef("a", "1.png", 0)) == sample_id(SampleRef("a", "1.png"))
    assert sample_id(SampleRef("a", "\udcff.png")) > 0
