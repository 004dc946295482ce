"""A run's folder explains it: settings with origins, versions, pictures. And whether settings may continue a run."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from simpletune import __version__, files
from simpletune.config.continuing import BUILT_IN, bound_settings, changed_settings, free_settings
from simpletune.config.load import resolved
from simpletune.config.settings import ImageSet, Settings
from simpletune.data.geometry import Placement
from simpletune.data.loader import Encoded
from simpletune.data.plan import schedule_of
from simpletune.data.scan import Sample
from simpletune.errors import ConfigError
from simpletune.models.family import ModelFiles
from simpletune.redact import redact
from simpletune.results.run_folder import RUN_FILE

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

_PRIVATE = frozenset({"pretrained_model_name_or_path", "pretrained_text_encoders_path", "init_lora"})


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "simpletune": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def write_run(folder: Path, settings: Settings, model: ModelFiles, device: str, total_steps: int) -> None:
    """Write run.json: every setting with its origin, the model with its commit, the versions, the device, the steps."""
    described = {
        **resolved(settings),
        "model": {"source": model.source, "layout": model.layout, "commit": model.commit},
        "versions": versions(),
        "device": device,
        "total_steps": total_steps,
    }
    files.write_text(folder / RUN_FILE, redact(json.dumps(described, indent=2, ensure_ascii=False)) + "\n")


def run_state(
    settings: Settings, model: ModelFiles, digest: str, total_steps: int, processes: int, device: str
) -> dict[str, Any]:
    """What a checkpoint keeps of its run, for who continues it to compare: settings that can't change and settings that
    may, the model with its commit, the data's digest, how many processes shared a step, the device and the versions."""
    return {
        "settings": bound_settings(settings),
        "free_settings": free_settings(settings),
        "model": {"source": redact(model.source), "commit": model.commit},
        "data": digest,
        "processes": processes,
        "device": device,
        "total_steps": total_steps,
        "versions": versions(),
    }


def adapter_metadata(settings: Settings, step: int) -> dict[str, str]:
    """What trained an adapter, for its file's header: the settings a checkpoint is bound to, steps and versions.

    No path and no prompt: the file is made to be given away.
    """
    described = {key: value for key, value in bound_settings(settings).items() if key not in _PRIVATE}
    described |= {"steps": step, "learning_rate": settings.learning_rate, "versions": versions()}
    return {"simpletune": redact(json.dumps(described, ensure_ascii=False))}


@dataclass(frozen=True)
class DataManifest:
    """Everything that is trained on and held out: the data sets' roles, and every picture with its captions, what was
    cut out of it, and the keys of its latents and masks. Made row by row, as there may be very many."""

    image_sets: Sequence[ImageSet]
    trained: Sequence[Sample]
    held_out: Sequence[Sample]
    encoded: Encoded

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of all of it: what a checkpoint is compared by."""
        digest = hashlib.sha256()
        for line in self._lines():
            digest.update(line.encode())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write it as JSON, a picture a line."""

        def fill(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(self._lines())

        files.write_with(path, fill)

    def _lines(self) -> Iterator[str]:
        yield f'{{\n"data_sets": {json.dumps({entry.id: _role(entry) for entry in self.image_sets})},\n'
        yield from self._list("trained", self.trained, ",\n")
        yield from self._list("held_out", self.held_out, "\n}\n")

    def _list(self, name: str, samples: Sequence[Sample], after: str) -> Iterator[str]:
        yield f'"{name}": ['
        for index, sample in enumerate(samples):
            yield ("," if index else "") + "\n" + json.dumps(self._row(sample))
        yield f"\n]{after}"

    def _row(self, sample: Sample) -> dict[str, Any]:
        row = {
            "data_set": sample.set_id,
            "name": sample.name,
            "captions": list(sample.captions),
            "size": [sample.width, sample.height],
            "bucket": list(sample.bucket),
            "crops": [_crop(placement) for placement in sample.placements],
            "latents": [stored.key for stored in self.encoded.latents[sample.id]],
        }
        masks = self.encoded.masks.get(sample.id)
        return row if masks is None else {**row, "masks": [stored.key for stored in masks]}


def _crop(placement: Placement) -> dict[str, Any]:
    """What the model saw of a picture: resized to `resized` (width, height), `crop` (left, top, right, bottom) of it,
    all in pixels, mirrored or not."""
    crop = {"resized": list(placement.resized), "crop": list(placement.crop)}
    return {**crop, "mirrored": True} if placement.mirrored else crop


def loss_weight(image_set: ImageSet) -> float:
    """What the loss of a data set's pictures is multiplied by."""
    return image_set.regularisation_weight if image_set.is_regularisation_data else 1.0


def _role(image_set: ImageSet) -> dict[str, Any]:
    if image_set.dataset_type == "eval":
        return {"role": "evaluation", "mask_source": image_set.mask_source}
    return {
        "role": "regularisation" if image_set.is_regularisation_data else "training",
        "loss_weight": loss_weight(image_set),
        "mask_source": image_set.mask_source,
        **asdict(schedule_of(image_set)),
    }


def check_resumable(saved: Mapping[str, Any], settings: Settings, checkpoint: Path) -> None:
    """Raise ConfigError when the checkpoint was made with other values of the settings it is bound to, or on another
    version of the built-in model."""
    changed = changed_settings(saved, settings)
    model = next((line for line in changed if line.startswith(BUILT_IN)), None)
    if model is not None:
        raise ConfigError(
            f"{checkpoint} was trained on another model than the one that is built in now\n  {model}",
            'start a new run by naming another folder in "output_dir"',
        )
    if changed:
        raise ConfigError(
            f"{checkpoint} was trained with other settings, and these can't change within a run:\n"
            + "\n".join(f"  {line}" for line in changed),
            'put them back to continue that run, or start a new one by naming another folder in "output_dir"',
        )
