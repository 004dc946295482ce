"""Times: nearer for what was measured, a range elsewhere, and in the order that cards are."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_plans import MEASURED

from simpletune.machine import cards
from simpletune.machine.execution import COMPILING
from simpletune.machine.timing import run_seconds, step_seconds

H100 = cards.CARDS["H100"]


def seconds(name="NVIDIA GeForce RTX 3060", device="cuda", capability=(8, 6), cpus=2, **changes):
    return run_seconds(replace(MEASURED, **changes), device, name, capability, cpus)


def test_more_work_takes_longer():
    base = seconds()
    for changes in (
        {"steps": 2000}, {"train_batch_size": 2}, {"gradient_accumulation_steps": 2}, {"pictures": 5000},
        {"captions": 5000}, {"validation_prompts": 9}, {"validation_num_inference_steps": 99},
    ):  # fmt: skip
        more = seconds(**changes)
        assert more.low > base.low, changes
        assert more.high > base.high, changes
    assert seconds(bucket=(512, 512)).high < base.high
    assert seconds(gradient_checkpointing=False).high < base.high


def test_a_faster_card_takes_less():
    names = ["GeForce RTX 3060", "GeForce RTX 3090", "GeForce RTX 4090", "A100-SXM4-80GB", "H100 80GB HBM3"]
    times = [seconds(f"NVIDIA {name}") for name in names]
    assert all(slow.high > fast.high for slow, fast in itertools.pairwise(times))


def test_only_what_was_measured_says_so():
    measured = seconds("NVIDIA H100 80GB HBM3")
    assert measured.measured
    assert measured.high / measured.low < 2
    for other in (seconds(), seconds("Some Card"), seconds(None), seconds("NVIDIA H100 PCIe")):
        assert not other.measured
        assert "not measured" in other.basis
    for device in ("mps", "cpu"):
        assert not seconds(None, device).measured


def test_an_unknown_card_has_a_wider_range():
    known, unknown = seconds(), seconds("NVIDIA Something 9999")
    assert unknown.high / unknown.low > known.high / known.low
    assert seconds("Something", capability=None).high >= unknown.high


@settings(max_examples=50, deadline=None)
@given(
    name=st.none() | st.text(max_size=30) | st.sampled_from(sorted(cards.CARDS)),
    device=st.sampled_from(("cuda", "mps", "cpu")),
    capability=st.none() | st.tuples(st.integers(3, 15), st.integers(0, 9)),
    cpus=st.integers(1, 256),
)
def test_every_device_has_a_range(name, device, capability, cpus):
    found = seconds(name, device, capability, cpus)
    assert 0 < found.low <= found.high
    assert len(found.basis) < 120
    assert "\n" not in found.basis


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"), ("NVIDIA GeForce RTX 4070", "RTX 4070"),
        ("NVIDIA A100-SXM4-80GB", "A100"), ("Tesla T4", "T4"), ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 3060"), ("NVIDIA L40S", "L40S"),
    ],
)  # fmt: skip
def test_a_card_is_found_by_its_name(name, row):
    assert cards.speed_of(name) == cards.CARDS[row]


@pytest.mark.parametrize("name", ["Quadro RTX 6000", "GeForce GTX 1080", "", None, "Radeon 7900"])
def test_a_card_that_is_not_listed_is_not_taken_for_another(name):
    assert cards.speed_of(name) is None


def test_a_captured_step_waits_for_no_host():
    """At batch 1 launching kernels is most of an eager step; compiled ones also compute faster."""
    eager, graph = (step_seconds(replace(MEASURED, steps=20, execution=way), H100) for way in ("eager", "auto"))
    compiled = step_seconds(replace(MEASURED, steps=5000), H100)
    assert eager > 2 * graph > 2 * compiled
    assert step_seconds(replace(MEASURED, steps=5000, keeps_attention=True), H100) < compiled
    assert step_seconds(replace(MEASURED, steps=5000, mixed_precision="fp16"), H100) > compiled


def lycoris(**kind):
    return json.dumps({**kind, "apply_preset": {"target_module": ["Attention"]}})


@pytest.mark.parametrize(
    ("changes", "milliseconds"),
    [
        ({"lora_rank": 16}, 70.0),
        ({"lora_rank": 16, "use_dora": True}, 83.1),
        ({"lycoris": lycoris(algo="lokr", linear_dim=10_000, factor=16)}, 87.1),
        ({"lycoris": lycoris(algo="loha", linear_dim=8)}, 92.9),
        ({"lora_rank": 16, "deterministic": True}, 104.8),
    ],
)
def test_kinds_of_adapter_and_steps_that_repeat_take_what_was_measured(changes, milliseconds):
    """docs/performance.md, "Kinds of adapter, and steps that repeat": int8, batch 1, checkpointed."""
    measured = {
        "base_model_precision": "int8-quanto", "lora_target": "attention", "tokenizer_max_length": 231, "steps": 20_000,
        "train_batch_size": 1, "gradient_checkpointing": True, "bucket": (1024, 1024), "keeps_attention": True,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    assert step_seconds(replace(MEASURED, **measured | changes), H100) == pytest.approx(milliseconds / 1000, rel=0.08)


def test_only_a_card_takes_longer_for_steps_that_repeat():
    for device, longer in (("cuda", True), ("cpu", False), ("mps", False)):
        plain, repeating = (
            step_seconds(replace(MEASURED, device=device, deterministic=fixed), H100) for fixed in (False, True)
        )
        assert (repeating > plain) is longer


def test_compiling_is_counted_once():
    def compiling(steps):
        run = {"name": "NVIDIA H100 80GB HBM3", "capability": (9, 0), "execution": "graph", "steps": steps}
        plan = replace(MEASURED, execution="graph", steps=steps)
        return seconds(**run).low / 0.75 - steps * step_seconds(plan, H100)

    assert compiling(2000) == pytest.approx(compiling(2001), abs=0.1)
    assert compiling(1) - (seconds("NVIDIA H100", steps=1, execution="eager").low / 0.75) > COMPILING - 1
