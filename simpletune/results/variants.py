"""The models that pictures are compared of: the base, and adapters at one or several scales."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, UsageError
from simpletune.models.family import ModelFiles
from simpletune.models.lora_file import check_fits, read_adapter
from simpletune.models.parts import open_part
from simpletune.results.adapter_choice import LATEST, NONE, AdapterChoice, choose_adapter, damage_of
from simpletune.results.adapter_origin import model_of
from simpletune.results.run_folder import ADAPTER_FILE, list_checkpoints, verify

BASE, ALL = "base", "all"


@dataclass(frozen=True)
class Variant:
    """A model to draw with: the base, or the base with an adapter at a strength. `name` is its folder's."""

    name: str
    title: str
    adapter: AdapterChoice | None = None
    scale: float = 1.0


def choose_adapters(
    wishes: Sequence[str | Path], settings: Settings, warn: Callable[[str], None]
) -> list[AdapterChoice]:
    """The adapters of all wishes, each file once, in the order they were named; "all" is every one the run has saved.

    Raises UsageError as `choose_adapter`, and for "none" beside others.
    """
    each = [one for wish in wishes for one in (_saved(settings, warn) if wish == ALL else [wish])]
    chosen = [choose_adapter(wish, settings, warn) for wish in each]
    if None in chosen and len(chosen) > 1:
        raise UsageError(f"--adapter {NONE} beside other adapters", "the base is drawn beside them in any case")
    by_file: dict[Path | str, AdapterChoice] = {}
    for choice in chosen:
        if choice is not None:
            by_file.setdefault(_identity(choice, settings.output_dir), choice)
    return list(by_file.values())


def variants_of(adapters: Iterable[AdapterChoice], scales: Sequence[float], base: bool) -> tuple[Variant, ...]:
    """Each adapter at each scale, after the base if that is wanted. An adapter at 0 is the base, which is drawn once.

    Raises UsageError when nothing is left to draw with, or a scale is no number.
    """
    for scale in scales:
        if not math.isfinite(scale):
            raise UsageError(f"--scale: {scale} is no strength", "1 is the adapter as it was trained")
    adapters = list(adapters)
    pairs = [(adapter, scale) for adapter in adapters for scale in dict.fromkeys(scales)]
    found = [Variant(BASE, BASE)] if base or any(scale == 0 for _, scale in pairs) else []
    for adapter, scale in pairs:
        if scale != 0:
            found.append(_variant(adapter, scale, found))
    if not found:
        raise UsageError("neither the base nor an adapter is asked for", "take --no-base or --adapter none away")
    return tuple(found)


def check_adapters(variants: Iterable[Variant], files: ModelFiles) -> None:
    """Read every adapter and see that it fits the model, before that is loaded; none is kept in memory.

    Raises ConfigError naming the file that can't be read or is for another model.
    """
    empty = open_part(files, "transformer").empty_module()
    for path in {variant.adapter.path: None for variant in variants if variant.adapter}:
        try:
            check_fits(read_adapter(path, "--adapter"), empty, f"--adapter: {path}")
        except ConfigError as error:
            made_for = model_of(path)
            seems = f"; it seems to be for {made_for}, and this model is {files.source}" if made_for else ""
            raise ConfigError(error.message + seems, error.hint) from error


def _variant(adapter: AdapterChoice, scale: float, others: Iterable[Variant]) -> Variant:
    """With a name and a title of its own: two files of one name are told apart by digits of where they are."""
    marked = "" if scale == 1 else f"-scale-{number_text(scale)}"
    name, title = adapter.name + marked, adapter.title + (f", scale {number_text(scale)}" if marked else "")
    others = list(others)
    # Some disks take names that differ in capital letters only for the same.
    if name.casefold() in {other.name.casefold() for other in others}:
        where = str(adapter.path.resolve()).encode("utf-8", "surrogateescape")
        name = f"{adapter.name}-{hashlib.sha256(where).hexdigest()[:6]}{marked}"
    if title in {other.title for other in others}:
        title = f"{title} ({name})"
    return Variant(name, title, adapter, scale)


def _identity(choice: AdapterChoice, output_dir: Path) -> Path | str:
    """The file; of a run's own adapters the name, as the final one may be that of a checkpoint, too."""
    file = choice.path.resolve()
    return choice.name if output_dir.resolve() in file.parents else file


def _saved(settings: Settings, warn: Callable[[str], None]) -> list[str | Path]:
    """All of a run's intact checkpoints, its final adapter, and the averaged one; damaged ones are named.

    The final one stands for the checkpoint of the same step: it is the file that is shared, and that a card speaks of.
    """
    steps: list[str | Path] = []
    for step, folder in list_checkpoints(settings.output_dir):
        problems = verify(folder)
        if problems:
            warn(f"{folder} is damaged and left out: {'; '.join(problems)}")
        else:
            steps.append(str(step))
    newest = choose_adapter(LATEST, settings, lambda _line: None)  # of checkpoints it would say the same again
    final = settings.output_dir / ADAPTER_FILE
    if newest is None or newest.path == final or str(newest.steps) not in steps:
        steps = [step for step in steps if newest is None or step != str(newest.steps)] + [LATEST]
    elif damage := damage_of(final):
        warn(damage)
    averaged = settings.output_dir / "ema" / ADAPTER_FILE
    return [*steps, averaged] if averaged.is_file() else steps


def number_text(number: float) -> str:
    """The number as people write it, with all its digits: 1, 0.5, 0.1234567."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
