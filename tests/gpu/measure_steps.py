"""Measure training steps alone for the estimate's fit: `python tests/gpu/measure_steps.py OUTFILE`.

Each of estimate_cases.STEPS is `simpletune bench` in a process of its own, with random weights. Before a group of cases
is measured, one after the other, its code is compiled in as many processes at once, which the user's cache keeps: that
takes most of the time. A row is written when it is there and not measured again, so that several calls with a budget
can share the work. `tests/machine/estimate_table.py OUTFILE` shows the rows beside the estimate;
tests/machine/measured_compiled.json is such a file.

    --memory-only   several cases at a time on one card, as many as it has room for: rows have no times. What a case
                    may need is kept free for it, so that it decides as it would alone whether attention is kept
    --tiny          on a processor, at an eighth of the size and without compiling: for trying this script
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estimate_cases import STEPS, Case
from measure_estimate import as_tiny, read_rows, write_rows

from simpletune.bench.subject import subject_of
from simpletune.bench.sweep import run_bench
from simpletune.machine import activations, estimate
from simpletune.machine.allocator import maps_in_pages
from simpletune.machine.devices import usable_memory
from simpletune.machine.forecast import TRAIN, Plan, forecast, with_room_of

_RUN = 20_000  # steps of the run that each step is of
_KEYS = (  # of a case, those that a step depends on
    "model_flavour", "mixed_precision", "base_model_precision", "lora_rank", "lora_target", "tokenizer_max_length",
    "train_batch_size", "gradient_checkpointing", "gradient_checkpointing_interval", "resolution", "execution",
)  # fmt: skip


_CONTEXT = 700 << 20  # of each process, beside what torch reserves
_MARGIN = 1.3  # of what the forecast says
_SPARE = 0.95  # of a card, for cases side by side


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training steps that the estimate is fitted to.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument(
        "--budget", type=float, default=3600, metavar="SECONDS", help="begin no group of cases after it"
    )
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="processes that compile side by side")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases with these words in their name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every case")
    parser.add_argument("--memory-only", action="store_true", help="N cases at a time, without times")
    parser.add_argument("--tiny", action="store_true", help="try this script out on a processor")
    given = parser.parse_args()
    rows = Rows(given.outfile)
    missing = [case for case in STEPS if given.only in case.name and case.name not in rows.names]
    (side_by_side if given.memory_only else in_turn)(missing, rows, given)
    print(f"{len(rows.rows)} rows in {given.outfile}")


class Rows:
    """The file's rows: each is written, and said, as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self._path, self._began = path, time.monotonic()
        self.rows, self._machine, self._adding = read_rows(path), device_of(path), threading.Lock()

    @property
    def names(self) -> set[str]:
        return {row["name"] for row in self.rows}

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, row: dict[str, Any], found: Mapping[str, Any]) -> None:
        with self._adding:
            self.rows.append(row)
            self._machine = found.get("machine", self._machine)
            write_rows(self._path, self._machine, self.rows)
            print(f"[{self.seconds():4.0f} s] {line(row)}", flush=True)


def device_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["device"] if path.exists() else {}
    return found


def in_turn(missing: Sequence[Case], rows: Rows, given: argparse.Namespace) -> None:
    """Compile some at once, then measure them one after the other."""
    for first in range(0, len(missing), given.at_once):
        if rows.seconds() > given.budget:
            break
        group = [(case, overrides_of(case, given)) for case in missing[first : first + given.at_once]]
        if not given.tiny:
            with ThreadPoolExecutor(given.at_once) as pool:
                list(pool.map(lambda one: bench(one[1], 1), group))
            print(f"[{rows.seconds():4.0f} s] compiled: {len(group)}", flush=True)
        for case, overrides in group:
            found = bench(overrides, given.steps)
            rows.add(row_of(case, overrides, found), found)


