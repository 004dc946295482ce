"""From the two files to `Settings`: defaults from the schema, values that follow from others, where each came from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from simpletune import files
from simpletune.config.document import Keys, read_planned
from simpletune.config.problems import Problem, errors
from simpletune.config.rules import exists, looks_like_hub_id
from simpletune.config.rules_adapter import LYCORIS, READ_ELSEWHERE
from simpletune.config.rules_sizes import sizes
from simpletune.config.rules_sources import local_data_set
from simpletune.config.schema import config_keys, entry_keys
from simpletune.config.settings import ImageSet, Settings, TextEmbeds
from simpletune.config.validate import check, exit_code
from simpletune.config.view import DEFAULT_STEPS, View, resolution_of
from simpletune.errors import ConfigError, EnvironmentNotReady, ModelUnavailable

DATA_KEY = "dataset"
LYCORIS_FILE = "lycoris_config.json"
# Fields of Settings that are not keys of config.json.
DERIVED = ("config_path", "origins", "image_sets", "text_embeds", "validation_prompts")
MADE_TEXT_EMBEDS = "text-embeds"


def load(config_path: Path, overrides: Sequence[str] = ()) -> tuple[Settings, list[Problem]]:
    """The settings of a run, and the warnings about them.

    Raises ConfigError with all problems when the files have errors, EnvironmentNotReady when they are right and only
    this machine or the model they name is not ready for them.
    """
    settings, problems = load_for_elsewhere(config_path, overrides)
    found = errors(problems)
    if found:
        only_models = all(problem.kind == "model" for problem in found)
        missing = ModelUnavailable if only_models else EnvironmentNotReady
        raise missing("\n".join(problem.message for problem in found), found[0].hint)
    return settings, problems


def load_for_elsewhere(config_path: Path, overrides: Sequence[str] = ()) -> tuple[Settings, list[Problem]]:
    """The settings of a run that need not be possible on this machine, and all problems but the files' own.

    Raises ConfigError with all problems when the files have errors.
    """
    checked = check(config_path, overrides)
    problems = list(checked.problems)
    if exit_code(problems) == ConfigError.exit_code:
        count = len(errors(problems))
        raise ConfigError(
            f"{count} error{'s' * (count > 1)} in the settings", "correct the files and try again", problems
        )
    return settings_of(Path(config_path), checked.view), problems


def settings_of(config_path: Path, whole: View) -> Settings:
    """The settings of files that `validate.check` found no error in but, at most, this machine's or a model's."""
    config = whole.config
    origins = {key: config.origin(key) for key in config_keys() if key != "$schema"}
    values = {field.name: _value(config, field.name) for field in fields(Settings) if field.name not in DERIVED}
    values.update(_following(whole, origins))
    texts = _text_embeds(whole, origins)
    return Settings(
        **values,
        config_path=Path(os.path.abspath(config_path)),  # noqa: PTH100
        origins=origins,
        image_sets=tuple(_image_set(whole, entry, index, texts, origins) for index, entry in enumerate(whole.images)),
        text_embeds=texts,
        validation_prompts=_prompts(whole),
    )


def _value(keys: Keys, key: str) -> Any:
    """A key's value in the type the dataclasses have."""
    value = keys[key]
    if value is None:
        return None
    if "x-path" in keys.schema[key]:
        return keys.path(key)
    if keys.is_number(key):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _following(whole: View, origins: dict[str, str]) -> dict[str, Any]:
    """The values that are chosen when they are not given."""
    config, flavour = whole.config, whole.flavour
    chosen: dict[str, tuple[Any, str]] = {}
    if (lycoris := config.path("lycoris_config")) is not None:
        content = read_planned(lycoris, config.document.planned).value if config["lora_type"] == LYCORIS else None
        chosen["lycoris_config"] = content, origins["lycoris_config"]
    if config["lora_alpha"] is None:
        chosen["lora_alpha"] = float(config["lora_rank"]), "lora_rank"
    by_flavour = {
        "resolution": whole.resolution,
        "aspect_bucket_alignment": whole.alignment,
        "tokenizer_max_length": whole.t5_tokens,
    }
    for key, value in by_flavour.items():
        if config[key] is None:
            chosen[key] = value, f"flavour {flavour.name}"
    if config["max_train_steps"] is None and config["num_train_epochs"] is None:
        chosen["max_train_steps"] = DEFAULT_STEPS, "default"
    if config["tracker_run_name"] is None:
        chosen["tracker_run_name"] = config.resolve("output_dir", config["output_dir"]).name, "output_dir"
    if config["validation_resolution"] is None:
        side = whole.alignment * max(1, round(whole.resolution / whole.alignment))  # as pictures are rounded
        chosen["validation_resolution"] = ((side, side),), "resolution"
    if endpoint := os.environ.get("HF_ENDPOINT"):
        chosen["hf_endpoint"] = endpoint, "environment HF_ENDPOINT"
    if not config["pretrained_model_name_or_path"]:
        chosen["pretrained_model_name_or_path"] = flavour.hub_id or "", f"flavour {flavour.name}"
    origins.update({key: origin for key, (_, origin) in chosen.items()})
    values = {key: value for key, (value, _) in chosen.items()}
    if config["validation_resolution"] is not None:
        values["validation_resolution"] = sizes(config["validation_resolution"])
    if named := config["pretrained_model_name_or_path"]:
        path = config.resolve("pretrained_model_name_or_path", named)
        values["pretrained_model_name_or_path"] = str(path) if exists(path) or not looks_like_hub_id(named) else named
    if (resume := config["resume_from_checkpoint"]) not in {"latest", "none"}:
        values["resume_from_checkpoint"] = str(config.resolve("resume_from_checkpoint", resume))
    return values


