"""The forecast: its phases, what raises and lowers them, its speed, and the ways down."""

import time
from dataclasses import fields, replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_plans import MEASURED

from simpletune.machine.estimate import GIB
from simpletune.machine.forecast import PHASES, Plan, forecast, with_room_of
from simpletune.machine.ways_down import applied, ways_down

SMALL = ((512, 512),)
PRECISIONS = ("no_change", "int8-quanto", "int4-quanto", "int2-quanto")

plans = st.builds(
    replace,
    st.just(MEASURED),
    flavour=st.sampled_from(("sd3-medium", "sd3.5-medium", "sd3.5-large")),
    base_model_precision=st.sampled_from(PRECISIONS),
    text_encoder_precisions=st.tuples(*[st.sampled_from(PRECISIONS)] * 3),
    use_t5=st.booleans(),
    mixed_precision=st.sampled_from(("bf16", "fp16", "no")),
    train_batch_size=st.integers(1, 16),
    gradient_accumulation_steps=st.integers(1, 8),
    execution=st.sampled_from(("auto", "eager", "graph")),
    keeps_attention=st.booleans(),
    gradient_checkpointing=st.booleans(),
    gradient_checkpointing_interval=st.integers(1, 40),
    vae_batch_size=st.integers(1, 16),
    text_encoder_batch_size=st.integers(1, 32),
    bucket=st.tuples(*[st.integers(4, 24).map(lambda n: 64 * n)] * 2),
    validation_sizes=st.lists(st.tuples(*[st.integers(4, 24).map(lambda n: 64 * n)] * 2), max_size=2).map(tuple),
)


def peak(phase="train", **changes):
    return forecast(replace(MEASURED, **changes)).phase(phase).bytes


def test_what_costs_more_is_estimated_higher():
    base = peak()
    assert peak(train_batch_size=2) > base
    assert peak(bucket=(2048, 1024)) > base
    assert peak(gradient_checkpointing_interval=6) > base
    assert peak(gradient_checkpointing_interval=1000) <= peak(gradient_checkpointing=False)
    assert peak(use_ema=True) > base
    assert peak(optimizer="prodigy") > base > peak(optimizer="adamw8bit") > peak(optimizer="adafactor")
    assert peak(lora_rank=64) > base > peak(lora_target="attention-image")
    assert peak(mixed_precision="no") > 1.8 * base
    assert peak(flavour="sd3.5-large") > peak(flavour="sd3.5-medium") > base
    assert peak("encode images", vae_batch_size=8) > peak("encode images")
    assert peak("encode text", text_encoder_batch_size=16) > peak("encode text")
    assert peak("encode text", use_t5=False) < peak("encode text")
    assert peak("validate", validation_sizes=((2048, 2048), (512, 512))) > peak("validate")
    assert peak("validate", validation_prompts=0) < peak("validate")


def test_the_training_step_takes_what_its_way_of_running_keeps():
    def kept(**changes):
        return peak(gradient_checkpointing=False, train_batch_size=4, **changes)

    long = {"steps": 5000}
    assert kept(**long) == kept(execution="graph") < 0.9 * kept(execution="eager")
    for eager in (
        {"steps": 100}, {"device": "cpu"}, {"can_compile": False}, {"lora_dropout": 0.1}, {"capability": (6, 1)},
        {"lora_target": ("norm1.linear", "attn.to_q")},
    ):  # fmt: skip
        changes = long | eager
        assert kept(**changes) == kept(**changes | {"execution": "eager"}), eager


def test_attention_is_kept_where_there_is_room():
    plan = replace(MEASURED, execution="graph", base_model_precision="int8-quanto")
    tight, roomy = with_room_of(plan, 3 * GIB), with_room_of(plan, 8 * GIB)
    assert (tight.keeps_attention, roomy.keeps_attention) == (False, True)
    assert forecast(roomy).phase("train").bytes - forecast(plan).phase("train").bytes > GIB // 4
    assert with_room_of(plan, None) == plan


def test_the_phases_come_in_order_and_read_well():
    found = forecast(MEASURED)
    assert tuple(phase.phase for phase in found.phases) == PHASES
    assert found.peak.bytes == max(phase.bytes for phase in found.phases)
    text = str(found.phase("train"))
    assert text.startswith("train: about 4.")
    assert "weights 3.9" in text
    assert "adapter 0.1" in text


def test_disk_grows_with_what_is_kept():
    disk = forecast(MEASURED).disk
    twice = forecast(replace(MEASURED, pictures=200, captions=200, checkpoints=6)).disk
    assert set(disk) == {"latents", "captions", "checkpoints"}
    assert all(twice[what] == 2 * size for what, size in disk.items())


def test_adapters_of_pruned_checkpoints_stay_and_the_oldest_goes_after_the_new_one():
    """adamw: a checkpoint holds three numbers of fp32 for each of the adapter's."""
    sizes = [forecast(replace(MEASURED, saves=saves)).disk["checkpoints"] for saves in (3, 4, 5, 6)]
    whole = sizes[0] / MEASURED.checkpoints
    assert MEASURED.checkpoints == 3
    assert sizes[1] - sizes[0] == pytest.approx(whole * 4 / 3, rel=0.01)
    assert sizes[2] - sizes[1] == sizes[3] - sizes[2] == pytest.approx(whole / 3, rel=0.01)


