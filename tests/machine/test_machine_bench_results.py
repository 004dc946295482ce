"""What a sweep measured is found again by the plan it was measured for, and decides the time that is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from machine_plans import MEASURED as PLAN

from simpletune.machine import bench_results
from simpletune.machine.bench_results import case_of, load, measured_step, save
from simpletune.machine.timing import run_seconds

CARD = "NVIDIA GeForce RTX 4070"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_rows_come_back_and_a_case_is_kept_once() -> None:
    slow = replace(case_of(PLAN), ms_per_step=400.0, reserved_gib=3.0, execution="eager")
    other = replace(case_of(replace(PLAN, train_batch_size=4)), failure="out of memory", fits=False)
    listed = replace(case_of(replace(PLAN, lora_target=("to_q", "to_k"))), ms_per_step=1.0)
    save(CARD, [slow, other, listed])
    quick = replace(slow, ms_per_step=90.0)
    save(CARD, [quick])
    assert set(load(CARD)) == {quick, other, listed}
    assert load("another card") == ()


def test_other_versions_and_damaged_files_have_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    save(CARD, [replace(case_of(PLAN), ms_per_step=90.0)])
    with monkeypatch.context() as changed:
        changed.setattr(bench_results, "__version__", "99")
        assert load(CARD) == ()
    bench_results.results_file(CARD).write_text('{"format": 1, "rows": [')
    assert load(CARD) == ()
    assert measured_step(CARD, PLAN) is None


def test_a_measured_step_decides_the_time() -> None:
    before = run_seconds(PLAN, "cuda", CARD, (8, 9), 8)
    save(CARD, [replace(case_of(PLAN), ms_per_step=2000.0)])
    taken = run_seconds(PLAN, "cuda", CARD, (8, 9), 8)
    assert not before.measured
    assert taken.measured
    assert 2.0 * PLAN.steps * 0.95 <= taken.low <= taken.high
    assert "measured on this card" in taken.basis
    assert run_seconds(replace(PLAN, lora_rank=64), "cuda", CARD, (8, 9), 8).measured is False
    save(CARD, [replace(case_of(PLAN), ms_per_step=1000.0)])
    assert run_seconds(PLAN, "cuda", CARD, (8, 9), 8).low < taken.low


def test_a_step_that_ran_in_another_way_decides_nothing() -> None:
    long = replace(PLAN, steps=20_000)
    for execution, of_short, of_long in (
        ("graph over compiled blocks", None, 0.09),
        ("graph over eager kernels: the run is too short for compiling to pay off", 0.09, None),
        ("eager kernels: torch.compile failed: no room", 0.09, 0.09),
    ):
        save(CARD, [replace(case_of(PLAN), ms_per_step=90.0, execution=execution)])
        assert (measured_step(CARD, PLAN), measured_step(CARD, long)) == (of_short, of_long)


@pytest.mark.parametrize(
    "other",
    [{"base_model_matmul": "int8"}, {"deterministic": True}, {"use_dora": True}, {"lycoris": '{"algo": "lokr"}'}],
)
def test_other_arithmetic_is_another_step(other: dict[str, Any]) -> None:
    """Each takes another time: what one sweep measured must not stand for the step of another configuration."""
    different = replace(PLAN, **other)
    save(CARD, [replace(case_of(different), ms_per_step=60.0)])
    assert measured_step(CARD, PLAN) is None
    save(CARD, [replace(case_of(PLAN), ms_per_step=90.0)])
    assert (measured_step(CARD, PLAN), measured_step(CARD, different)) == (0.09, 0.06)
    assert measured_step(CARD, replace(PLAN, base_model_matmul="bf16")) == 0.09  # which is what auto is


def test_a_file_of_before_there_was_a_key_is_read() -> None:
    save(CARD, [replace(case_of(PLAN), ms_per_step=90.0)])
    path = bench_results.results_file(CARD)
    found = json.loads(path.read_text())
    del found["rows"][0]["lycoris"], found["rows"][0]["base_model_offload"]
    path.write_text(json.dumps(found))
    assert measured_step(CARD, PLAN) == 0.09
    del found["rows"][0]["ms_per_step"], found["rows"][0]["optimizer"]
    path.write_text(json.dumps(found))
    bench_results._by_case.cache_clear()
    assert load(CARD) == ()


def test_checkpointing_that_is_off_has_no_interval() -> None:
    off = replace(PLAN, gradient_checkpointing=False)
    assert case_of(replace(off, gradient_checkpointing_interval=3)) == case_of(off)
