"""Pictures from prompts and seeds, base beside fine-tuned: `simpletune generate`.

    check       sizes, skipped blocks and adapters against the model's shapes, before anything is loaded
    plan        every picture with all that decides it; what is there already is kept, and with nothing to do ends here
    encode      the text encoders load, read the prompts, and leave
    sample      the transformer, quantized as configured; each variant puts its adapter on and takes it off
    sheet       all pictures side by side

The base is the same transformer without the adapter. A picture is the trainer's own for the same prompt, seed, size and
weights, as both work in `studio.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from simpletune import files as file_tools
from simpletune import locks
from simpletune.config.settings import Settings
from simpletune.data.captions.tokens import count_tokens, text_encoders
from simpletune.errors import EnvironmentNotReady, Interrupted, OutOfMemory, UsageError
from simpletune.models.adapters import attached
from simpletune.models.lora_file import read_adapter
from simpletune.models.memory import ran_out
from simpletune.models.parts import open_part
from simpletune.models.registry import get_family
from simpletune.models.runtime import choose_device, quiet_libraries
from simpletune.progress import Reporter
from simpletune.results.encodings import encode_prompts
from simpletune.results.grid_sheet import grid_sheets
from simpletune.results.order import Order, SkipLayers, Variant, order_of
from simpletune.results.studio import Planned, Studio, check_sizes
from simpletune.results.variants import check_adapters, number_text

__all__ = ["Generated", "Order", "Picture", "SkipLayers", "Variant", "generate", "order_of"]

LOCK_FILE = ".generate.lock"
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


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
    """All pictures of an order, variant by variant, and how many of them were `made` now and `kept` from before.
    `sheets` are the sheet's pages."""

    folder: Path
    pictures: tuple[Picture, ...]
    sheets: tuple[Path, ...]
    made: int
    kept: int

    @property
    def sheet(self) -> Path | None:
        """The first one."""
        return self.sheets[0] if self.sheets else None


def generate(settings: Settings, order: Order, folder: Path, reporter: Reporter, *, sheet: bool = True) -> Generated:
    """Make the pictures of `order` in `folder`/VARIANT/, and with `sheet` the contact sheets `folder`/sheet.png etc.

    Raises UsageError for sizes the model can't draw, adapters that don't fit it, and a folder that is trained on or
    that another process writes to; ModelUnavailable and EnvironmentNotReady as a run does, the latter also for a full
    disk; OutOfMemory; and Interrupted after Ctrl-C. What is done stays.
    """
    _check_outside_pictures(settings, folder)
    quiet_libraries()
    device = choose_device(settings)
    settings = order.applied(settings)
    family = get_family(settings.model_family)
    studio = Studio(settings, family, family.locate(settings, reporter), device)
    check_sizes(settings, studio.files, order.sizes, "--size")
    _check_skipped(studio, order)
    check_adapters(order.variants, studio.files)
    with _held(folder):
        plan = {variant: _planned(studio, order, variant, folder) for variant in order.variants}
        todo = {variant: [planned for planned in of_one if not planned.done] for variant, of_one in plan.items()}
        count, total = (sum(map(len, of_each.values())) for of_each in (todo, plan))
        with _kept_if_stopped(folder, todo, count):
            if count:
                reporter.note(_beforehand(order, todo, count, total))
                _tell_of_long_prompts(settings, order, reporter)
                _make(studio, order, todo, count, reporter)
            sheets = grid_sheets(order, folder, _heading(studio, order), reporter) if sheet else ()
    return Generated(folder, _pictures(plan), sheets, count, total - count)


def _check_outside_pictures(settings: Settings, folder: Path) -> None:
    """Raise UsageError for a folder that is trained on: what is drawn there would be trained on next."""
    for image_set in settings.image_sets:
        pictures = image_set.instance_data_dir
        if pictures is not None and folder.resolve().is_relative_to(pictures.resolve()):
            message = f'--output: {folder} is in the folder that data set "{image_set.id}" is trained on'
            raise UsageError(message, "name a folder outside it")


def _check_skipped(studio: Studio, order: Order) -> None:
    """Raise UsageError for skipped blocks that the model doesn't have."""
    if order.skip is None:
        return
    blocks = int(open_part(studio.files, "transformer").config["num_layers"])
    for layer in order.skip.layers:
        if layer >= blocks:
            message = f"--skip-layers: {studio.files.source} has no block {layer}"
            raise UsageError(message, f"its blocks are 0 to {blocks - 1}")


