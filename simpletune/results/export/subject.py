"""Which adapter is exported, which model it is for, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from simpletune import outside
from simpletune.config import architecture
from simpletune.config.families import FAMILIES, Flavour
from simpletune.errors import ConfigError, UsageError
from simpletune.models import components
from simpletune.models.lora_file import FILE_NAME, Adapter, check_fits, read_adapter, trained_with
from simpletune.results.adapter_choice import LATEST, AdapterChoice, adapter_in
from simpletune.results.adapter_origin import model_of
from simpletune.results.run_folder import RUN_FILE

_FAMILY = "sd3"


@dataclass(frozen=True)
class Subject:
    """An adapter that was read and fits its model. `folder`: where files made of it go. `run`: what the run's run.json
    says of each key of its config, {} where there is no run."""

    choice: AdapterChoice
    flavour: Flavour
    factors: Mapping[str, Adapter]
    folder: Path
    run: Mapping[str, Any]


def subject(named: Path, wish: str, flavour: str | None, warn: Callable[[str], None]) -> Subject:
    """The adapter `wish` (latest, a step, or a file) of the run whose folder is `named`; or the one file that `named`
    is or holds, where `wish` is latest.

    flavour: the model it is for, where neither its header nor its run says so. Raises UsageError when there is no such
    adapter, or it was trained for another model; ConfigError when it can't be read, isn't a LoRA of diffusers' layout,
    doesn't fit the model or holds NaN.
    """
    if wish == LATEST and _is_one_file(named):
        wish = str(named)
    run_folder = _run_of(named)
    choice = adapter_in(named, wish, warn)
    run = _read_run(run_folder) if run_folder is not None else {}
    model = _flavour(choice, run, flavour)
    factors = read_adapter(choice.path, "adapter")
    empty = components.empty_module("transformer", architecture.component_config(model.name, "transformer"))
    _check_fits(factors, empty, choice.path, model.name)
    return Subject(choice, model, factors, run_folder or choice.path.parent, run)


def _check_fits(factors: Mapping[str, Adapter], empty: nn.Module, path: Path, model: str) -> None:
    try:
        check_fits(factors, empty, f"adapter: {path}")
    except ConfigError as error:
        made_for = model_of(path)
        other = made_for is not None and made_for != model
        seems = f"; it seems to be for {made_for}, and was read as one for {model}" if other else ""
        raise ConfigError(error.message + seems, error.hint) from error


def _is_one_file(named: Path) -> bool:
    """A file, or a folder that has one and is no run's: a checkpoint's, or a downloaded one."""
    return named.suffix == ".safetensors" or ((named / FILE_NAME).is_file() and not (named / RUN_FILE).is_file())


def _run_of(named: Path) -> Path | None:
    """The run's folder that `named` is, or lies in: itself, around a file, around a checkpoint."""
    near = (named, named.parent, named.parent.parent) if named.suffix == ".safetensors" else (named, named.parent)
    return next((folder for folder in near if (folder / RUN_FILE).is_file()), None)


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        config = outside.read_json(folder / RUN_FILE)["config"]
        return {str(key): entry["value"] for key, entry in config.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _flavour(choice: AdapterChoice, run: Mapping[str, Any], wanted: str | None) -> Flavour:
    said, of_run = trained_with(choice.path).get("model_flavour"), run.get("model_flavour")
    known = FAMILIES[_FAMILY].flavours
    for other in (of_run, wanted):
        if said is not None and other is not None and said != other:
            raise UsageError(
                f"{choice.path} was trained for {said}, not for {other}", "name an adapter of this model, or its run"
            )
    said = said or of_run
    name = said or wanted
    if name is None:
        raise UsageError(f"{choice.path} doesn't say which model it is for", f"say it: --flavour {'|'.join(known)}")
    if name not in known:
        raise UsageError(f"{choice.path} was trained for {name!r}, which is none of {', '.join(known)}")
    return known[name]
