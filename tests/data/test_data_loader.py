"""The loader gives the plan's batches from any step on, ahead of time, and mends what is damaged on the way."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.encode import LATENTS, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS
from simpletune.data.caches.mask_cache import MASK
from simpletune.data.geometry import Placement
from simpletune.data.loader import Encoded, Loader, Repairs
from simpletune.data.plan import Plan, drawn, make_plan, sample_id
from simpletune.data.scan import Sample
from simpletune.errors import DataError

CPU = torch.device("cpu")
NAMES = {(64, 64): ["a", "b", "c"], (96, 32): ["d", "e"]}


def sample(name: str, bucket: tuple[int, int], set_id: str = "set") -> Sample:
    """Two captions and two placements: as it is, and mirrored."""
    placement = Placement(bucket, (0, 0, *bucket), bucket)
    return Sample(
        set_id, name, (1, 1, 1, 1), *bucket, (name, f"{name}!"), (placement, replace(placement, mirrored=True))
    )


SAMPLES = [sample(name, bucket) for bucket, names in NAMES.items() for name in names]


@pytest.fixture
def encoded(tmp_path) -> Encoded:
    """Latents are filled with a number of the name's, negative when mirrored; captions with their length."""
    cache = TensorCache(tmp_path / "cache")
    latents, texts = {}, {}
    for one in SAMPLES:
        latents[one.id] = Stored(cache, f"{one.name}0"), Stored(cache, f"{one.name}1")
        for stored, sign in zip(latents[one.id], (1, -1), strict=True):
            write_latent(stored, one, sign)
        for caption in one.captions:
            texts[caption] = Stored(cache, f"text {caption}")
            write_text(texts[caption], caption)
    return Encoded(latents, texts)