def _planned(studio: Studio, order: Order, variant: Variant, folder: Path) -> list[Planned]:
    about = {"adapter": "none"}
    if variant.adapter is not None:
        digest = file_tools.sha256(variant.adapter.path)
        scale = number_text(variant.scale)
        about = {"adapter": variant.adapter.name, "adapter_sha256": digest, "scale": scale}
    return studio.plan(folder / variant.name, order.shots(), about)


def _beforehand(order: Order, todo: Mapping[Variant, Sequence[Planned]], count: int, total: int) -> str:
    """How many pictures it will be, and of what; how long is said while they are made."""
    axes = (
        (len(order.prompts), "prompt"),
        (len(order.seeds), "seed"),
        (len(order.sizes), "size"),
        (len(order.variants), "model"),
    )
    said = f"{_counted(total, 'picture')}: {' x '.join(_counted(number, name) for number, name in axes)}"
    if count < total:
        said += f"; {total - count:,} of them {'is' if total - count == 1 else 'are'} there already"
    old = sum(planned.path.exists() for of_one in todo.values() for planned in of_one)
    if old:
        said += f"; {old:,} that {'is' if old == 1 else 'are'} there, made otherwise or damaged, will be made again"
    return said


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"


def _make(
    studio: Studio, order: Order, todo: Mapping[Variant, Sequence[Planned]], count: int, reporter: Reporter
) -> None:
    prompts = [*order.prompts.values(), order.negative_prompt]
    settings, family, files, device = studio.settings, studio.family, studio.files, studio.device
    try:
        encodings = encode_prompts(prompts, settings, family, files, device, reporter)
        transformer = family.load_transformer(files, settings, device, reporter)
        vae = family.load_vae(files, settings, device)
        with reporter.phase("Making pictures", count, "image") as phase:
            for variant, planned in todo.items():
                if planned:
                    factors = None if variant.adapter is None else read_adapter(variant.adapter.path, "--adapter")
                    with attached(transformer, factors, variant.scale):
                        studio.take(planned, transformer, encodings, phase, reporter.note, expected=count, vae=vae)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(
            f"the device's memory is full: {str(error).splitlines()[0]}",
            'take a smaller --size, or set "base_model_precision" to "int8-quanto" (then "int4-quanto")',
        ) from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone: two would make the same pictures."""

    def busy(holder: str) -> UsageError:
        return UsageError(
            f"--output: another generate ({holder}) is making pictures in {folder}",
            "wait for it to end, or name another folder",
        )

    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locks.hold(folder / LOCK_FILE, busy))
        except OSError as error:
            raise UsageError(
                f"--output: {folder} can't be made: {error.strerror}", "name a folder you may write to"
            ) from error
        yield


@contextmanager
def _kept_if_stopped(folder: Path, todo: Mapping[Variant, Sequence[Planned]], count: int) -> Iterator[None]:
    """Whatever stops the work, what is made is kept, and that is said."""

    def so_far() -> str:
        made = sum(planned.done for of_one in todo.values() for planned in of_one)
        return f"{made} of {count} pictures made; they are kept"

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped with {so_far()}", "the same command makes the rest") from None
    except OSError as error:
        if error.errno not in (*_FULL, *_REFUSED):
            raise
        hint = "free some space" if error.errno in _FULL else "see that you may write there"
        raise EnvironmentNotReady(
            f"{folder} can't be written to: {error.strerror}, with {so_far()}",
            f"{hint}; the same command makes the rest",
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
    scales: dict[str, list[str]] = {}
    for variant in order.variants:
        if variant.adapter is not None:
            scales.setdefault(variant.adapter.name, []).append(number_text(variant.scale))
    used = [f"adapter {name}, scale {', '.join(of_one)}" for name, of_one in scales.items()]
    sizes = ", ".join(f"{width} x {height}" for width, height in order.sizes)
    guided = f"guidance {number_text(order.guidance)}" + (_skipped(order.skip) if order.skip else "")
    how = f"{order.steps} steps, {guided}, seed{'s' * (len(order.seeds) > 1)} {_seeds(order.seeds)}, {sizes}"
    negative = [f"without: {order.negative_prompt}"] if order.negative_prompt else []
    return [studio.files.source, "; ".join([f"{weights}, in {computing}", *(used or ["no adapter"])]), how, *negative]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and tuple(seeds) == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:12])) + (" ..." if len(seeds) > 12 else "")


def _skipped(skip: SkipLayers) -> str:
    return f", without blocks {', '.join(map(str, skip.layers))} at scale {number_text(skip.scale)}"


def _pictures(plan: Mapping[Variant, Sequence[Planned]]) -> tuple[Picture, ...]:
    return tuple(
        Picture(each.path, variant.name, each.shot.prompt, each.shot.seed, each.shot.width, each.shot.height)
        for variant, of_one in plan.items()
        for each in of_one
    )
