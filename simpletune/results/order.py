"""What `simpletune generate` is asked for: prompts x sizes x seeds, each as every variant of the model draws it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune.config.settings import Settings
from simpletune.errors import UsageError
from simpletune.progress import Reporter, SilentReporter
from simpletune.results.adapter_choice import LATEST, NONE
from simpletune.results.prompts import named_prompts
from simpletune.results.run_folder import GENERATED_FOLDER
from simpletune.results.studio import Shot
from simpletune.results.variants import Variant, choose_adapters, number_text, variants_of

__all__ = ["Order", "SkipLayers", "Variant", "order_of"]

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: which blocks are left out, how strongly, and in which part of sampling (0 to 1)."""

    layers: tuple[int, ...]
    scale: float
    start: float
    stop: float


@dataclass(frozen=True)
class Order:
    """Which pictures to make, and how they are sampled. Sizes are (width, height) in pixels."""

    prompts: Mapping[str, str]  # name -> prompt
    seeds: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    negative_prompt: str
    skip: SkipLayers | None
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
        skip = self.skip
        return replace(
            settings,
            validation_num_inference_steps=self.steps,
            validation_guidance=self.guidance,
            validation_negative_prompt=self.negative_prompt,
            validation_guidance_skip_layers=skip.layers if skip else None,
            validation_guidance_skip_scale=skip.scale if skip else settings.validation_guidance_skip_scale,
            validation_guidance_skip_layers_start=skip.start
            if skip
            else settings.validation_guidance_skip_layers_start,
            validation_guidance_skip_layers_stop=skip.stop if skip else settings.validation_guidance_skip_layers_stop,
        )

    def folder_in(self, output_dir: Path) -> Path:
        """Where the pictures go when nothing else is said: pictures sampled otherwise have another folder."""
        name = f"{self.steps}-steps-guidance-{number_text(self.guidance)}"
        if self.skip is not None:
            numbers = map(number_text, (*self.skip.layers, self.skip.scale, self.skip.start, self.skip.stop))
            name += f"-skip-{'-'.join(map(str, self.skip.layers[:6]))}-{_digits(' '.join(numbers))}"
        if self.negative_prompt:
            name += f"-negative-{_digits(self.negative_prompt)}"
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
    skip_layers: Sequence[int] | None = None,
    skip_scale: float | None = None,
    skip_start: float | None = None,
    skip_stop: float | None = None,
    adapter: str | Path | Sequence[str | Path] | None = LATEST,
    base: bool = True,
    scale: float | Sequence[float] = 1.0,
    reporter: Reporter | None = None,
) -> Order:
    """An order with what isn't given taken from the config's validation_* keys.

    adapter: "latest", "all", a step, a file or folder, several of these, or None ("none") for the base alone; each is
    drawn at every `scale`. `base`: the base beside them. skip_layers: () for no skip-layer guidance. Raises UsageError
    for what can't be ordered: no prompts, no such adapter, neither base nor adapter, odd numbers.
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
    if sizes is not None and not sizes:
        raise UsageError("there are no sizes, so there is nothing to draw", "name one: --size 1024x1024")
    start, count = settings.validation_seed, settings.num_validation_images
    wanted = range(start, start + count) if seeds is None else seeds
    wishes: Sequence[str | Path] = [adapter or NONE] if isinstance(adapter, str | Path | None) else adapter
    chosen = choose_adapters(wishes, settings, (reporter or SilentReporter()).warn)
    guided = settings.validation_guidance if guidance is None else float(guidance)
    return Order(
        prompts=named,
        seeds=_seeds(wanted),
        sizes=tuple(dict.fromkeys(settings.validation_resolution if sizes is None else sizes)),
        steps=settings.validation_num_inference_steps if steps is None else steps,
        guidance=guided,
        negative_prompt=settings.validation_negative_prompt if negative is None else negative,
        skip=_skip(settings, guided, skip_layers, skip_scale, skip_start, skip_stop),
        variants=variants_of(chosen, [scale] if isinstance(scale, int | float) else scale, base),
    )


def _seeds(wanted: Sequence[int]) -> tuple[int, ...]:
    """Each seed once, in order. Raises UsageError for one no generator takes."""
    for seed in wanted:
        if not 0 <= seed <= _LARGEST_SEED:
            raise UsageError(f"--seed: {seed} is no seed", "seeds are whole numbers from 0 up")
    if not wanted:
        raise UsageError("there are no seeds, so there is nothing to draw", "name one: --seed 42")
    return tuple(dict.fromkeys(wanted))


def _skip(
    settings: Settings,
    guidance: float,
    layers: Sequence[int] | None,
    scale: float | None,
    start: float | None,
    stop: float | None,
) -> SkipLayers | None:
    """Which blocks the model has is checked where its files are known."""
    asked = layers is not None or not (scale is start is stop is None)
    if layers is None:
        layers = settings.validation_guidance_skip_layers or ()
        if not layers and asked:
            message = "--skip-scale, --skip-start and --skip-stop say nothing without blocks to skip"
            raise UsageError(message, "name them, for instance --skip-layers 7,8,9")
    if not layers:
        return None
    if asked and guidance <= 1:
        message = f"--skip-layers has no effect with guidance {number_text(guidance)}, which is none"
        raise UsageError(message, "set --guidance above 1")
    skip = SkipLayers(
        tuple(dict.fromkeys(layers)),
        settings.validation_guidance_skip_scale if scale is None else scale,
        settings.validation_guidance_skip_layers_start if start is None else start,
        settings.validation_guidance_skip_layers_stop if stop is None else stop,
    )
    if skip.start >= skip.stop:
        message = f"--skip-stop {number_text(skip.stop)} must be above --skip-start {number_text(skip.start)}"
        raise UsageError(message, "both are parts of sampling, from 0 to 1")
    return skip


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:6]
