"""What an evaluation is asked for: which adapters beside the base, on which prompts and seeds, seen by which models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune import files
from simpletune.config.settings import Settings
from simpletune.progress import Reporter
from simpletune.results.generate import Order, Variant, order_of
from simpletune.results.variants import ALL

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dinov2-base"


@dataclass(frozen=True)
class Models:
    """The feature models: a folder, a hub id, or "none". None: the default, which may be out of reach.

    csd: a .safetensors file or its folder. statistics: describe by colours and edges too, not only in DINO's place.
    """

    clip: str | None = None
    dino: str | None = None
    csd: str | None = None
    statistics: bool = False


@dataclass(frozen=True)
class Request:
    """None: the config's validation_* keys. adapters: steps, files, folders, "latest", "all"; None: every saved one
    of the run; ("none",): the base alone. training_pictures: so many at most are looked at, chosen by seed."""

    prompts: Mapping[str, str] | Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    adapters: Sequence[str | Path] | None = None
    scale: float = 1.0
    models: Models = Models()
    training_pictures: int = 2000


def order_for(settings: Settings, request: Request, reporter: Reporter) -> Order:
    """The base and every chosen adapter by their steps, on the same prompts and seeds. Raises UsageError as
    `order_of`."""
    order = order_of(
        settings,
        prompts=request.prompts,
        seeds=request.seeds,
        sizes=request.sizes,
        steps=request.steps,
        guidance=request.guidance,
        negative=request.negative,
        adapter=[ALL] if request.adapters is None else request.adapters,
        scale=request.scale,
        reporter=reporter,
    )
    return replace(order, variants=tuple(sorted(order.variants, key=_by_steps)))


def _by_steps(variant: Variant) -> tuple[bool, bool, int, str]:
    """The base, then adapters of known steps, then others."""
    steps = None if variant.adapter is None else variant.adapter.steps
    return variant.adapter is not None, steps is None, steps or 0, variant.name


def adapter_digest(variant: Variant) -> str | None:
    return None if variant.adapter is None else files.sha256(variant.adapter.path)
