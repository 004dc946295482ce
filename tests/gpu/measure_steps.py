"""Measure training steps alone for the estimate's fit: `python tests/gpu/measure_steps.py OUTFILE`.

Each of estimate_cases.STEPS is `simpletune bench` in a process of its own, with random weights. Before a group of cases
is measured, one after the other, its code is compiled in as many processes at once, which the user's cache keeps: that
takes most of the time. A row is written when it is there and not measured again, so that several calls with a budget
can share the work. `tests/machine/estimate_table.py OUTFILE` shows the rows beside the estimate;
tests/machine/measured_compiled.json is such a file.

    --tiny    on a processor, at an eighth of the size and without compiling: for trying this script
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from estimate_cases import STEPS, Case
from measure_estimate import as_tiny, read_rows, write_rows

from simpletune.bench.subject import subject_of
from simpletune.bench.sweep import run_bench
from simpletune.machine.allocator import maps_in_pages
from simpletune.machine.devices import usable_memory
from simpletune.machine.forecast import with_room_of

_RUN = 20_000  # steps of the run that each step is of
_KEYS = (  # of a case, those that a step depends on
    "model_flavour", "mixed_precision", "base_model_precision", "lora_rank", "lora_target", "tokenizer_max_length",
    "train_batch_size", "gradient_checkpointing", "gradient_checkpointing_interval", "resolution", "execution",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training steps that the estimate is fitted to.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument(
        "--budget", type=float, default=3600, metavar="SECONDS", help="begin no group of cases after it"
    )
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="processes that compile side by side")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases with these words in their name")
    parser.add_argument("--tiny", action="store_true", help="try this script out on a processor")
    given = parser.parse_args()
    began, rows, machine = time.monotonic(), read_rows(given.outfile), {}
    known = {row["name"] for row in rows}
    missing = [case for case in STEPS if given.only in case.name and case.name not in known]
    for first in range(0, len(missing), given.at_once):
        if time.monotonic() - began > given.budget:
            break
        group = missing[first : first + given.at_once]
        if not given.tiny:
            with ThreadPoolExecutor(given.at_once) as pool:
                list(pool.map(lambda case: bench(overrides_of(case, tiny=False), 1), group))
            print(f"[{time.monotonic() - began:4.0f} s] compiled: {len(group)}", flush=True)
        for case in group:
            found = bench(overrides_of(case, given.tiny), given.steps)
            rows.append(row_of(case, overrides_of(case, given.tiny), found))
            machine = found.get("machine", machine)
            write_rows(given.outfile, machine, rows)
            print(f"[{time.monotonic() - began:4.0f} s] {line(rows[-1])}", flush=True)


def bench(overrides: Sequence[str], steps: int) -> Mapping[str, Any]:
    arguments = ["--phases", "train", "--json", "--steps", str(steps)]
    return run_bench([*arguments, *(word for text in overrides for word in ("--set", text))])


def overrides_of(case: Case, tiny: bool) -> list[str]:
    """What makes the default configuration the case's."""
    config = case.config()
    keys = {key: config[key] for key in _KEYS if key in config} | {"device": "cuda", "max_train_steps": _RUN}
    if tiny:
        keys = as_tiny(keys) | {"device": "cpu", "mixed_precision": "no", "execution": "eager"}
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]


def row_of(case: Case, overrides: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """The case's row, in the form of measurements.json. A failure is kept as one, it may be what is to be known."""
    subject = subject_of(None, overrides, None)
    memory = subject.device.memory_bytes
    plan = with_room_of(subject.plan, None if memory is None else usable_memory(memory, subject.device.kind))
    row: dict[str, Any] = {"name": case.name, "use": case.use, "in_pages": maps_in_pages()}
    row["plan"] = json.loads(json.dumps(dataclasses.asdict(plan)))
    train = found.get("train") or {"reason": found.get("error", "it was not measured")}
    if "reason" in train:
        return row | {"error": train["reason"], "phases": {}}
    peaks = {f"peak_{what}": train["memory"][what] for what in ("allocated_gib", "reserved_gib")}
    return row | {"way": train["execution"], "phases": {"train": peaks}, "step_ms": round(train["ms_per_step"], 1)}


def line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['use']}: {row['name']}: {row['error'][:300]}"
    peaks = " / ".join("-" if size is None else f"{size:.2f}" for size in row["phases"]["train"].values())
    return f"{row['use']}: {row['name']}: {row['step_ms']} ms; {peaks} GiB; {row['way']}"


if __name__ == "__main__":
    main()
