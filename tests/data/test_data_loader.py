"""The loader gives the plan's batches from any step on, and tells what goes wrong in its thread."""

from __future__ import annotations

import threading

import pytest
import torch

from simpletune.data.cache import Stored, TensorCache
from simpletune.data.encode import LATENTS, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS
from simpletune.data.loader import Loader
from simpletune.data.plan import Plan, SampleRef, sample_id
from simpletune.errors import DataError

CPU = torch.device("cpu")
NAMES = {(64, 64): ["a", "b", "c"], (96, 32): ["d", "e"]}


@pytest.fixture
def stored(tmp_path):
    """Latents and captions of five samples, each filled with its own number."""
    latents, captions = TensorCache(tmp_path / "latents"), TensorCache(tmp_path / "captions")
    for (width, height), names in NAMES.items():
        for name in names:
            latents.put(name, {LATENTS: torch.full((4, height // 8, width // 8), float(ord(name)))})
            text = {PROMPT_EMBEDS: torch.full((3, 5), float(ord(name))), POOLED_PROMPT_EMBEDS: torch.ones(2)}
            captions.put(name, text)
    ids = [("set", name) for names in NAMES.values() for name in names]
    return {i: Stored(latents, i[1]) for i in ids}, {i: Stored(captions, i[1]) for i in ids}


def plan(world_size: int = 1, accumulation: int = 1) -> Plan:
    buckets = {bucket: tuple(SampleRef("set", name) for name in names) for bucket, names in NAMES.items()}
    return Plan(buckets, 3, 2, accumulation, world_size)


def test_batches_hold_what_the_plan_says(stored):
    planned = plan(accumulation=2)
    for step, batch in enumerate(Loader(planned, *stored, CPU).batches(0, 7)):
        assert (batch.step, batch.epoch) == (step, step // planned.steps_per_epoch)
        assert tuple(micro.refs for micro in batch.micro_batches) == planned.step(step).ranks[0]
        assert sum(micro.weight for micro in batch.micro_batches) == pytest.approx(1)
        for micro in batch.micro_batches:
            numbers = [float(ord(ref.name)) for ref in micro.refs]
            assert micro.latents[:, 0, 0, 0].tolist() == numbers
            assert micro.prompt_embeds.shape == (len(numbers), 3, 5)
            assert micro.prompt_embeds[:, 0, 0].tolist() == numbers
            assert micro.pooled_prompt_embeds.shape == (len(numbers), 2)
            assert micro.sample_ids.tolist() == [sample_id(ref) for ref in micro.refs]
            assert micro.sample_ids.dtype == torch.int64


def test_resuming_continues_the_same_order(stored):
    loader = Loader(plan(), *stored, CPU)
    whole = [[micro.refs for micro in batch.micro_batches] for batch in loader.batches(0, 9)]
    assert [[micro.refs for micro in batch.micro_batches] for batch in loader.batches(4, 9)] == whole[4:]


def test_a_rank_without_a_batch_repeats_one_at_weight_0(stored):
    planned = plan(world_size=2)
    assert planned.batches_per_epoch == 3
    ranks = [list(Loader(planned, *stored, CPU, rank).batches(0, 2)) for rank in range(2)]
    assert [len(batch.micro_batches) for batch in ranks[0]] == [len(batch.micro_batches) for batch in ranks[1]]
    (idle,), (busy,) = ranks[1][1].micro_batches, ranks[0][1].micro_batches
    assert (idle.weight, busy.weight) == (0, 1)
    assert idle.refs == busy.refs
    assert ranks[0][1].sample_count == len(busy.refs)


def test_a_missing_entry_surfaces_in_the_loop(stored):
    latents, _ = stored
    for entry in latents.values():
        entry.cache.path(entry.key).unlink()
    with pytest.raises(DataError, match="vanished or is damaged"):
        next(Loader(plan(), *stored, CPU).batches(0, 3))


def test_leaving_the_loop_early_ends_the_thread(stored):
    batches = Loader(plan(), *stored, CPU).batches(0, 1000)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-batches"]
