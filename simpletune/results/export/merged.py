"""The base's transformer with the adapter in its weights: W + B A, of other kinds likewise, computed in fp32, saved in
half precision.

Tensor by tensor, from the base's files into the new ones: memory holds a few tensors, whatever the model's size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from simpletune import files
from simpletune.errors import UsageError
from simpletune.models.family import ModelFiles
from simpletune.models.locate import locate
from simpletune.models.lora_file import Adapter
from simpletune.models.parts import Part, open_part, weights_for
from simpletune.models.single_file import transformer_original
from simpletune.models.tensor_file import TensorSpec, write_sharded
from simpletune.models.weight_source import WeightSource
from simpletune.progress import Phase, Reporter
from simpletune.results.export.layouts import swapped_halves
from simpletune.results.export.lora import DTYPES, check_held, unwritable
from simpletune.results.export.subject import Subject

_SHARD_BYTES = 10 * 10**9  # what diffusers splits at
_STEM = "diffusion_pytorch_model"
_PREFIX = "model.diffusion_model."


def base_files(subject: Subject, reporter: Reporter) -> ModelFiles:
    """The base that the run was trained on, found or downloaded again.

    Raises UsageError without a run, ModelUnavailable when it is no longer there.
    """
    if not subject.run:
        raise UsageError(
            f"{subject.choice.path} is in no run's folder, so its base isn't known",
            "name the run's folder, or its config.json with --adapter FILE",
        )
    keys = {"revision": None, "hf_endpoint": None, "pretrained_text_encoders_path": None, "use_t5": True}
    said: dict[str, Any] = {**keys, "model_family": "sd3", **subject.run}
    said["pretrained_model_name_or_path"] = said.get("pretrained_model_name_or_path") or ""
    encoders = said["pretrained_text_encoders_path"]
    said["pretrained_text_encoders_path"] = Path(encoders) if encoders else None
    settings: Any = SimpleNamespace(**said, config_path=subject.folder / "config.json")
    return locate(settings, reporter)


def base_weights(base: ModelFiles) -> WeightSource:
    """The weights of the base's transformer, by diffusers' names."""
    part = open_part(base, "transformer")
    return weights_for(part, part.empty_module())


def export_merged(subject: Subject, base: ModelFiles, path: Path, dtype: str, reporter: Reporter) -> None:
    """Write the merged transformer: into the new folder `path` as diffusers' `from_pretrained` reads it, or as one file
    in the original layout where `path` ends in .safetensors.

    Raises ModelUnavailable when the base can't be read, UsageError for numbers that `dtype` can't hold,
    EnvironmentNotReady when the result can't be written.
    """
    part = open_part(base, "transformer")
    module = part.empty_module()
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    merged = _Merged(weights_for(part, module), subject.factors, DTYPES[dtype])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            _write_original(merged, shapes, path, subject.flavour.block_count - 1, reporter)
        else:
            _write_folder(merged, shapes, part, path, reporter)
    except OSError as error:
        raise unwritable(path, error) from error


class _Merged:
    """The merged tensors under diffusers' names, made when they are asked for."""

    def __init__(self, weights: WeightSource, factors: Mapping[str, Adapter], dtype: torch.dtype) -> None:
        self._weights, self._factors, self.dtype = weights, factors, dtype

    def read(self, name: str) -> Tensor:
        tensor = self._weights.read(name)
        factor = self._factors.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if factor is not None:
            tensor = factor.applied_to(tensor)
        cast = tensor.to(self.dtype).contiguous()
        check_held({name: cast}, next(known for known, dtype in DTYPES.items() if dtype is self.dtype))
        return cast


def _write_folder(
    merged: _Merged, shapes: Mapping[str, tuple[int, ...]], part: Part, path: Path, reporter: Reporter
) -> None:
    specs = [TensorSpec(name, shape, merged.dtype) for name, shape in sorted(shapes.items())]
    with files.new_folder(path) as folder, _phase(specs, reporter) as phase:
        write_sharded(folder, _STEM, specs, lambda spec: merged.read(spec.name), _SHARD_BYTES, phase.advance)
        config = {"_class_name": "SD3Transformer2DModel", **part.config}
        files.write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_original(
    merged: _Merged, shapes: Mapping[str, tuple[int, ...]], path: Path, last_block: int, reporter: Reporter
) -> None:
    """MMDiT's tensors: query, key and value in one, some modulations with their halves exchanged."""
    pieces: dict[str, dict[int, str]] = {}
    swapped = set()
    for name in shapes:
        origin = transformer_original(name, last_block)
        pieces.setdefault(origin.name, {})[origin.piece] = name
        if origin.swapped:
            swapped.add(origin.name)

    def make(spec: TensorSpec) -> Tensor:
        original = spec.name.removeprefix(_PREFIX)
        tensor = torch.cat([merged.read(name) for _, name in sorted(pieces[original].items())])
        return swapped_halves(tensor) if original in swapped else tensor

    specs = [
        TensorSpec(_PREFIX + original, _stacked([shapes[name] for name in named.values()]), merged.dtype)
        for original, named in sorted(pieces.items())
    ]
    with _phase(specs, reporter) as phase:
        write_sharded(path.parent, path.stem, specs, make, sys.maxsize, phase.advance)


def _stacked(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@contextmanager
def _phase(specs: Sequence[TensorSpec], reporter: Reporter) -> Iterator[Phase]:
    with reporter.phase("merging", sum(spec.size_bytes for spec in specs), "B") as phase:
        yield phase
