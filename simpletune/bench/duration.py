"""How long the configured run will take, from what was measured. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from simpletune.bench.report import Rate, RunTime, Sampling, Training
from simpletune.config.settings import Settings
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import Preflight, preflight
from simpletune.errors import SimpletuneError
from simpletune.machine.text_memory import TextWay, groups


@dataclass(frozen=True)
class Extent:
    """How much there is to do: steps, and of pictures that could be looked at how many, with how many captions."""

    steps: int
    pictures: int | None = None
    captions: int | None = None
    bucket: tuple[int, int] | None = None  # (width, height) in pixels, the one with most pictures


def extent_of(settings: Settings, *, has_data: bool) -> Extent:
    """Look at the configured pictures, without fetching or writing anything; steps alone where that can't be done."""
    if not has_data:
        return Extent(_steps(settings))
    try:
        looked = preflight(settings, 1, None)
        if looked.plan is None:
            return Extent(_steps(settings))
        plan = plan_of(settings, looked)
        return Extent(plan.steps, plan.pictures, plan.captions, _usual(looked))
    except SimpletuneError:
        return Extent(_steps(settings))


def run_time(
    settings: Settings,
    extent: Extent,
    text: object = None,
    images: object = None,
    train: object = None,
    sample: object = None,
) -> RunTime | None:
    """The run's time in the phases that have figures; None without those of training."""
    if not isinstance(train, Training):
        return None
    seconds: dict[str, float] = {}  # in the order of a run
    left_out = []
    for name, count, one in (("encode text", extent.captions, text), ("encode images", extent.pictures, images)):
        if isinstance(one, Rate) and count is not None:
            seconds[name] = count / one.per_second + _loading(settings, one, count)
        else:
            left_out.append(name)
    seconds["train"] = extent.steps * train.timing.median
    if isinstance(sample, Sampling):
        seconds["validate"] = sample.seconds * validation_pictures(settings, extent.steps)
    elif settings.validation_prompts:
        left_out.append("validate")
    return RunTime(extent.steps, extent.pictures, extent.captions, seconds, tuple(left_out))


def validation_pictures(settings: Settings, steps: int) -> int:
    """Pictures of the base once, then of the adapter at every validation and at the end; of its average as well."""
    one = len(settings.validation_prompts) * len(settings.validation_resolution) * settings.num_validation_images
    times = max(0, steps - 1) // settings.validation_step_interval + 1
    return one * (1 + times * (2 if settings.use_ema else 1))


def _loading(settings: Settings, text: Rate, captions: int) -> float:
    """Seconds that text encoders which come in turn are loaded, once for each group of captions."""
    if text.loading_seconds is None:
        return 0.0
    way, tokens = TextWay(text.way), settings.tokenizer_max_length
    return text.loading_seconds * groups(way, settings.model_flavour, settings.mixed_precision, captions, tokens)


def _steps(settings: Settings) -> int:
    return settings.max_train_steps or 1000


def _usual(looked: Preflight) -> tuple[int, int] | None:
    return max(looked.buckets, key=lambda bucket: looked.buckets[bucket], default=None)