def _prompts(whole: View) -> dict[str, str]:
    prompts: dict[str, str] = {}
    if whole.config["validation_prompt"] is not None:
        prompts["prompt"] = whole.config["validation_prompt"]
    path = whole.config.path("validation_prompts_file")
    if path is not None:
        prompts.update(read_planned(path, whole.config.document.planned).value)
    return prompts


def _text_embeds(whole: View, origins: dict[str, str]) -> tuple[TextEmbeds, ...]:
    default = whole.default_text_embeds
    entries = tuple(
        TextEmbeds(id=entry["id"], default=entry is default, cache_dir=_value(entry, "cache_dir"))
        for entry in whole.texts
    )
    for index, entry in enumerate(whole.texts):
        _note(origins, f"text_embeds.{index}", entry)
    if entries:
        return entries
    taken = {entry["id"] for entry in whole.images}
    name = next(name for name in _names(MADE_TEXT_EMBEDS) if name not in taken)
    schema = entry_keys("text_embeds")
    # A stand-in entry at the end of the data file: it has that file's folder and its schema's defaults.
    assert whole.data is not None
    made = Keys(whole.data, (len(whole.data.value),), schema, {})
    made.placeholders.update(whole.config.placeholders, id=name)
    origins["text_embeds.0.cache_dir"] = "default"
    return (TextEmbeds(id=name, default=True, cache_dir=_value(made, "cache_dir")),)


def _names(stem: str) -> Sequence[str]:
    return [stem, *(f"{stem}-{number}" for number in range(2, 1002))]


def _image_set(whole: View, entry: Keys, index: int, texts: Sequence[TextEmbeds], origins: dict[str, str]) -> ImageSet:
    values = {field.name: _value(entry, field.name) for field in fields(ImageSet)}
    values["resolution"], values["resolution_type"] = resolution_of(entry, whole)
    if (data_set := local_data_set(entry)) is not None:
        values["dataset_name"] = str(data_set)
    _note(origins, f"{DATA_KEY}.{index}", entry)
    if entry["resolution"] is None:
        origins[f"{DATA_KEY}.{index}.resolution"] = origins["resolution"]
    if entry["text_embeds"] is None:
        values["text_embeds"] = next(text.id for text in texts if text.default)
    return ImageSet(**values)


def _note(origins: dict[str, str], prefix: str, entry: Keys) -> None:
    for key in entry.schema:
        if key != "disabled":
            origins[f"{prefix}.{key}"] = entry.origin(key)


def resolved(settings: Settings) -> dict[str, Any]:
    """Everything the run was set to, as JSON: `recreate` makes files of it that load to the same settings.

    {"config": {key: {"value": ..., "origin": ...}}, "datasets": [{...}], "text_embeds": [{...}],
    "validation_prompts": {name: prompt}}
    """
    names = [field.name for field in fields(Settings) if field.name not in DERIVED]
    config = {name: _with_origin(settings, name, _plain(getattr(settings, name))) for name in names}
    sizes_text = ",".join(f"{width}x{height}" for width, height in settings.validation_resolution)
    config["validation_resolution"]["value"] = sizes_text
    # tiny's location is "", which the file says by null.
    config["pretrained_model_name_or_path"]["value"] = settings.pretrained_model_name_or_path or None
    if settings.flow_schedule_auto_shift:
        del config["flow_schedule_shift"]
    if settings.init_lora is not None:
        del config["lora_init_type"]
    if settings.lora_type == LYCORIS:
        for key in READ_ELSEWHERE:
            del config[key]
    return {
        "config": config,
        "datasets": [_entry(settings, f"{DATA_KEY}.{i}", one) for i, one in enumerate(settings.image_sets)],
        "text_embeds": [_entry(settings, f"text_embeds.{i}", one) for i, one in enumerate(settings.text_embeds)],
        "validation_prompts": dict(settings.validation_prompts),
    }


def recreate(saved: Mapping[str, Any], folder: Path) -> Path:
    """Write config.json, multidatabackend.json and the prompts that `resolved` described into `folder`.

    Returns the path of config.json.
    """
    config = {key: entry["value"] for key, entry in saved["config"].items()}
    config["data_backend_config"] = "multidatabackend.json"
    if config.get("lycoris_config") is not None:
        files.write_json(folder / LYCORIS_FILE, config["lycoris_config"])
        config["lycoris_config"] = LYCORIS_FILE
    prompts = {name: text for name, text in saved["validation_prompts"].items() if name != "prompt"}
    if config["validation_prompt"] is None and "prompt" in saved["validation_prompts"]:
        prompts = dict(saved["validation_prompts"])
    if prompts:
        config["validation_prompts_file"] = "validation_prompts.json"
        files.write_json(folder / "validation_prompts.json", prompts)
    entries = [_recreated(one) for one in saved["datasets"]]
    entries += [
        {"dataset_type": "text_embeds", **{key: entry["value"] for key, entry in one.items()}}
        for one in saved["text_embeds"]
    ]
    files.write_json(folder / "multidatabackend.json", entries)
    files.write_json(folder / "config.json", config)
    return folder / "config.json"


def _recreated(saved: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with pictures, without the folder that only a streamed data set has a use for."""
    values = {key: entry["value"] for key, entry in saved.items()}
    if not values.get("streaming"):
        values.pop("cache_dir_pictures", None)
    return values


def _with_origin(settings: Settings, key: str, value: Any) -> dict[str, Any]:
    return {"value": value, "origin": settings.origins.get(key, "default")}


def _entry(settings: Settings, prefix: str, one: ImageSet | TextEmbeds) -> dict[str, Any]:
    return {
        field.name: _with_origin(settings, f"{prefix}.{field.name}", _plain(getattr(one, field.name)))
        for field in fields(one)
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
