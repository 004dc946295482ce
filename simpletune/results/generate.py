"""Pictures from prompts and seeds, base beside fine-tuned: `simpletune generate`.

    plan        every picture with all that decides it; what is there already is kept, and with nothing to do ends here
    check       sizes and adapters against the model's shapes, before anything is loaded
    encode      the text encoders load, read the prompts, and leave
    sample      the transformer, quantized as configured; each variant puts its adapter on and takes it off
    sheet       all pictures side by side

The base is the same transformer without the adapter. A picture is the trainer's own for the same prompt, seed, size and
weights, as both work in `studio.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from simpletune import files as file_tools
from simpletune.config.settings import Settings
from simpletune.data.captions.tokens import count_tokens, text_encoders
from simpletune.errors import Interrupted, OutOfMemory, UsageError
from simpletune.models.adapters import attach_factors, detach
from simpletune.models.lora_file import Factors, check_fits, read_adapter
from simpletune.models.memory import ran_out
from simpletune.models.parts import open_part
from simpletune.models.registry import get_family
from simpletune.models.runtime import choose_device, quiet_libraries
from simpletune.progress import Reporter
from simpletune.results.contact_sheet import contact_sheet
from simpletune.results.encodings import encode_prompts
from simpletune.results.order import Order, Variant, order_of
from simpletune.results.studio import Planned, Studio, check_sizes

__all__ = ["Generated", "Order", "Picture", "Variant", "generate", "order_of"]

SHEET_FILE = "sheet.png"


@dataclass(frozen=True)
class Picture:
    """A picture that was made, or was there already. `variant` is "base" or the adapter's name."""

    path: Path
    variant: str
    prompt: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class Generated:
    """All pictures of an order, variant by variant, and how many of them were `made` now and `kept` from before."""

    folder: Path
    pictures: tuple[Picture, ...]
    sheet: Path | None
    made: int
    kept: int


def generate(settings: Settings, order: Order, folder: Path, reporter: Reporter, *, sheet: bool = True) -> Generated:
    """Make the pictures of `order` in `folder`/VARIANT/, and with `sheet` the contact sheet `folder`/sheet.png.

    Raises UsageError for sizes the model can't draw and adapters that don't fit it, ModelUnavailable and
    EnvironmentNotReady as a run does, OutOfMemory, and Interrupted after Ctrl-C, when what is done stays.
    """
    quiet_libraries()
    device = choose_device(settings)
    settings = order.applied(settings)
    family = get_family(settings.model_family)
    studio = Studio(settings, family, family.locate(settings, reporter), device)
    check_sizes(settings, studio.files, order.sizes, "--size")
    plan = {variant: _planned(studio, order, variant, folder) for variant in order.variants}
    todo = {variant: [planned for planned in of_one if not planned.done] for variant, of_one in plan.items()}
    count = sum(map(len, todo.values()))
    total = sum(map(len, plan.values()))
    if count:
        _tell_of_long_prompts(settings, order, reporter)
        _make_folder(folder)
        _make(studio, order, todo, count, reporter)
    path = folder / SHEET_FILE if sheet else None
    if path is not None:
        contact_sheet(order.shots(), {v.title: folder / v.name for v in order.variants}, path, _heading(studio, order))
    return Generated(folder, _pictures(plan), path, count, total - count)


def _planned(studio: Studio, order: Order, variant: Variant, folder: Path) -> list[Planned]:
    about = {"adapter": "none"}
    if variant.adapter is not None:
        digest = file_tools.sha256(variant.adapter.path)
        about = {"adapter": variant.adapter.name, "adapter_sha256": digest, "scale": f"{variant.scale:g}"}
    return studio.plan(folder / variant.name, order.shots(), about)


def _make(
    studio: Studio, order: Order, todo: Mapping[Variant, Sequence[Planned]], count: int, reporter: Reporter
) -> None:
    todo = {variant: planned for variant, planned in todo.items() if planned}
    adapters = _read_adapters(studio, todo)
    prompts = [*order.prompts.values(), order.negative_prompt]
    settings, family, files, device = studio.settings, studio.family, studio.files, studio.device
    try:
        encodings = encode_prompts(prompts, settings, family, files, device, reporter)
        transformer = family.load_transformer(files, settings, device, reporter)
        with reporter.phase("Making pictures", count, "image") as phase:
            for variant, planned in todo.items():
                with _put_on(transformer, adapters.get(variant), variant.scale):
                    studio.take(planned, transformer, encodings, phase, reporter.note, expected=count)
    except KeyboardInterrupt:
        made = sum(planned.done for of_one in todo.values() for planned in of_one)
        message = f"stopped with {made} of {count} pictures made; they are kept"
        raise Interrupted(message, "the same command makes the rest") from None
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(
            f"the device's memory is full: {str(error).splitlines()[0]}",
            'take a smaller --size, or set "base_model_precision" to "int8-quanto" (then "int4-quanto")',
        ) from error


def _read_adapters(studio: Studio, variants: Iterable[Variant]) -> dict[Variant, dict[str, Factors]]:
    """Every adapter's weights, found to fit the model before it is loaded."""
    empty = open_part(studio.files, "transformer").empty_module()
    adapters = {}
    for variant in variants:
        if variant.adapter is not None:
            adapters[variant] = read_adapter(variant.adapter.path, "--adapter")
            check_fits(adapters[variant], empty, f"--adapter: {variant.adapter.path}")
    return adapters


@contextmanager
def _put_on(transformer: nn.Module, adapter: Mapping[str, Factors] | None, scale: float) -> Iterator[None]:
    """Inside the block the transformer has the adapter; without one it is the base."""
    if adapter is None:
        yield
        return
    attach_factors(transformer, adapter, scale)
    try:
        yield
    finally:
        detach(transformer)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output: {folder} can't be made: {error.strerror}", "name a folder you may write to"
        ) from error


def _tell_of_long_prompts(settings: Settings, order: Order, reporter: Reporter) -> None:
    """Say of which prompts an encoder reads the beginning only, as those look as if the model didn't obey."""
    for counts in count_tokens(order.prompts.items(), text_encoders(settings)):
        if counts.over:
            reporter.warn(
                f"{counts.encoder} reads the first {counts.limit} tokens of a prompt; longer: {counts.names()}"
            )


def _heading(studio: Studio, order: Order) -> list[str]:
    """The sheet's first lines: the model, the adapters, and how it was sampled."""
    settings = studio.settings
    weights = "unquantized" if settings.base_model_precision == "no_change" else settings.base_model_precision
    computing = {"bf16": "bfloat16", "fp16": "float16"}.get(settings.mixed_precision, "float32")
    used = [f"adapter {v.adapter.name}, scale {v.scale:g}" for v in order.variants if v.adapter is not None]
    seeds = ", ".join(map(str, order.seeds[:12])) + (" ..." if len(order.seeds) > 12 else "")
    sizes = ", ".join(f"{width} x {height}" for width, height in order.sizes)
    how = f"{order.steps} steps, guidance {order.guidance:g}, seed{'s' * (len(order.seeds) > 1)} {seeds}, {sizes}"
    negative = [f"without: {order.negative_prompt}"] if order.negative_prompt else []
    return [studio.files.source, "; ".join([f"{weights}, in {computing}", *used]), how, *negative]


def _pictures(plan: Mapping[Variant, Sequence[Planned]]) -> tuple[Picture, ...]:
    return tuple(
        Picture(each.path, variant.name, each.shot.prompt, each.shot.seed, each.shot.width, each.shot.height)
        for variant, of_one in plan.items()
        for each in of_one
    )
