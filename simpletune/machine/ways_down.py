"""The cheapest changes that make a run fit into a card's memory, phase by phase."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from simpletune.config.offload import STAGED
from simpletune.machine.forecast import (
    ENCODE_IMAGES,
    ENCODE_TEXT,
    PHASES,
    TRAIN,
    VALIDATE,
    Plan,
    as_modules,
    forecast,
    way_of,
    with_room_of,
)
from simpletune.machine.shapes import family_flavour

_BITS = {"no_change": 16, "int8-quanto": 8, "fp8-quanto": 8, "int4-quanto": 4, "int2-quanto": 2}
_EDGES = (768, 640, 512, 384, 256)  # shorter edges worth training or sampling at
_SMALLEST_SAMPLE = 512

# From what costs nothing to what costs most: the order in which changes are shown.
_ORDER = (
    "vae_batch_size",
    "text_encoder_batch_size",
    "validation_resolution",
    "gradient_checkpointing",
    "gradient_checkpointing_interval",
    "train_batch_size",
    "gradient_accumulation_steps",
    "text_encoder_3_precision",
    "base_model_precision",
    "base_model_offload",
    "resolution",
    "use_t5",
)


@dataclass(frozen=True)
class Change:
    """One key of config.json (or "resolution") to set to `value`: what `phase` then saves, and what it costs."""

    key: str
    value: Any
    saves: int  # bytes
    phase: str
    cost: str


@dataclass(frozen=True)
class _Step:
    """A change that could be made: the keys it sets, the plan it leads to, and its cost in words."""

    values: dict[str, Any]
    plan: Plan
    cost: str


def ways_down(plan: Plan, limit_bytes: int, phases: Collection[str] = PHASES) -> tuple[Change, ...] | None:
    """The cheapest set of changes after which all of `phases` fit into `limit_bytes`, cheapest first.

    () when the plan fits as it is, None when nothing makes it fit. Only what lowers a phase that is over is changed,
    each key no further than needed; a change that turns out not to be needed beside a later one is left out.
    """
    plan = replace(plan, device_bytes=limit_bytes)
    found: dict[str, Change] = {}
    reached = plan
    while (over := _over(reached, limit_bytes, phases)) is not None:
        phase, size = over
        step = next((step for step in _steps(reached, phase) if _bytes(step.plan, phase) < size), None)
        if step is None:
            return None
        saved = size - _bytes(step.plan, phase)
        for key, value in step.values.items():
            before = found.get(key)
            found[key] = Change(key, value, saved + (before.saves if before else 0), phase, step.cost)
            saved = 0  # what goes with it saves nothing of its own
        reached = step.plan
    return _needed(plan, limit_bytes, phases, sorted(found.values(), key=lambda change: _ORDER.index(change.key)))


def _needed(plan: Plan, limit: int, phases: Collection[str], changes: list[Change]) -> tuple[Change, ...]:
    """Without each change that the others make needless, the costliest tried first."""
    kept = list(changes)
    for change in reversed(changes):
        others = [other for other in kept if other is not change and not _goes_with(other, change)]
        if change.saves and _over(_with(plan, others), limit, phases) is None:
            kept = others
    return tuple(kept)


def _goes_with(change: Change, other: Change) -> bool:
    """Accumulation makes up for a smaller batch, and is no change without it."""
    return change.key == "gradient_accumulation_steps" and other.key == "train_batch_size"


def _with(plan: Plan, changes: Iterable[Change]) -> Plan:
    for change in changes:
        plan = applied(plan, change)
    return plan


def applied(plan: Plan, change: Change) -> Plan:
    """The plan with one change made."""
    if change.key == "resolution":
        return replace(plan, bucket=_scaled(plan, plan.bucket, change.value))
    if change.key == "validation_resolution":
        sides = [size.partition("x") for size in change.value.split(",")]
        return replace(plan, validation_sizes=tuple((int(width), int(height)) for width, _, height in sides))
    if change.key == "text_encoder_3_precision":
        return replace(plan, text_encoder_precisions=(*plan.text_encoder_precisions[:2], change.value))
    return replace(plan, **{change.key: change.value})


def _over(plan: Plan, limit: int, phases: Collection[str]) -> tuple[str, int] | None:
    """The first of the phases that doesn't fit, and its bytes."""
    found = ((phase.phase, phase.bytes) for phase in forecast(plan).phases if phase.phase in phases)
    return next(((name, size) for name, size in found if size > limit), None)


def _bytes(plan: Plan, phase: str) -> int:
    return forecast(plan).phase(phase).bytes


def _steps(plan: Plan, phase: str) -> Iterator[_Step]:
    """The next changes to try for a phase, cheapest first."""
    for values, cost in _CANDIDATES[phase](plan):
        changes = [Change(key, value, 0, phase, cost) for key, value in values.items()]
        yield _Step(values, _with(plan, changes), cost)


Candidates = Iterator[tuple[dict[str, Any], str]]


