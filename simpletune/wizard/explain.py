"""What the values of a key would take of the device's memory, with everything else as the files say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from simpletune.config.schema import config_keys
from simpletune.config.settings import Settings
from simpletune.data.forecast import sketch
from simpletune.machine.forecast import Plan, forecast

_ENCODERS = ("text_encoder_1_precision", "text_encoder_2_precision", "text_encoder_3_precision")
_EDGES = (512, 768, 1024)


@dataclass(frozen=True)
class Row:
    """A value a key may have, whether it has it now, and the peak of each phase in bytes."""

    value: Any
    is_now: bool
    phases: dict[str, int]


def memory_of(key: str, settings: Settings) -> tuple[Row, ...]:
    """A row for each value worth comparing, with the phases that it changes; () where memory doesn't depend on it."""
    plan = sketch(settings)
    now = _now(plan, key)
    if now is None:
        return ()
    rows = [Row(value, value == now, _phases(_with(plan, key, value))) for value in _values(key, now)]
    moving = [phase for phase in rows[0].phases if len({row.phases[phase] for row in rows}) > 1]
    return tuple(replace(row, phases={phase: row.phases[phase] for phase in moving}) for row in rows if moving)


def _phases(plan: Plan) -> dict[str, int]:
    return {phase.phase: phase.bytes for phase in forecast(plan).phases}


def _now(plan: Plan, key: str) -> Any:
    if key in _ENCODERS:
        return plan.text_encoder_precisions[_ENCODERS.index(key)]
    if key == "resolution":
        return plan.bucket[0]
    if key == "validation_resolution":
        return max(plan.validation_sizes, key=lambda size: size[0] * size[1])[0]
    return getattr(plan, _FIELDS.get(key, key), None)


# What a plan calls otherwise.
_FIELDS = {"model_flavour": "flavour"}


def _with(plan: Plan, key: str, value: Any) -> Plan:
    if key in _ENCODERS:
        first, second, third = (
            value if name == key else old for name, old in zip(_ENCODERS, plan.text_encoder_precisions, strict=True)
        )
        return replace(plan, text_encoder_precisions=(first, second, third))
    if key == "resolution":
        return replace(plan, bucket=(value, value))
    if key == "validation_resolution":
        return replace(plan, validation_sizes=((value, value),))
    changes: dict[str, Any] = {_FIELDS.get(key, key): value}
    return replace(plan, **changes)


def _values(key: str, now: Any) -> list[Any]:
    """What to compare: all of a few choices; of a number half, itself and the double; of a size the usual ones."""
    schema = config_keys()[key]
    if isinstance(now, bool):
        return [False, True]
    if key in ("resolution", "validation_resolution"):
        return sorted({*_EDGES, now})
    if isinstance(now, int):
        return list(_around(now, schema.get("minimum", 1), schema.get("maximum", now * 2)))
    if isinstance(now, float):
        return [now]  # none of them changes what is needed by more than how the step runs
    choices = schema.get("enum") or schema["then"]["enum"]
    return [*choices, *([] if now in choices else [now])]


def _around(now: int, least: int, most: int) -> Iterator[int]:
    yield from sorted({value for value in (now // 2, now, now * 2) if least <= value <= most})