def test_it_is_fast_enough_to_ask_for_every_option_on_a_screen():
    """The median of this thread's own time: what else the machine does meanwhile is no fault of the forecast's."""
    forecast(MEASURED)
    seconds = []
    for rank in range(1, 101):
        begin = time.thread_time()
        forecast(replace(MEASURED, lora_rank=rank))
        seconds.append(time.thread_time() - begin)
    assert median(seconds) < 0.002


@settings(max_examples=50, deadline=None)
@given(plan=plans, gib=st.floats(0.5, 40))
def test_the_ways_down_make_it_fit(plan: Plan, gib: float):
    limit = int(gib * GIB)
    changes = ways_down(plan, limit)
    if changes is None:
        assert forecast(plan).peak.bytes > limit
        return
    assert (changes == ()) == (forecast(plan).peak.bytes <= limit)
    reached = plan
    for change in changes:
        reached = applied(reached, change)
    assert forecast(reached).peak.bytes <= limit
    assert len({change.key for change in changes}) == len(changes)
    samples = plan.train_batch_size * plan.gradient_accumulation_steps
    assert reached.train_batch_size * reached.gradient_accumulation_steps >= samples


@settings(max_examples=30, deadline=None)
@given(plan=plans, gib=st.floats(0.5, 40))
def test_no_single_change_of_the_ways_down_could_be_left_out(plan: Plan, gib: float):
    limit = int(gib * GIB)
    changes = ways_down(plan, limit) or ()
    for left_out in (change for change in changes if change.saves):
        reached = plan
        for change in changes:
            goes_with = (left_out.key, change.key) == ("train_batch_size", "gradient_accumulation_steps")
            reached = reached if change is left_out or goes_with else applied(reached, change)
        assert forecast(reached).peak.bytes > limit


def test_only_the_phase_that_is_over_is_changed():
    over_in_encoding = replace(MEASURED, vae_batch_size=16, base_model_precision="int8-quanto")
    (change,) = ways_down(over_in_encoding, 12 * GIB)
    assert (change.key, change.phase) == ("vae_batch_size", "encode images")
    over_in_training = replace(MEASURED, train_batch_size=4, gradient_checkpointing=False, validation_sizes=SMALL)
    first, *_ = ways_down(over_in_training, 12 * GIB)
    assert (first.key, first.value, first.phase) == ("gradient_checkpointing", True, "train")
    assert first.saves > 8 * GIB
    assert "third" in first.cost


def test_a_change_that_a_later_one_makes_needless_is_left_out():
    (change,) = ways_down(replace(MEASURED, train_batch_size=2), int(4.5 * GIB), ("train",))
    assert (change.key, change.value, change.phase) == ("base_model_precision", "int8-quanto", "train")
    assert change.saves > GIB


def test_text_encoders_that_do_not_fit_together_come_in_turn_and_need_no_change():
    whole = replace(MEASURED, text_encoder_precisions=("no_change",) * 3, vae_batch_size=1)
    together = forecast(whole).phase("encode text")
    assert together.how == ""
    assert ways_down(whole, 8 * GIB, ("encode text",)) == ()
    found = forecast(replace(whole, device_bytes=8 * GIB)).phase("encode text")
    assert found.bytes < 8 * GIB < together.bytes
    assert str(found).endswith(": first both CLIPs, then T5 block by block")
    on_processor = replace(whole, device_bytes=8 * GIB, device="cpu")
    assert forecast(on_processor).phase("encode text") == together


def test_changes_are_of_keys_that_exist():
    from simpletune.config.schema import config_keys

    changes = ways_down(replace(MEASURED, train_batch_size=8, gradient_checkpointing=False), 2 * GIB)
    assert len(changes) > 4
    assert {change.key for change in changes} <= set(config_keys())
    assert {field.name for field in fields(Plan)} >= {"bucket", "validation_sizes"}


def test_every_sample_size_that_is_too_large_becomes_smaller():
    plan = replace(MEASURED, validation_sizes=((1280, 768), (512, 512), (1024, 1024)), vae_batch_size=1, use_t5=False)
    (change,) = ways_down(plan, 6 * GIB)
    assert (change.key, change.value) == ("validation_resolution", "1088x640,512x512,640x640")
    values = {change.key: change.value for change in ways_down(plan, 4 * GIB)}
    assert values == {"validation_resolution": "1088x640,512x512,640x640", "base_model_precision": "int8-quanto"}


def test_nothing_makes_it_fit_into_next_to_nothing():
    assert ways_down(MEASURED, GIB // 2) is None


@pytest.mark.parametrize("size", [(1024, 1024), (1344, 768), (640, 1536)])
def test_a_smaller_resolution_keeps_the_shape(size):
    from simpletune.machine.ways_down import Change

    smaller = applied(replace(MEASURED, bucket=size), Change("resolution", 512, 0, "train", "")).bucket
    assert min(smaller) == 512
    assert smaller[0] / smaller[1] == pytest.approx(size[0] / size[1], rel=0.1)
    assert all(side % 64 == 0 for side in smaller)
