"""Checkpoints: all a run needs to go on, in a folder that is complete or not there.

    output/checkpoint-500/
      pytorch_lora_weights.safetensors   the adapter, in diffusers keys
      ema.safetensors                    the averaged weights, with use_ema
      optimizer.safetensors              what the optimizer has learned
      state.json                         step, epoch, hashes, versions, the optimizer's plain numbers
      manifest.json                      size and SHA-256 of each file above

A save writes a hidden temporary folder, syncs it, and renames it (files.new_folder). Old checkpoints go only after the
new one is complete, and are renamed before they are removed, so a half-removed one never looks like a checkpoint.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from simpletune import files
from simpletune.errors import TrainingFailed
from simpletune.results.run_folder import (
    ADAPTER_FILE,
    EMA_FILE,
    FORMAT,
    MANIFEST_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    list_checkpoints,
    verify,
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds; all tensors are on the CPU.

    `step` optimizer steps are done. `state` is what the caller gave to `save_checkpoint`.
    """

    path: Path
    step: int
    adapter: dict[str, Tensor]
    adapter_metadata: dict[str, str]
    optimizer_tensors: dict[str, Tensor]
    optimizer_json: dict[str, Any]
    ema: dict[str, Tensor] | None
    state: dict[str, Any]


def save_checkpoint(
    output_dir: Path,
    step: int,
    *,
    adapter: Mapping[str, Tensor],
    adapter_metadata: Mapping[str, str],
    optimizer: tuple[Mapping[str, Tensor], Mapping[str, Any]],
    ema: Mapping[str, Tensor] | None,
    state: Mapping[str, Any],
    total_limit: int | None = None,
) -> Path:
    """Write checkpoint-`step`, then remove the oldest ones beyond `total_limit`. Returns the new folder.

    optimizer: as `optimizers.optimizer_state` returns it. A checkpoint of the same step is replaced.
    Raises TrainingFailed when a weight is not finite: nothing is written then, and older checkpoints stay.
    """
    _check_finite(step, {**adapter, **{f"EMA of {name}": t for name, t in (ema or {}).items()}})
    target = output_dir / f"checkpoint-{step}"
    building = output_dir / f".checkpoint-{step}.new" if target.exists() else target
    _remove(building) if building != target else None
    optimizer_tensors, optimizer_json = optimizer
    with files.new_folder(building) as folder:
        _save_tensors(folder / ADAPTER_FILE, adapter, adapter_metadata)
        _save_tensors(folder / OPTIMIZER_FILE, optimizer_tensors)
        if ema is not None:
            _save_tensors(folder / EMA_FILE, ema)
        files.write_json(folder / STATE_FILE, {"step": step, "optimizer": optimizer_json, "run": dict(state)})
        files.write_json(folder / MANIFEST_FILE, _manifest(folder, step))
    if building != target:
        _remove(target)
        building.replace(target)
    if total_limit is not None:
        prune(output_dir, total_limit, keep=target)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte of it. Raises TrainingFailed naming what is damaged or missing."""
    problems = verify(path)
    if problems:
        raise TrainingFailed(
            f"the checkpoint {path} can't be used: {'; '.join(problems)}",
            hint='Name another checkpoint, or set resume_from_checkpoint to "latest" for the newest intact one.',
        )
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    with safetensors.safe_open(path / ADAPTER_FILE, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    has_ema = (path / EMA_FILE).exists()
    return Checkpoint(
        path=path,
        step=state["step"],
        adapter=safetensors.torch.load_file(path / ADAPTER_FILE),
        adapter_metadata=metadata,
        optimizer_tensors=safetensors.torch.load_file(path / OPTIMIZER_FILE),
        optimizer_json=state["optimizer"],
        ema=safetensors.torch.load_file(path / EMA_FILE) if has_ema else None,
        state=state["run"],
    )


def read_state(path: Path) -> dict[str, Any]:
    """What the caller gave as `state`, without reading the weights; the checkpoint must have been verified."""
    state: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["run"]
    return state


def step_of(path: Path) -> int:
    """The steps done in a checkpoint that has been verified."""
    return int(json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["step"])


def set_aside_later(output_dir: Path, step: int) -> list[Path]:
    """Rename checkpoints beyond `step` to abandoned-...: a run that goes on from an earlier one must not take them up.

    Returns their new paths. Nothing is removed.
    """
    aside = []
    for later, path in list_checkpoints(output_dir):
        if later > step:
            target = next(
                name for n in itertools.count(1) if not (name := output_dir / f"abandoned-{n}-{path.name}").exists()
            )
            aside.append(path.rename(target))
    return aside


def prune(output_dir: Path, total_limit: int, keep: Path) -> list[Path]:
    """Remove the oldest checkpoints until `total_limit` are left; `keep` is never removed. Returns those removed."""
    others = [path for _, path in list_checkpoints(output_dir) if path != keep]
    surplus = others[: max(0, len(others) + 1 - total_limit)]
    for path in surplus:
        _remove(path)
    return surplus


def remove_leftovers(output_dir: Path) -> None:
    """Remove what a killed run left half-written or half-removed. Only the run that holds the lock may do this."""
    if output_dir.is_dir():
        for path in output_dir.glob(".checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)


def _check_finite(step: int, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TrainingFailed(
                f"the adapter holds NaN or infinity after step {step} ({name}); no checkpoint was written",
                hint="Resume from the last checkpoint with a lower learning_rate.",
            )


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Save under their names, on the CPU; tensors that share memory are written one by one, as safetensors asks."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().to("cpu").contiguous()
        storage = copy.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        seen.add(copy.untyped_storage().data_ptr())
        plain[name] = copy
    try:
        safetensors.torch.save_file(plain, path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:  # it wraps the disk's own errors
        raise TrainingFailed(
            f"{path.name} of a checkpoint could not be written: {error}",
            hint="Check the free space and the permissions of output_dir; older checkpoints are intact.",
        ) from error


def _manifest(folder: Path, step: int) -> dict[str, Any]:
    written = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    entries = {path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in written}
    return {"format": FORMAT, "step": step, "files": entries}


def _remove(path: Path) -> None:
    """Remove a folder so that it is whole or gone to whoever looks in between."""
    if path.exists():
        hidden = path.with_name(f".{path.name.lstrip('.')}.removed")
        shutil.rmtree(hidden, ignore_errors=True)
        path.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