def _for_text(plan: Plan) -> Candidates:
    if plan.text_encoder_batch_size > 1:
        yield (
            {"text_encoder_batch_size": plan.text_encoder_batch_size // 2},
            "captions are encoded a little more slowly, once",
        )
    if plan.use_t5:
        for precision in ("int8-quanto", "int4-quanto"):
            if _BITS[precision] < _BITS[plan.text_encoder_precisions[2]]:
                yield {"text_encoder_3_precision": precision}, "captions are understood a little less exactly"
        yield {"use_t5": False}, "long captions and written words are followed less well"


def _for_images(plan: Plan) -> Candidates:
    if plan.vae_batch_size > 1:
        yield {"vae_batch_size": plan.vae_batch_size // 2}, "pictures are encoded a little more slowly, once"
    yield from _smaller_pictures(plan)


def _for_training(plan: Plan) -> Candidates:
    if not plan.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, recomputing_cost(plan)
    elif plan.gradient_checkpointing_interval > 1:
        yield {"gradient_checkpointing_interval": 1}, "steps take a little longer"
    if plan.train_batch_size > 1:
        batch = -(-plan.train_batch_size // 2)
        total = plan.train_batch_size * plan.gradient_accumulation_steps
        yield (
            {"train_batch_size": batch, "gradient_accumulation_steps": -(-total // batch)},
            "the same result, at a lower speed",
        )
    yield from _smaller_base(plan, TRAIN)
    yield from _smaller_pictures(plan)


def recomputing_cost(plan: Plan) -> str:
    """How much longer steps get by gradient checkpointing, as a sentence: as measured, docs/performance.md.

    A compiled step computes little twice, and attention not at all where there is room for its results.
    """
    if not way_of(plan).compiled:
        return "steps take about a third longer"
    if plan.device_bytes is None:
        return "steps take 15 to 30% longer"
    keeps = with_room_of(replace(plan, gradient_checkpointing=True), plan.device_bytes).keeps_attention
    return f"steps take about {15 if keeps else 30}% longer"


def _for_validation(plan: Plan) -> Candidates:
    """Smaller samples first, but a quantized base before samples that are too small to judge by."""
    yield from _smaller_samples(plan, (edge for edge in _EDGES if edge >= _SMALLEST_SAMPLE))
    yield from _smaller_base(plan, VALIDATE)
    yield from _smaller_samples(plan, _EDGES)


def _smaller_samples(plan: Plan, edges: Iterable[int]) -> Candidates:
    sizes = plan.validation_sizes or (plan.bucket,)
    edge = next((edge for edge in edges if edge < max(min(size) for size in sizes)), None)
    if edge is not None:
        smaller = dict.fromkeys(size if min(size) <= edge else _scaled(plan, size, edge) for size in sizes)
        value = ",".join(f"{width}x{height}" for width, height in smaller)
        yield {"validation_resolution": value}, "sample pictures are smaller; training stays as it is"


def _smaller_base(plan: Plan, phase: str) -> Candidates:
    """In 8 bits; with blocks offloaded, which costs nothing of what is learned; then less exact than that."""
    if _BITS[plan.base_model_precision] <= 8:
        yield from _offloaded_base(plan, phase)
    yield from _fewer_bits(plan)
    yield from _offloaded_base(plan, phase)


def _offloaded_base(plan: Plan, phase: str) -> Candidates:
    """With as few blocks offloaded as make the phase fit, or with all."""
    everything = family_flavour(plan.flavour).block_count
    counts = range(max(plan.base_model_offload, STAGED) + 1, everything + 1)
    if plan.device in ("cpu", "mps") or not counts or as_modules(plan):
        return

    def fits(count: int) -> bool:
        return _bytes(replace(plan, base_model_offload=count), phase) <= (plan.device_bytes or 0)

    yield (
        {"base_model_offload": next(filter(fits, counts), everything)},
        "steps get longer, the more the slower the link to the card is; what is learned stays the same",
    )


def _fewer_bits(plan: Plan) -> Candidates:
    compiled = way_of(plan).compiled  # which unpacks 4 and 2 bits at next to no cost
    costs = {
        "int8-quanto": "next to none was seen, neither in speed nor in loss",
        "int4-quanto": f"steps are {'a little longer' if compiled else 'up to half as long again'}, "
        "and the base is a little less exact",
        "int2-quanto": f"steps are {'a little longer' if compiled else 'up to twice as long'}, "
        "and the base is clearly less exact",
    }
    for precision, cost in costs.items():
        if _BITS[precision] < _BITS[plan.base_model_precision]:
            yield {"base_model_precision": precision}, cost


def _smaller_pictures(plan: Plan) -> Candidates:
    for smaller in _EDGES:
        if smaller < min(plan.bucket):
            yield {"resolution": smaller}, "details of the pictures are lost"
            break


_CANDIDATES = {
    ENCODE_TEXT: _for_text,
    ENCODE_IMAGES: _for_images,
    TRAIN: _for_training,
    VALIDATE: _for_validation,
}


def _scaled(plan: Plan, size: tuple[int, int], edge: int) -> tuple[int, int]:
    """The size with `edge` as its shorter side, in steps of what buckets are aligned to."""
    factor, step = edge / min(size), family_flavour(plan.flavour).bucket_alignment
    width, height = (max(step, round(side * factor / step) * step) for side in size)
    return width, height
