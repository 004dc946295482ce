"""The script that fits the compiled step's memory: it finds the constants that rows were made with."""

import json
from dataclasses import asdict, replace
from itertools import product

import fit_compiled
import pytest
from machine_plans import MEASURED

from simpletune.machine import activations
from simpletune.machine.estimate import GIB
from simpletune.machine.forecast import forecast, way_of

MADE_WITH = {"_COMPILED_KEPT": 1.15, "_COMPILED_OUTSIDE": 22.0, "_COMPILED_SLACK": 700.0 * (1 << 20)}
PLANS = [
    replace(
        MEASURED, steps=20_000, capability=(9, 0), base_model_precision=precision, train_batch_size=batch,
        gradient_checkpointing=checkpointed, bucket=(edge, edge), lora_rank=rank,
    )
    for precision, batch, checkpointed, edge, rank in product(
        ("no_change", "int8-quanto"), (1, 4), (True, False), (512, 1024), (16, 128)
    )
]  # fmt: skip


@pytest.fixture
def found(monkeypatch):
    """Rows as measure_steps.py writes them, of a card that behaves as MADE_WITH says."""
    monkeypatch.setattr("simpletune.machine.activations.maps_in_pages", lambda: True)
    with monkeypatch.context() as patch:
        for name, value in MADE_WITH.items():
            patch.setattr(activations, name, value)
        peaks = [forecast(plan).phase("train").bytes / GIB for plan in PLANS]
    common = json.loads(json.dumps(asdict(PLANS[0])))
    rows = []
    for number, (plan, size) in enumerate(zip(PLANS, peaks, strict=True)):
        use = "held out" if number % 2 else "fit"
        measured = {"peak_allocated_gib": size, "peak_reserved_gib": size}
        row = {"name": str(number), "use": use, "in_pages": True, "way": str(way_of(plan)), "step_ms": None}
        rows.append({**row, "phases": {"train": measured}, "plan": json.loads(json.dumps(asdict(plan)))})
    return {"device": {}, "plan": common, "rows": rows}


def test_rows_that_were_held_out_are_met(found, monkeypatch):
    before = {name: getattr(activations, name) for name in fit_compiled.CONSTANTS}
    fitted = fit_compiled.fit(found, [row for row in found["rows"] if row["use"] == "fit"], lean=1.0)
    assert {name: getattr(activations, name) for name in fit_compiled.CONSTANTS} == before
    for name, value in fitted.items():
        monkeypatch.setattr(activations, name, value)
    held_out = [row for row in found["rows"] if row["use"] == "held out"]
    for row in held_out:
        assert fit_compiled.ratio(fit_compiled.plan_of(found, row), row, "train") == pytest.approx(1, abs=0.03)
    assert "held out: 16 rows" in fit_compiled.report(found, held_out, fitted)[-1]


def test_a_row_too_low_breaks_the_bounds():
    assert "the bounds hold" in fit_compiled.verdict("held out", [-0.04, 0.02, 0.08])[0]
    assert "DO NOT" in fit_compiled.verdict("held out", [-0.06, 0.02, 0.08])[0]
