"""What a schema can't say of sizes: steps they stand on, and what a model has positions for.

`config/rules_data.py` asks here for a data set's own resolution. Buckets are known once the pictures have been looked
at: `data/preflight_problems.py` holds them against the same limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.config.architecture import side_limit
from simpletune.config.document import Keys
from simpletune.config.problems import Problem
from simpletune.config.rules import rule
from simpletune.config.view import View

_SOURCE = "pretrained_model_name_or_path"


@rule("aspect_bucket_alignment", "model_family")
def alignment_fits(whole: View) -> Iterator[Problem]:
    config, multiple = whole.config, whole.family.size_multiple
    step = config["aspect_bucket_alignment"]
    if step is not None and step % multiple:
        nearest = max(multiple, round(step / multiple) * multiple)
        message = f'"aspect_bucket_alignment" must be a multiple of {multiple}, not {step}'
        yield config.error("aspect_bucket_alignment", message, f"write {nearest}")


@rule("resolution", "aspect_bucket_alignment", "model_flavour")
def resolution_on_step(whole: View) -> Iterator[Problem]:
    if whole.config["resolution"] is not None:
        yield from off_step(whole.config, whole.config["resolution"], whole.alignment)


def off_step(keys: Keys, resolution: int, step: int) -> Iterator[Problem]:
    """The warning that a resolution is rounded."""
    if resolution % step:
        nearest = max(step, round(resolution / step) * step)
        message = f'"resolution" {resolution} is not a multiple of {step}, so pictures are rounded to it'
        yield keys.warning("resolution", message, f"write {nearest}")


@rule("validation_resolution", "model_family")
def sample_sizes_fit(whole: View) -> Iterator[Problem]:
    value, multiple = whole.config["validation_resolution"], whole.family.size_multiple
    if value is None:
        return
    for width, height in sizes(value):
        for side in (width, height):
            if side % multiple or side < multiple:
                nearest = max(multiple, round(side / multiple) * multiple)
                message = f'"validation_resolution": sides must be multiples of {multiple}, not {side}'
                yield whole.config.error("validation_resolution", message, f"write {nearest}")
                return


def sizes(value: int | str) -> tuple[tuple[int, int], ...]:
    """validation_resolution as (width, height) pairs."""
    if isinstance(value, int):
        return ((value, value),)
    pairs = (part.strip().split("x") for part in value.split(","))
    return tuple((int(width), int(height)) for width, height in pairs)


@rule("resolution", "validation_resolution", "model_flavour", _SOURCE)
def sizes_have_positions(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["resolution"] is not None:
        yield from beyond_positions(config, "resolution", config["resolution"], whole)
    if config["validation_resolution"] is not None:
        longest = max(side for size in sizes(config["validation_resolution"]) for side in size)
        yield from beyond_positions(config, "validation_resolution", longest, whole)


def beyond_positions(keys: Keys, key: str, side: int, whole: View, *, megapixels: bool = False) -> Iterator[Problem]:
    """The error that the model has no positions for a side of that many pixels: it would stop the run. `megapixels`:
    that is what the key is written in."""
    named = whole.config[_SOURCE] or ""
    path = whole.config.resolve(_SOURCE, named) if named else None
    limit = side_limit(whole.flavour.name, path)
    if side > limit:
        message = f'"{key}": a side of {side} pixels is more than {whole.flavour.name} has positions for'
        most = f"{limit**2 // 10_000 / 100:g} or less, in megapixels" if megapixels else f"{limit} or less"
        yield keys.error(key, message, f"write {most}")
