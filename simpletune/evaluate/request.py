"""What an evaluation is asked for: which adapters beside the base, on which prompts and seeds, seen by which models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune import files
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, UsageError
from simpletune.models.family import ModelFiles
from simpletune.models.lora_file import Factors, check_fits, read_adapter
from simpletune.models.parts import open_part
from simpletune.progress import Reporter
from simpletune.results.adapter_choice import LATEST, NONE, AdapterChoice, choose_adapter
from simpletune.results.generate import Order, Variant, order_of
from simpletune.results.run_folder import ADAPTER_FILE, list_checkpoints, verify

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
    """None: the config's validation_* keys. adapters: steps, files, folders, "latest"; None: every saved one of the
    run; ("none",): the base alone. training_pictures: so many at most are looked at, chosen by seed."""

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
    """The base and every chosen adapter, on the same prompts and seeds. Raises UsageError as `order_of`."""
    order = order_of(
        settings,
        prompts=request.prompts,
        seeds=request.seeds,
        sizes=request.sizes,
        steps=request.steps,
        guidance=request.guidance,
        negative=request.negative,
        adapter=None,
        scale=request.scale,
    )
    variants = list(order.variants)
    for chosen in _chosen(settings, request.adapters, reporter):
        variants.append(_variant(chosen, request.scale, {variant.name for variant in variants}))
    return replace(order, variants=tuple(variants))


def read_adapters(model: ModelFiles, order: Order) -> dict[Variant, dict[str, Factors]]:
    """Every adapter's weights, found to fit the model. Raises ConfigError naming the file that is unreadable or was
    trained on another model; nothing heavy is loaded for it."""
    empty = open_part(model, "transformer").empty_module()
    adapters = {}
    for variant in order.variants:
        if variant.adapter is not None:
            adapters[variant] = read_adapter(variant.adapter.path, "--adapter")
            try:
                check_fits(adapters[variant], empty, f"--adapter: {variant.adapter.path}")
            except ConfigError as error:
                raise ConfigError(f"{error.message}; this model is {model.source}", error.hint) from error
    return adapters


def adapter_digest(variant: Variant) -> str | None:
    return None if variant.adapter is None else files.sha256(variant.adapter.path)


def _chosen(settings: Settings, wanted: Sequence[str | Path] | None, reporter: Reporter) -> list[AdapterChoice]:
    if wanted is None:
        wanted = _saved(settings, reporter)
    chosen = [choose_adapter(wish, settings, reporter.warn) for wish in wanted]
    if None in chosen and len(chosen) > 1:
        raise UsageError(f"--adapter {NONE} beside other adapters", "the base is always among the compared")
    by_file = {choice.path.resolve(): choice for choice in chosen if choice is not None}
    return sorted(by_file.values(), key=lambda choice: (choice.steps is None, choice.steps or 0, choice.name))


def _saved(settings: Settings, reporter: Reporter) -> list[str | Path]:
    """All of a run's intact checkpoints, its final adapter, and the averaged one; damaged ones are named."""
    steps: list[str | Path] = []
    for step, folder in list_checkpoints(settings.output_dir):
        problems = verify(folder)
        if problems:
            reporter.warn(f"{folder} is damaged and left out: {'; '.join(problems)}")
        else:
            steps.append(str(step))
    newest = choose_adapter(LATEST, settings, lambda _line: None)
    if newest is None or str(newest.steps) not in steps:
        steps.append(LATEST)
    averaged = settings.output_dir / "ema" / ADAPTER_FILE
    return [*steps, averaged] if averaged.is_file() else steps


def _variant(chosen: AdapterChoice, scale: float, taken: set[str]) -> Variant:
    """The adapter with a name of its own: two files of one name are told apart by digits of their folders' path."""
    marked = "" if scale == 1 else f"-scale-{scale:g}"
    name, title = chosen.name + marked, chosen.title + (f", scale {scale:g}" if marked else "")
    if name in taken:
        name += "-" + hashlib.sha256(str(chosen.path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:6]
        title = f"{title} ({name})"
    return Variant(name, title, chosen, scale)
