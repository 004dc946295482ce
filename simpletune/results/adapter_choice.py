"""Which adapter pictures are made with: a run's newest, that of a step, or a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.settings import Settings
from simpletune.errors import UsageError
from simpletune.models.lora_file import FILE_NAME, trained_with
from simpletune.results.run_folder import (
    ADAPTER_FILE,
    EMA_FILE,
    holds_only_adapter,
    latest,
    list_checkpoints,
    unreadable,
    verify,
)

LATEST, NONE = "latest", "none"
_BASE = "base"
_AVERAGED = "-ema"
_STEP = re.compile(r"(checkpoint-)?([0-9]{1,18})")


@dataclass(frozen=True)
class AdapterChoice:
    """A saved adapter's file, and what it is called: `name` is fit for a folder's name. `steps` is None if unknown."""

    path: Path
    name: str
    steps: int | None

    @property
    def title(self) -> str:
        """Over its pictures: "tuned, 150 steps", as the trainer says it."""
        if self.steps is None:
            return f"tuned, {self.name}"
        averaged = ", averaged" if self.name.endswith(_AVERAGED) else ""
        return f"tuned, {self.steps:,} step{'s' * (self.steps != 1)}{averaged}"


def choose_adapter(wish: str | Path, settings: Settings, warn: Callable[[str], None]) -> AdapterChoice | None:
    """The adapter that `wish` means: "latest", a step, "none", or a .safetensors file or a folder that has one.

    A step is "500" or "checkpoint-500", whether that can still be resumed from or holds its adapter alone.

    The latest is the run's final adapter, or its newest intact checkpoint where that has more steps (a run that goes
    on, or was stopped); damaged checkpoints are named by `warn`. Raises UsageError when there is no such adapter or it
    was trained for another flavour.
    """
    if wish == NONE:
        return None
    chosen = adapter_in(settings.output_dir, wish, warn, base_alone=True)
    flavour = trained_with(chosen.path).get("model_flavour", settings.model_flavour)
    if flavour != settings.model_flavour:
        raise UsageError(
            f"--adapter: {chosen.path} was trained for {flavour}, and this config's model is {settings.model_flavour}",
            "name an adapter of this model, or the config it was trained with",
        )
    return chosen


def adapter_in(
    output_dir: Path, wish: str | Path, warn: Callable[[str], None], *, base_alone: bool = False
) -> AdapterChoice:
    """The adapter that `wish` (as in `choose_adapter`, but not "none") means in a run's folder, of whatever model.

    base_alone: whether an error may propose "none", as there is something to do without an adapter.
    """
    if wish == LATEST:
        return _latest(output_dir, warn, base_alone)
    step = _STEP.fullmatch(wish) if isinstance(wish, str) else None
    if step is not None and not (step[1] and Path(step[0]).exists()):
        return _of_step(output_dir, int(step[2]))
    return _of_file(Path(wish).expanduser(), base_alone)


def _latest(output_dir: Path, warn: Callable[[str], None], base_alone: bool) -> AdapterChoice:
    final, newest = _final(output_dir), latest(output_dir, warn) or _newest_left(output_dir)
    if newest is not None:
        saved, damage = _checkpoint(newest), damage_of(output_dir / ADAPTER_FILE)
        if damage is not None:
            warn(damage)
        if final is None or damage is not None or (final.steps or 0) < (saved.steps or 0):
            return saved
    if final is None:
        ways = ["train first (`simpletune train`)", "name one with --adapter FILE"]
        ways += ["see the base alone: --adapter none"] if base_alone else []
        raise UsageError(f"there is no trained adapter in {output_dir}", _either(ways))
    return final


def _newest_left(output_dir: Path) -> Path | None:
    """For a run whose whole checkpoints are gone: the last one that holds its adapter alone, and is intact."""
    folders = (folder for _, folder in reversed(list_checkpoints(output_dir)))
    return next((folder for folder in folders if holds_only_adapter(folder) and not verify(folder)), None)


def _of_step(output_dir: Path, step: int) -> AdapterChoice:
    folder = output_dir / f"checkpoint-{step}"
    if folder.is_dir():
        problems = verify(folder)
        if problems:
            raise UsageError(f"--adapter: {folder} is damaged: {'; '.join(problems)}", _steps_there(output_dir))
        return _checkpoint(folder)
    final = _final(output_dir)
    if final is not None and final.steps == step:
        return final
    raise UsageError(f"--adapter: {output_dir} has no checkpoint of step {step}", _steps_there(output_dir))


def _steps_there(output_dir: Path) -> str:
    steps = [str(step) for step, _ in list_checkpoints(output_dir)]
    return f"there are checkpoints of step {', '.join(steps)}" if steps else "it has no checkpoints at all"


def _of_file(path: Path, base_alone: bool) -> AdapterChoice:
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        said = f"{path} holds no {FILE_NAME}" if path.is_dir() else f"there is no file {path}"
        ways = ["name a .safetensors file", "a folder of a finished run", "a step", LATEST]
        raise UsageError(f"--adapter: {said}", _either([*ways, NONE] if base_alone else ways))
    saved = _STEP.fullmatch(file.absolute().parent.name)
    if file.name == EMA_FILE and saved is not None:
        return AdapterChoice(file, f"step-{int(saved[2]):06d}{_AVERAGED}", int(saved[2]))
    steps = trained_with(file).get("steps")
    named = file.absolute().parent.name if file.name == FILE_NAME else file.stem
    name = re.sub(r"[^\w.-]+", "-", named).strip(".-") or "adapter"
    return AdapterChoice(file, f"adapter-{name}" if name == _BASE else name, steps if isinstance(steps, int) else None)


def _either(ways: Sequence[str]) -> str:
    *first, last = ways
    return f"{', '.join(first)} or {last}"


def _final(output_dir: Path) -> AdapterChoice | None:
    file = output_dir / ADAPTER_FILE
    if not file.is_file():
        return None
    steps = trained_with(file).get("steps")
    return _run_adapter(file, steps) if isinstance(steps, int) else AdapterChoice(file, "final", None)


def damage_of(file: Path) -> str | None:
    """What is to be told of a file that is there and can't be read."""
    problem = unreadable(file) if file.exists() else None
    return None if problem is None else f"{file} is damaged and passed over: {problem}"


def _checkpoint(folder: Path) -> AdapterChoice:
    return _run_adapter(folder / ADAPTER_FILE, int(folder.name.rpartition("-")[2]))


def _run_adapter(file: Path, steps: int) -> AdapterChoice:
    return AdapterChoice(file, f"step-{steps:06d}", steps)