def side_by_side(missing: Sequence[Case], rows: Rows, given: argparse.Namespace) -> None:
    """As many at once as there is room for, those that need most first."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, 2 * (os.cpu_count() or 1) // given.at_once))
    asked = [(case, overrides_of(case, given)) for case in missing]
    wanted = sorted(
        ((claim(plan_of(overrides)), case, overrides) for case, overrides in asked), key=lambda one: -one[0]
    )
    total = None if given.tiny or not asked else memory_of(asked[0][1])
    room = Room(None if total is None else total * _SPARE)

    def measured(size: float, case: Case, overrides: Sequence[str]) -> None:
        with room.taken(size):
            found = bench(overrides, 1) if rows.seconds() <= given.budget else None
        if found is not None:
            rows.add(row_of(case, overrides, found, timed=False), found)

    with ThreadPoolExecutor(given.at_once) as pool:
        for done in [pool.submit(measured, *one) for one in wanted]:
            done.result()


class Room:
    """A card's memory, handed out in bytes; None is endless."""

    def __init__(self, total: float | None) -> None:
        self._total, self._left, self._changed = total, total, threading.Condition()

    @contextmanager
    def taken(self, wanted: float) -> Iterator[None]:
        """Wait until so much is left, or nobody has any."""
        if self._left is None or self._total is None:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._left >= min(wanted, self._total))
            self._left -= min(wanted, self._total)
        try:
            yield
        finally:
            with self._changed:
                self._left += min(wanted, self._total)
                self._changed.notify_all()


def claim(plan: Plan) -> float:
    """What a step may take, and what must be free for it to keep attention's results, as it would with the card to
    itself: four times those, beside the model."""
    step = _MARGIN * forecast(plan).phase(TRAIN).bytes
    tokens = plan.train_batch_size * estimate.image_tokens(*plan.bucket)
    weights = estimate.weight_bytes(plan.flavour, "transformer", plan.base_model_precision, plan.mixed_precision)
    kept = 1.1 * weights + 4.2 * activations.attention_bytes(plan.flavour, tokens)
    return max(step, kept if plan.keeps_attention else 0) + _CONTEXT


def plan_of(overrides: Sequence[str]) -> Plan:
    """The plan of a step with a card to itself."""
    subject, memory = subject_of(None, overrides, None), memory_of(overrides)
    return with_room_of(subject.plan, None if memory is None else usable_memory(memory, subject.device.kind))


def memory_of(overrides: Sequence[str]) -> int | None:
    return subject_of(None, overrides, None).device.memory_bytes


def bench(overrides: Sequence[str], steps: int) -> Mapping[str, Any]:
    arguments = ["--phases", "train", "--json", "--steps", str(steps)]
    return run_bench([*arguments, *(word for text in overrides for word in ("--set", text))])


def overrides_of(case: Case, given: argparse.Namespace) -> list[str]:
    """What makes the default configuration the case's."""
    config = case.config()
    keys = {key: config[key] for key in _KEYS if key in config} | {"device": "cuda", "max_train_steps": _RUN}
    if given.tiny:
        keys = as_tiny(keys) | {"device": "cpu", "mixed_precision": "no", "execution": "eager"}
    texts = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]
    return [*texts, *given.set]


def row_of(case: Case, overrides: Sequence[str], found: Mapping[str, Any], *, timed: bool = True) -> dict[str, Any]:
    """The case's row, in the form of measurements.json. A failure is kept as one, it may be what is to be known."""
    row: dict[str, Any] = {"name": case.name, "use": case.use, "in_pages": maps_in_pages()}
    row["plan"] = json.loads(json.dumps(dataclasses.asdict(plan_of(overrides))))
    train = found.get("train") or {"reason": found.get("error", "it was not measured")}
    if "reason" in train:
        return row | {"error": train["reason"], "phases": {}}
    peaks = {f"peak_{what}": train["memory"][what] for what in ("allocated_gib", "reserved_gib")}
    step = round(train["ms_per_step"], 1) if timed else None
    return row | {"way": train["execution"], "phases": {"train": peaks}, "step_ms": step}


def line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['use']}: {row['name']}: {row['error'][:300]}"
    peaks = " / ".join("-" if size is None else f"{size:.2f}" for size in row["phases"]["train"].values())
    return f"{row['use']}: {row['name']}: {row['step_ms']} ms; {peaks} GiB; {row['way']}"


if __name__ == "__main__":
    main()
