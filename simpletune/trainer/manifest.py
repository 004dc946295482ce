"""A run's folder explains it: settings with origins, versions, pictures."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from simpletune import __version__, files
from simpletune.config.continuing import bound_settings, free_settings
from simpletune.config.load import resolved
from simpletune.config.settings import ImageSet, Settings
from simpletune.data.loader import Encoded
from simpletune.data.scan import Sample
from simpletune.models.family import ModelFiles
from simpletune.redact import redact
from simpletune.results.run_folder import RUN_FILE
from simpletune.trainer.data_change import Data, data_of, described, role

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


@cache
def versions() -> Mapping[str, str]:
    """The versions that a result depends on; looked up once, as training stands still while a save asks for them."""
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
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(self._lines())

        files.write_with(path, fill)

    def _lines(self) -> Iterator[str]:
        yield f'{{\n"data_sets": {json.dumps({entry.id: role(entry) for entry in self.image_sets})},\n'
        yield from self._list("trained", self.trained, ",\n")
        yield from self._list("held_out", self.held_out, "\n}\n")

    def _list(self, name: str, samples: Sequence[Sample], after: str) -> Iterator[str]:
        yield f'"{name}": ['
        for index, sample in enumerate(samples):
            yield ("," if index else "") + "\n" + json.dumps(self._row(sample))
        yield f"\n]{after}"

    def data(self) -> Data:
        """All of it, to be compared with what a run was trained on before."""
        return data_of(self.image_sets, map(self._row, self.trained), map(self._row, self.held_out))

    def _row(self, sample: Sample) -> dict[str, Any]:
        row = {**described(sample), "latents": [stored.key for stored in self.encoded.latents[sample.id]]}
        masks = self.encoded.masks.get(sample.id)
        return row if masks is None else {**row, "masks": [stored.key for stored in masks]}