def write_latent(stored: Stored, one: Sample, sign: int) -> None:
    width, height = one.bucket
    stored.cache.put(stored.key, {LATENTS: torch.full((4, height // 8, width // 8), sign * float(ord(one.name)))})


def write_text(stored: Stored, caption: str) -> None:
    number = float(ord(caption[0])) + 1000 * (len(caption) - 1)
    tensors = {PROMPT_EMBEDS: torch.full((3, 5), number), POOLED_PROMPT_EMBEDS: torch.full((2,), number)}
    stored.cache.put(stored.key, tensors)


def plan(world_size: int = 1, accumulation: int = 1) -> Plan:
    return make_plan(SAMPLES, {}, 3, 2, accumulation, world_size)


def test_batches_hold_what_the_plan_says(encoded):
    planned = plan(accumulation=2)
    for step, batch in enumerate(Loader(planned, SAMPLES, encoded, CPU).batches(0, 7)):
        assert (batch.step, batch.epoch) == (step, step // planned.steps_per_epoch)
        assert tuple(micro.refs for micro in batch.micro_batches) == planned.step(step).ranks[0]
        assert sum(micro.weight for micro in batch.micro_batches) == pytest.approx(1)
        for micro in batch.micro_batches:
            signs = [drawn((1, -1), "placement", 3, batch.epoch, ref) for ref in micro.refs]
            captions = [drawn((0, 1000), "caption", 3, batch.epoch, ref) for ref in micro.refs]
            numbers = [float(ord(ref.name)) for ref in micro.refs]
            assert micro.latents[:, 0, 0, 0].tolist() == [s * n for s, n in zip(signs, numbers, strict=True)]
            assert micro.prompt_embeds.shape == (len(numbers), 3, 5)
            assert micro.prompt_embeds[:, 0, 0].tolist() == [c + n for c, n in zip(captions, numbers, strict=True)]
            assert micro.pooled_prompt_embeds.shape == (len(numbers), 2)
            assert micro.sample_ids.tolist() == [sample_id(ref) for ref in micro.refs]
            assert micro.sample_ids.dtype == torch.int64
            assert micro.loss_weights.tolist() == [1.0] * len(numbers)
            assert micro.loss_mask is None


def test_over_the_epochs_a_picture_is_shown_in_all_its_forms(encoded):
    seen = {
        (float(latent[0, 0, 0]), float(text[0, 0]))
        for batch in Loader(plan(), SAMPLES, encoded, CPU).batches(0, 60)
        for micro in batch.micro_batches
        for latent, text in zip(micro.latents, micro.prompt_embeds, strict=True)
    }
    assert len(seen) == 5 * 2 * 2


def test_resuming_continues_the_same_order(encoded):
    loader = Loader(plan(), SAMPLES, encoded, CPU)
    whole = list(loader.batches(0, 9))
    for old, new in zip(whole[4:], loader.batches(4, 9), strict=True):
        assert (old.step, old.epoch) == (new.step, new.epoch)
        for one, other in zip(old.micro_batches, new.micro_batches, strict=True):
            assert one.refs == other.refs
            assert torch.equal(one.latents, other.latents)
            assert torch.equal(one.prompt_embeds, other.prompt_embeds)


def test_a_rank_without_a_batch_repeats_one_at_weight_0(encoded):
    planned = plan(world_size=2)
    assert planned.batches_per_epoch == 3
    ranks = [list(Loader(planned, SAMPLES, encoded, CPU, rank).batches(0, 2)) for rank in range(2)]
    assert [len(batch.micro_batches) for batch in ranks[0]] == [len(batch.micro_batches) for batch in ranks[1]]
    (idle,), (busy,) = ranks[1][1].micro_batches, ranks[0][1].micro_batches
    assert (idle.weight, busy.weight) == (0, 1)
    assert idle.refs == busy.refs
    assert ranks[0][1].sample_count == len(busy.refs)


def test_each_data_sets_loss_has_its_weight(encoded):
    class_pictures = [sample(one.name, one.bucket, "class") for one in SAMPLES]
    latents = {**encoded.latents, **{one.id: encoded.latents["set", one.name] for one in class_pictures}}
    both = [*SAMPLES, *class_pictures]
    loader = Loader(make_plan(both, {}, 0, 3), both, replace(encoded, latents=latents), CPU, weights={"class": 0.25})
    for batch in loader.batches(0, 4):
        for micro in batch.micro_batches:
            expected = [0.25 if ref.set_id == "class" else 1.0 for ref in micro.refs]
            assert micro.loss_weights.tolist() == expected
            assert micro.loss_weights.dtype == torch.float32


def test_a_mask_comes_with_its_placement_and_a_picture_without_one_counts_everywhere(encoded):
    masks, cache = {}, encoded.texts["a"].cache
    for one in SAMPLES[::2]:
        masks[one.id] = Stored(cache, f"mask {one.name}0"), Stored(cache, f"mask {one.name}1")
        for stored, value in zip(masks[one.id], (0.25, 0.5), strict=True):
            cache.put(stored.key, {MASK: torch.full((1, one.bucket[1] // 8, one.bucket[0] // 8), value)})
    loader = Loader(make_plan(SAMPLES, {}, 0, 3), SAMPLES, replace(encoded, masks=masks), CPU)
    for batch in loader.batches(0, 8):
        for micro in batch.micro_batches:
            assert micro.loss_mask is not None
            assert micro.loss_mask.shape == (len(micro.refs), 1, *micro.latents.shape[-2:])
            for ref, latent, mask in zip(micro.refs, micro.latents, micro.loss_mask, strict=True):
                value = (0.25 if latent[0, 0, 0] > 0 else 0.5) if ref.id in masks else 1.0
                assert mask.unique().tolist() == [value]


def spoil(stored: Stored) -> None:
    """A flipped bit in one entry."""
    path = stored.cache.path(stored.key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_missing_entry_surfaces_in_the_loop(encoded):
    for entries in encoded.latents.values():
        for entry in entries:
            entry.cache.path(entry.key).unlink()
    with pytest.raises(DataError, match=r"has vanished|is damaged"):
        next(Loader(plan(), SAMPLES, encoded, CPU).batches(0, 3))


def test_damaged_and_vanished_entries_are_made_again_by_the_training_thread(encoded):
    whole = [micro for batch in Loader(plan(), SAMPLES, encoded, CPU).batches(0, 9) for micro in batch.micro_batches]
    mended = []

    def latent(one: Sample, index: int, stored: Stored) -> dict[str, torch.Tensor]:
        mended.append((one.name, index, threading.current_thread()))
        write_latent(stored, one, (1, -1)[index])
        return stored.load()

    def text(caption: str, stored: Stored) -> dict[str, torch.Tensor]:
        mended.append((caption, threading.current_thread()))
        write_text(stored, caption)
        return stored.load()

    for one in SAMPLES:
        spoil(encoded.latents[one.id][0])
        entry = encoded.texts[one.captions[1]]
        entry.cache.path(entry.key).unlink()
    repairs = Repairs(latent, text, latent)
    loader = Loader(plan(), SAMPLES, encoded, CPU, repairs=repairs)
    again = [micro for batch in loader.batches(0, 9) for micro in batch.micro_batches]
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.prompt_embeds, other.prompt_embeds)
    assert len(mended) == len({entry[:-1] for entry in mended}), "each once"
    assert {entry[-1] for entry in mended} == {threading.main_thread()}


def test_what_cannot_be_repaired_says_why(encoded):
    def refuse(*_: object) -> dict[str, torch.Tensor]:
        raise DataError("a.png has changed", hint="start again")

    for entries in encoded.latents.values():
        spoil(entries[0])
    loader = Loader(plan(), SAMPLES, encoded, CPU, repairs=Repairs(refuse, refuse, refuse))
    with pytest.raises(DataError, match=r"a\.png has changed"):
        list(loader.batches(0, 9))


def test_leaving_the_loop_early_ends_the_threads(encoded):
    batches = Loader(plan(), SAMPLES, encoded, CPU).batches(0, 1000)
    next(batches)
    batches.close()
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("read-batches")]
    for reader in readers:
        reader.join(5)  # what is being read is read to its end, which nobody waits for
    assert not [reader for reader in readers if reader.is_alive()]


def test_the_time_the_loop_stands_still_is_told(encoded):
    (batch,) = Loader(plan(), SAMPLES, encoded, CPU).batches(0, 1)
    assert 0 < batch.waited < 10
