"""Which settings a run is bound to, and which may be others when it is continued. Read by the trainer and the wizard.

Each key of config.json is in one class:

    BOUND          decides what is learned, or in which order pictures come: a run that changed it half-way would be
                   neither the one nor the other
    MAY_CHANGE     takes effect when a run is continued, and the run says so
    NOT_COMPARED   says where something is, not what is done; the data has a manifest of its own
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simpletune.config.builtin import tiny_name
from simpletune.config.schema import config_keys
from simpletune.config.settings import Settings
from simpletune.redact import redact

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

BOUND = frozenset(
    {
        "model_family", "model_flavour", "pretrained_model_name_or_path", "pretrained_text_encoders_path", "revision",
        "use_t5", "tokenizer_max_length",
        "base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision", "text_encoder_3_precision",
        "mixed_precision", "base_model_matmul",
        "model_type", "lora_type", "lycoris_config", "lora_rank", "lora_alpha", "lora_dropout", "lora_init_type",
        "use_rslora", "use_dora", "init_lora", "lora_target",
        "optimizer", "optimizer_config", "max_grad_norm", "train_batch_size", "gradient_accumulation_steps",
        "use_ema", "ema_decay", "ema_update_interval",
        "timestep_sampling", "timestep_mean", "timestep_scale", "timestep_mode_scale", "timestep_beta_alpha",
        "timestep_beta_beta", "timestep_logsnr_mean", "timestep_logsnr_scale",
        "flow_schedule_shift", "flow_schedule_auto_shift", "loss_type", "huber_c", "caption_dropout_probability",
        "resolution", "aspect_bucket_alignment", "num_eval_images", "seed",
    }
)  # fmt: skip
LEARNING_RATE = frozenset({"learning_rate", "lr_scheduler", "lr_warmup_steps", "lr_end", "lr_power", "lr_num_cycles"})
LENGTH = frozenset({"max_train_steps", "num_train_epochs"})
MAY_CHANGE = LENGTH | LEARNING_RATE | frozenset(
    {
        # How fast and in how much memory: the result is the same, some of them up to rounding.
        "device", "device_memory_gb", "quantize_via", "execution", "deterministic", "gradient_checkpointing",
        "gradient_checkpointing_interval", "base_model_offload", "activation_offload", "vae_batch_size",
        "text_encoder_batch_size", "max_unreadable_share",
        "checkpoint_step_interval", "checkpoints_total_limit",
        "validation_prompt", "validation_prompts_file", "validation_negative_prompt", "validation_guidance",
        "validation_num_inference_steps", "validation_resolution", "validation_seed", "num_validation_images",
        "validation_step_interval", "validation_guidance_skip_layers", "validation_guidance_skip_layers_start",
        "validation_guidance_skip_layers_stop", "validation_guidance_skip_scale",
        "report_to", "tracker_project_name", "tracker_run_name",
        "push_to_hub", "hub_model_id", "hub_private",
    }
)  # fmt: skip
NOT_COMPARED = frozenset({"$schema", "hf_endpoint", "data_backend_config", "output_dir", "resume_from_checkpoint"})

BUILT_IN = "built_in_model"
"""What `bound_settings` calls the built-in model's version, which is no key of config.json."""
COMMIT = "model_commit"
"""What saved settings call the commit of a model of the hub: the revision of that name is the same one."""
_UNTRAINED = "an earlier one, with random weights"
_DERIVED = frozenset({"config_path", "origins", "image_sets", "text_embeds"})
_ONCE_FREE = frozenset({"base_model_matmul", "pretrained_text_encoders_path"})  # earlier checkpoints don't name them
_LONGEST = 60


@dataclass(frozen=True)
class Change:
    """A setting that is another now, in JSON values."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """`key: old -> new`, long values cut where they don't differ yet."""
        old, new = (json.dumps(value, ensure_ascii=False) for value in (self.old, self.new))
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
        start = max(0, same - _LONGEST // 2) if max(len(old), len(new)) > _LONGEST else 0
        return f"{self.key}: {_cut(old, start)} -> {_cut(new, start)}"


def bound_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a checkpoint is bound to, as JSON values; with the built-in model, which of its versions.

    A key of no class is bound: that is the side to be wrong on.
    """
    bound = {key: value for key, value in _values(settings) if key not in MAY_CHANGE | NOT_COMPARED}
    bound.pop("validation_prompts")
    return bound if settings.pretrained_model_name_or_path else {**bound, BUILT_IN: tiny_name()}


def free_settings(settings: Settings) -> dict[str, Any]:
    """The settings that may change when a run is continued, as JSON values without secrets.

    `validation_prompts` stands for the file they come from.
    """
    free = {key: value for key, value in _values(settings) if key in MAY_CHANGE or key == "validation_prompts"}
    return {key: _clean(value) for key, value in free.items()}


def changes(saved: Mapping[str, Any], settings: Settings) -> list[Change]:
    """The settings that a checkpoint's `saved` ones are bound to and that are others now.

    A checkpoint that names no version of the built-in model is of the time before it had one; a key that it doesn't
    name came later, and had its default then.
    """
    schema = config_keys()
    found = []
    for key, value in bound_settings(settings).items():
        if key not in saved and (key in _ONCE_FREE or key not in (*schema, BUILT_IN)):
            continue
        old = saved.get(key, _UNTRAINED if key == BUILT_IN else schema.get(key, {}).get("default"))
        same_commit = key == "revision" and value is not None and value == saved.get(COMMIT)
        if old != value and not same_commit:
            found.append(Change(key, old, value))
    return found


def free_changes(saved: Mapping[str, Any], settings: Settings) -> list[Change]:
    """What may change and has, since a checkpoint saved its `free_settings`; what it doesn't name isn't compared."""
    current = free_settings(settings)
    found = [Change(key, saved[key], value) for key, value in current.items() if key in saved and saved[key] != value]
    # A prompt is in both; and a folder that was moved aside gives trackers another name.
    return [change for change in found if change.key not in {"validation_prompt", *_following(settings)}]


def changed_settings(saved: Mapping[str, Any], settings: Settings) -> list[str]:
    """`key: old -> new` for each of `changes`."""
    return [str(change) for change in changes(saved, settings)]


def saved_settings(output_dir: Path) -> Mapping[str, Any] | None:
    """The settings that the latest checkpoint in a run's folder is bound to; None when there is none to read."""
    try:
        found = [(int(match[1]), path) for path in output_dir.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    except OSError:
        return None
    for _, path in sorted(found, reverse=True):
        try:
            return settings_in(json.loads((path / "state.json").read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def settings_in(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bound settings in what a checkpoint holds of its run, with the commit of its model."""
    model = state.get("model") or {}
    return {**state["settings"], COMMIT: model.get("commit")}


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    for field in fields(settings):
        if field.name not in _DERIVED:
            value = _plain(getattr(settings, field.name))
            yield field.name, "bf16" if (field.name, value) == ("base_model_matmul", "auto") else value


def _following(settings: Settings) -> frozenset[str]:
    return frozenset({"tracker_run_name"} if settings.origins.get("tracker_run_name") == "output_dir" else ())


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    return redact(value) if isinstance(value, str) else value


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if len(text) > end else ''}"
