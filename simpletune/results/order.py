"""What `simpletune generate` is asked for: prompts x sizes x seeds, each as every variant of the model draws it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune.config.settings import Settings
from simpletune.errors import UsageError
from simpletune.progress import Reporter, SilentReporter
from simpletune.results.adapter_choice import LATEST, NONE, AdapterChoice, choose_adapter
from simpletune.results.prompts import named_prompts
from simpletune.results.run_folder import GENERATED_FOLDER
from simpletune.results.studio import Shot

BASE = "base"
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Variant:
    """A model to draw with: the base, or the base with an adapter at a strength. `name` is its folder's."""

    name: str
    title: str
    adapter: AdapterChoice | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Order:
    """Which pictures to make, and how they are sampled. Sizes are (width, height) in pixels."""

    prompts: Mapping[str, str]  # name -> prompt
    seeds: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    negative_prompt: str
    variants: tuple[Variant, ...]

    def shots(self) -> list[Shot]:
        """A variant's pictures, in the order they are taken: prompt by prompt, size by size, seed by seed."""
        return [
            Shot(name, prompt, width, height, seed)
            for name, prompt in self.prompts.items()
            for width, height in self.sizes
            for seed in self.seeds
        ]

    def applied(self, settings: Settings) -> Settings:
        """The run's settings, sampling as ordered."""
        return replace(
            settings,
            validation_num_inference_steps=self.steps,
            validation_guidance=self.guidance,
            validation_negative_prompt=self.negative_prompt,
        )

    def folder_in(self, output_dir: Path) -> Path:
        """Where the pictures go when nothing else is said: pictures sampled otherwise have another folder."""
        name = f"{self.steps}-steps-guidance-{self.guidance:g}"
        if self.negative_prompt:
            name += f"-negative-{hashlib.sha256(self.negative_prompt.encode('utf-8', 'replace')).hexdigest()[:6]}"
        return output_dir / GENERATED_FOLDER / name


def order_of(
    settings: Settings,
    *,
    prompts: Mapping[str, str] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    adapter: str | Path | None = LATEST,
    base: bool = True,
    scale: float = 1.0,
    reporter: Reporter | None = None,
) -> Order:
    """An order with what isn't given taken from the config's validation_* keys.

    adapter: "latest", a step, a file or folder, or None ("none") for the base alone; `base`: the base beside it.
    Raises UsageError for what can't be ordered: no prompts, no such adapter, neither base nor adapter, odd numbers.
    """
    if prompts is None:
        named = dict(settings.validation_prompts)
    else:
        named = dict(prompts) if isinstance(prompts, Mapping) else named_prompts(prompts)
    if not named:
        raise UsageError(
            "there are no prompts: none was given, and the config has no validation_prompt",
            'say what to draw: --prompt "a red parrot", or --prompts FILE',
        )
    start, count = settings.validation_seed, settings.num_validation_images
    wanted = range(start, start + count) if seeds is None else seeds
    return Order(
        prompts=named,
        seeds=_seeds(wanted),
        sizes=tuple(dict.fromkeys(settings.validation_resolution if sizes is None else sizes)),
        steps=settings.validation_num_inference_steps if steps is None else steps,
        guidance=settings.validation_guidance if guidance is None else float(guidance),
        negative_prompt=settings.validation_negative_prompt if negative is None else negative,
        variants=_variants(settings, adapter, base, scale, reporter or SilentReporter()),
    )


def _seeds(wanted: Sequence[int]) -> tuple[int, ...]:
    """Each seed once, in order. Raises UsageError for one no generator takes."""
    for seed in wanted:
        if not 0 <= seed <= _LARGEST_SEED:
            raise UsageError(f"--seed: {seed} is no seed", "seeds are whole numbers from 0 up")
    return tuple(dict.fromkeys(wanted))


def _variants(
    settings: Settings, adapter: str | Path | None, base: bool, scale: float, reporter: Reporter
) -> tuple[Variant, ...]:
    if not math.isfinite(scale):
        raise UsageError(f"--scale: {scale} is no strength", "1 is the adapter as it was trained")
    chosen = choose_adapter(NONE if adapter is None else adapter, settings, reporter.warn)
    if chosen is None and not base:
        raise UsageError("neither the base nor an adapter is asked for", "take --no-base or --adapter none away")
    variants = [Variant(BASE, BASE)] if base else []
    if chosen is not None:
        marked = scale != 1
        name = f"{chosen.name}-scale-{scale:g}" if marked else chosen.name
        variants.append(Variant(name, f"{chosen.title}, scale {scale:g}" if marked else chosen.title, chosen, scale))
    return tuple(variants)
