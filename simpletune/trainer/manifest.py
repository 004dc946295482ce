"""A run's folder explains it: settings with origins, versions, pictures. And whether settings may continue a run."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from simpletune import __version__, files
from simpletune.config.continuing import bound_settings, changed_settings
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
    trained: Sequence[Sample], held_out: Sequence[Sample], latent_keys: Mapping[tuple[str, str], Sequence[str]]
) -> dict[str, Any]:
    """Every picture used, with its captions and the keys of its latents, which stand for its bytes and crops."""

    def rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
        return [
            {
                "data_set": sample.set_id,
                "name": sample.name,
                "captions": list(sample.captions),
                "size": [sample.width, sample.height],
                "bucket": list(sample.bucket),
                "latents": list(latent_keys[sample.set_id, sample.name]),
            }
            for sample in samples
        ]

    return {"trained": rows(trained), "held_out": rows(held_out)}


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, whatever its key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_resumable(saved: Mapping[str, Any], settings: Settings, checkpoint: Path) -> None:
    """Raise ConfigError when the checkpoint was made with other values of the settings it is bound to."""
    changed = changed_settings(saved, settings)
    if changed:
        raise ConfigError(
            f"{checkpoint} was trained with other settings, and these can't change within a run:\n"
            + "\n".join(f"  {line}" for line in changed),
            'put them back to continue that run, or start a new one by naming another folder in "output_dir"',
        )
