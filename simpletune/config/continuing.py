"""Which settings a run is bound to: with others it can't be continued. Read by the trainer and by the wizard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from simpletune.config.builtin import tiny_name
from simpletune.config.settings import Settings

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

# What may change when a run is continued. Everything else decides what is learned, or in which order the pictures come,
# and a run that changed it half-way would be neither the one nor the other.
_MAY_CHANGE = frozenset(
    {
        "device", "device_memory_gb", "quantize_via", "hf_endpoint", "pretrained_text_encoders_path",
        "max_train_steps", "num_train_epochs", "learning_rate", "lr_scheduler", "lr_warmup_steps", "lr_end", "lr_power",
        "lr_num_cycles", "gradient_checkpointing", "gradient_checkpointing_interval", "execution",
        "base_model_offload", "activation_offload",
        "base_model_matmul",
        "vae_batch_size", "text_encoder_batch_size", "data_backend_config", "output_dir", "checkpoint_step_interval",
        "checkpoints_total_limit", "resume_from_checkpoint", "num_validation_images",
        "max_unreadable_share", "push_to_hub", "hub_model_id", "hub_private",
        "report_to", "tracker_project_name", "tracker_run_name",
    }
)  # fmt: skip
BUILT_IN = "built_in_model"
"""What `bound_settings` calls the built-in model's version, which is no key of config.json."""
_UNTRAINED = "an earlier one, with random weights"

_NOT_COMPARED = frozenset({"config_path", "origins", "image_sets", "text_embeds"})  # the data has its own manifest


def bound_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a checkpoint is bound to, as JSON values; with the built-in model, which of its versions."""
    names = [field.name for field in fields(settings) if field.name not in _MAY_CHANGE | _NOT_COMPARED]
    bound = {name: _plain(getattr(settings, name)) for name in names if not name.startswith("validation_")}
    return bound if settings.pretrained_model_name_or_path else {**bound, BUILT_IN: tiny_name()}


def changed_settings(saved: Mapping[str, Any], settings: Settings) -> list[str]:
    """`key: old -> new` for each setting that a checkpoint's `saved` settings are bound to and that is another now.

    A checkpoint that names no version of the built-in model is of the time before it had one.
    """
    current = bound_settings(settings)
    saved = {BUILT_IN: _UNTRAINED, **saved}
    changed = [key for key, value in current.items() if key in saved and saved[key] != value]
    return [f"{key}: {json.dumps(saved[key])} -> {json.dumps(current[key])}" for key in changed]


def saved_settings(output_dir: Path) -> Mapping[str, Any] | None:
    """The settings that the latest checkpoint in a run's folder is bound to; None when there is none to read."""
    try:
        found = [(int(match[1]), path) for path in output_dir.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
        state = json.loads((max(found)[1] / "state.json").read_text(encoding="utf-8"))
        settings: Mapping[str, Any] = state["run"]["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return settings if isinstance(settings, Mapping) else None


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
