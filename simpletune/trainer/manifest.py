"""A run's folder explains it: settings with origins, versions, pictures. And: what may differ when it is continued."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
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

# What makes the adapter and its optimizer what they are: a checkpoint can't be continued with another value of these.
_BOUND_TO_THE_CHECKPOINT = (
    "model_family", "model_flavour", "pretrained_model_name_or_path", "lora_type", "lora_rank", "lora_alpha",
    "lora_init_type", "use_rslora", "lora_target", "base_model_precision", "optimizer", "use_ema", "seed",
)  # fmt: skip


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
    return {key: _plain(getattr(settings, key)) for key in _BOUND_TO_THE_CHECKPOINT}


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
    return list(value) if isinstance(value, tuple) else value
