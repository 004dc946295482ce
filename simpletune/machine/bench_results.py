"""What `simpletune bench --sweep` measured on this machine, for whoever estimates or proposes. Imports no torch.

One file a card, version of torch and version of this program, among the user's caches: other versions are other
speeds, and their files are not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from simpletune import __version__, files, outside
from simpletune.config.installed import torch_build
from simpletune.machine.execution import EIGHT_BIT
from simpletune.machine.forecast import Plan, way_of
from simpletune.machine.user_cache import cache_folder

_FORMAT = 1
# What `Row.execution` begins with where blocks were compiled, and what it says where they couldn't be.
_COMPILED, _FAILED = ("graph over compiled blocks", "compile"), "torch.compile failed"


@dataclass(frozen=True)
class Row:
    """One training step that was measured, or that did not fit. Names are those of config.json where it has the value.

    `size` is (width, height) in pixels. Without figures `failure` says why there are none; `fits` is then False where
    memory was the reason.
    """

    flavour: str
    base_model_precision: str
    mixed_precision: str
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int
    train_batch_size: int
    gradient_accumulation_steps: int
    size: tuple[int, int]
    tokenizer_max_length: int
    lora_rank: int
    lora_target: str | tuple[str, ...]
    optimizer: str
    use_ema: bool
    ms_per_step: float | None = None
    allocated_gib: float | None = None
    reserved_gib: float | None = None
    execution: str | None = None
    failure: str | None = None
    fits: bool = True
    base_model_offload: int = 0
    activation_offload: bool = False
    base_model_matmul: str = "auto"  # or what its products in 8 bits are of
    deterministic: bool = False
    use_dora: bool = False
    lycoris: str | None = None

    @property
    def ms_per_sample(self) -> float | None:
        """None without figures."""
        samples = self.train_batch_size * self.gradient_accumulation_steps
        return None if self.ms_per_step is None else self.ms_per_step / samples

    @property
    def case(self) -> Row:
        """What was measured, without what was found."""
        return replace(
            self, ms_per_step=None, allocated_gib=None, reserved_gib=None, execution=None, failure=None, fits=True
        )


def case_of(plan: Plan) -> Row:
    """The row, without figures, that a plan's training step is."""
    return Row(
        flavour=plan.flavour,
        base_model_precision=plan.base_model_precision,
        mixed_precision=plan.mixed_precision,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_interval=plan.gradient_checkpointing_interval if plan.gradient_checkpointing else 1,
        train_batch_size=plan.train_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        size=plan.bucket,
        tokenizer_max_length=plan.tokenizer_max_length,
        lora_rank=plan.lora_rank,
        lora_target=plan.lora_target,
        optimizer=plan.optimizer,
        use_ema=plan.use_ema,
        base_model_offload=plan.base_model_offload,
        activation_offload=plan.activation_offload,
        base_model_matmul=plan.base_model_matmul if plan.base_model_matmul in EIGHT_BIT else "auto",
        deterministic=plan.deterministic,
        use_dora=plan.use_dora,
        lycoris=plan.lycoris,
    )


def measured_step(card: str, plan: Plan) -> float | None:
    """Seconds of a plan's training step where this very step was measured on the card; quick enough to ask often.

    Not one that ran in another way than the plan's will, as a short run does beside a long one.
    """
    path = results_file(card)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    row = _by_case(card, changed).get(case_of(plan))
    if row is None or row.ms_per_step is None or not _ran_like(row, plan):
        return None
    return row.ms_per_step / 1000


def _ran_like(row: Row, plan: Plan) -> bool:
    """Whether blocks were compiled where the plan's will be; one that can't be compiled tells how it goes without."""
    ran = row.execution
    return ran is None or _FAILED in ran or ran.startswith(_COMPILED) == way_of(plan).compiled


@lru_cache(maxsize=8)
def _by_case(card: str, _changed: int) -> dict[Row, Row]:
    return {row.case: row for row in load(card)}


def load(card: str) -> tuple[Row, ...]:
    """The rows of a card, as its driver names it, for what is installed; none where nothing was measured."""
    try:
        found = outside.read_json(results_file(card))
        if found["format"] != _FORMAT or found["card"] != card:
            return ()
        return tuple(_row(values) for values in found["rows"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return ()


def save(card: str, rows: Iterable[Row]) -> None:
    """Keep rows beside those that are there; a case that was measured before is replaced.

    Raises OSError when the user's cache can't be written.
    """
    kept = {row.case: row for row in load(card)} | {row.case: row for row in rows}
    path = results_file(card)
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {"format": _FORMAT, "card": card, "torch": _torch(), "simpletune": __version__}
    files.write_json(path, {**described, "rows": [asdict(row) for row in kept.values()]})


def results_file(card: str) -> Path:
    """Where the rows of a card are, for what is installed."""
    key = json.dumps([card, _torch(), __version__])
    return cache_folder() / "bench" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@cache
def _torch() -> str:
    build = torch_build()
    return build.version if build else "none"


def _row(values: dict[str, Any]) -> Row:
    # Files of before there was a key, which is always one with a default, don't have it.
    known = {field.name: values[field.name] for field in fields(Row) if field.name in values or _is_needed(field)}
    width, height = known["size"]
    target = known["lora_target"]
    return Row(
        **{
            **known,
            "size": (int(width), int(height)),
            "lora_target": tuple(target) if isinstance(target, list) else target,
        }
    )


def _is_needed(field: Field[Any]) -> bool:
    return field.default is MISSING
