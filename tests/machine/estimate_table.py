"""Print the tables of docs/performance.md: what the estimate says, and what runs took.

    python tests/machine/estimate_table.py [FILE]

FILE is what `tests/gpu/measure.py --only estimate` or `tests/gpu/measure_steps.py` wrote; without it, the files beside
this: measured_steps.json and measured_compiled.json, of compiled steps alone, and measurements.json, of whole runs with
the eager step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletune.machine.cards import CARDS
from simpletune.machine.estimate import GIB, gradient_bytes
from simpletune.machine.forecast import PHASES, Plan, forecast
from simpletune.machine.shapes import lora_parameters
from simpletune.machine.timing import step_seconds

MEASUREMENTS = Path(__file__).parent / "measurements.json"
COMPILED = Path(__file__).parent / "measured_compiled.json"
STEPS = Path(__file__).parent / "measured_steps.json"
FIGURES = {  # what the forecast of a phase is of: docs/performance.md says why
    "encode text": "peak_reserved_gib",
    "encode images": "peak_allocated_gib",
    "train": "peak_reserved_gib",
    "validate": "peak_allocated_gib",
}


def main() -> None:
    for path in [Path(name) for name in sys.argv[1:]] or [STEPS, COMPILED, MEASUREMENTS]:
        print("\n".join(tables(json.loads(path.read_text()))), end="\n\n")


def tables(found: dict[str, Any]) -> Iterator[str]:
    free = [row for row in found["rows"] if row["use"] != "limited" and "error" not in row]
    yield from _steps(found, free)
    for phase in (name for name in PHASES if name != "train" and any(name in row["phases"] for row in free)):
        yield from ("", f"| {phase} | | estimate | peak | |", "|---|---|---:|---:|---:|")
        lines = [
            f"| {of_phase(plan_of(found, row), phase)} | {row['use']} | {compared(plan_of(found, row), row, phase)} |"
            for row in free
            if phase in row["phases"]
        ]
        yield from dict.fromkeys(lines)
    limited = [row for row in found["rows"] if row["use"] == "limited"]
    if not limited:
        return
    yield from ("", "| held to the estimate | GiB | most reserved |", "|---|---:|---:|")
    for row in limited:
        most = max(phase["peak_reserved_gib"] for phase in row["phases"].values())
        yield f"| {row['name']} | {row['limit_gib']:.2f} | {most:.2f} |"


def _steps(found: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| a training step | | estimate | peak | | ms, about | ms |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for row in rows:
        plan = plan_of(found, row)
        expected = 1000 * step_seconds(plan, CARDS["H100"])
        start = f"| {of_step(plan)} | {row['use']} | {compared(plan, row, 'train')}"
        measured = "-" if row["step_ms"] is None else f"{row['step_ms']:.0f}"  # the card was shared: no time
        yield f"{start} | {expected:.0f} | {measured} |"


def plan_of(found: dict[str, Any], row: dict[str, Any]) -> Plan:
    """The plan of a row of a measurements file."""
    return Plan(**{key: _frozen(value) for key, value in (found["plan"] | row["plan"]).items()})


def ratio(plan: Plan, row: dict[str, Any], phase: str) -> float:
    """Estimated by measured."""
    measured = peak(row, phase)
    return (forecast(plan).phase(phase).bytes - _since(plan, row, phase)) / GIB / measured


def peak(row: dict[str, Any], phase: str) -> float:
    """What was measured of it, in GiB: without mapping in pages more is reserved than is now, so not that."""
    figure = FIGURES[phase] if row.get("in_pages", True) else "peak_allocated_gib"
    measured: float = row["phases"][phase][figure]
    return measured


def _since(plan: Plan, row: dict[str, Any], phase: str) -> int:
    """What a run has held since the row was measured, in bytes: the gradients' buffer. Rows since say how they ran."""
    if phase != "train" or "way" in row:
        return 0
    return gradient_bytes(lora_parameters(plan.flavour, plan.lora_target, plan.lora_rank), plan.optimizer)


def compared(plan: Plan, row: dict[str, Any], phase: str) -> str:
    measured, found = peak(row, phase), ratio(plan, row, phase)
    kind = "" if row.get("in_pages", True) else " allocated"
    return f"{found * measured:.2f} | {measured:.2f}{kind} | {found - 1:+.0%}"


def of_phase(plan: Plan, phase: str) -> str:
    """The values a phase depends on, in words."""
    kind = {"bf16": "", "fp16": ", fp16", "no": ", fp32"}[plan.mixed_precision]
    if phase == "encode text":
        encoders = [precision.removesuffix("-quanto").replace("no_change", "16 bit") for precision in _encoders(plan)]
        captions = min(plan.text_encoder_batch_size, plan.captions)
        return f"{', '.join(encoders)}; {plan.tokenizer_max_length} tokens, {captions} at a time{kind}"
    if phase == "encode images":
        return f"{plan.bucket[0]} x {plan.bucket[1]}, {min(plan.vae_batch_size, plan.pictures)} at a time{kind}"
    width, height = plan.validation_sizes[0]
    return f"{plan.flavour}, {_base(plan)}, {width} x {height}{kind}"


def of_step(plan: Plan) -> str:
    """The values a training step depends on, in words."""
    kept = "all kept"
    if plan.gradient_checkpointing:
        every = plan.gradient_checkpointing_interval
        kept = "checkpointed" if every == 1 else f"1 block in {every} checkpointed"
    words = [plan.flavour, _base(plan), f"{plan.bucket[0]} x {plan.bucket[1]}", f"batch {plan.train_batch_size}", kept]
    words += [{"fp16": "fp16", "no": "fp32"}[plan.mixed_precision]] if plan.mixed_precision != "bf16" else []
    words += [f"{plan.tokenizer_max_length} T5 tokens"] if plan.tokenizer_max_length != 154 else []
    if plan.lora_rank != 16 or plan.lora_target != "attention":
        words.append(f"rank {plan.lora_rank} on {plan.lora_target}")
    return ", ".join(words + (["EMA"] if plan.use_ema else []))


def _base(plan: Plan) -> str:
    return plan.base_model_precision.removesuffix("-quanto").replace("no_change", "not quantized")


def _encoders(plan: Plan) -> tuple[str, ...]:
    return plan.text_encoder_precisions if plan.use_t5 else plan.text_encoder_precisions[:2]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
