"""What is measured: a configuration's settings, or the defaults. Its pictures need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simpletune.config.load import settings_of
from simpletune.config.settings import Settings
from simpletune.config.validate import Checked, check, errors
from simpletune.errors import ConfigError

NO_PICTURES = b'[{"id": "text", "dataset_type": "text_embeds", "default": true}]\n'
_NOWHERE = Path("config.json")


def default_settings(device: str, mixed_precision: str, overrides: Sequence[str] = ()) -> Settings:
    """The defaults for a kind of device (cuda, mps, cpu): the tiny model on a processor, sd3-medium on a card.

    Raises ConfigError for overrides that are wrong.
    """
    path = _NOWHERE.absolute()
    chosen = ["model_flavour=tiny"] if device == "cpu" else []
    chosen += [f"mixed_precision={mixed_precision}"]
    planned = {path: b"{}\n", path.with_name("multidatabackend.json"): NO_PICTURES}
    return _settings(path, check(path, (*chosen, f"device={device}", *overrides), planned))


def configured(config: Path, overrides: Sequence[str] = ()) -> tuple[Settings, bool]:
    """The settings of a configuration, and whether its data sets are as they should be.

    Where they aren't, or have no pictures here, the settings hold none: their speed can be measured all the same.
    Raises ConfigError for what is wrong in config.json or the overrides.
    """
    checked = check(config, overrides)
    if not any(problem.kind == "config" for problem in errors(checked.problems)):
        return _settings(config, checked), True
    for_config = [text for text in overrides if not text.startswith("dataset.")]
    nowhere = config.absolute().with_name("multidatabackend.json")  # in place of the one that is named
    for_config.append(f"data_backend_config={nowhere}")
    return _settings(config, check(config, for_config, {nowhere: NO_PICTURES})), False


def _settings(path: Path, checked: Checked) -> Settings:
    wrong = [problem for problem in errors(checked.problems) if problem.kind == "config"]
    data = checked.view.data
    if data is not None and not checked.view.images:  # NO_PICTURES has none on purpose
        wrong = [problem for problem in wrong if problem.file != data.name]
    if wrong:
        count = len(wrong)
        raise ConfigError(f"{count} error{'s' * (count > 1)} in the settings", "correct them and try again", wrong)
    # What it starts from doesn't change how fast it is, and may not be on this machine.
    return replace(settings_of(path, checked.view), init_lora=None)
