"""A run's folder explains it: settings with origins, versions, pictures. And: what may differ when it is continued."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from simpletune import __version__, files
from simpletune.config.load import resolved
from simpletune.config.settings import Settings
from simpletune.data.scan import Sample
from simpletune.errors import ConfigError
from simpletune.models.family import ModelFiles
from simpletune.redact import redact

RUN_FILE = "run.json"
DATA_FILE = "data.json"
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "optimum-quanto",
    "safetensors",
    "torch-optimi",
)

# What may change when a run is continued. Everything else decides what is learned, or in which order the pictures come,
# and a run that changed it half-way would be neither the one nor the other.
_MAY_CHANGE = frozenset(
    {
        "device", "device_memory_gb", "quantize_via", "hf_endpoint", "pretrained_text_encoders_path",
        "max_train_steps", "num_train_epochs", "learning_rate", "lr_scheduler", "lr_warmup_steps", "lr_end", "lr_power",
        "lr_num_cycles", "gradient_checkpointing", "gradient_checkpointing_interval", "vae_batch_size",
        "text_encoder_batch_size", "data_backend_config", "output_dir", "checkpoint_step_interval",
        "checkpoints_total_limit", "resume_from_checkpoint", "num_validation_images",
    }
)  # fmt: skip
_NOT_COMPARED = frozenset({"config_path", "origins", "image_sets", "text_embeds"})  # the data has its own manifest
_PRIVATE = frozenset({"pretrained_model_name_or_path", "init_lora"})


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "simpletune": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def write_run(folder: Path, settings: Settings, model: ModelFiles, device: str) -> None:
    """Write run.json: every setting with its origin, the model with its commit, the versions, the device."""
    described = {
        **resolved(settings),
        "model": {"source": model.source, "layout": model.layout, "commit": model.commit},
        "versions": versions(),
        "device": device,
    }
    files.write_text(folder / RUN_FILE, redact(json.dumps(described, indent=2, ensure_ascii=False)) + "\n")


def adapter_metadata(settings: Settings, step: int) -> dict[str, str]:
    """What trained an adapter, for its file's header: the settings a checkpoint is bound to, steps and versions.

    No path and no prompt: the file is made to be given away.
    """
    described = {key: value for key, value in bound_settings(settings).items() if key not in _PRIVATE}
    described |= {"steps": step, "learning_rate": settings.learning_rate, "versions": versions()}
    return {"simpletune": redact(json.dumps(described, ensure_ascii=False))}


def data_manifest(
    trained: Sequence[Sample], held_out: Sequence[Sample], latent_keys: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """Every picture used, with its caption and the key of its latent, which stands for its bytes and crop."""

    def rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
        return [
            {
                "data_set": sample.set_id,
                "name": sample.name,
                "caption": sample.caption,
                "size": [sample.width, sample.height],
                "bucket": list(sample.placement.bucket),
                "latent": latent_keys[sample.set_id, sample.name],
            }
            for sample in samples
        ]

    return {"trained": rows(trained), "held_out": rows(held_out)}


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, whatever its key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def bound_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a checkpoint is bound to, as JSON values."""
    names = [field.name for field in fields(settings) if field.name not in _MAY_CHANGE | _NOT_COMPARED]
    return {name: _plain(getattr(settings, name)) for name in names if not name.startswith("validation_")}


def check_resumable(saved: Mapping[str, Any], settings: Settings, checkpoint: Path) -> None:
    """Raise ConfigError when the checkpoint was made with other values of the settings it is bound to."""
    current = bound_settings(settings)
    changed = [key for key, value in current.items() if key in saved and saved[key] != value]
    if changed:
        lines = "\n".join(f"  {key}: {json.dumps(saved[key])} -> {json.dumps(current[key])}" for key in changed)
        raise ConfigError(
            f"{checkpoint} was trained with other settings, and these can't change within a run:\n{lines}",
            'put them back to continue that run, or start a new one by naming another folder in "output_dir"',
        )


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
