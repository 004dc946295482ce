"""Checkpoints: all a run needs to go on, in a folder that is complete or not there.

    output/checkpoint-500/
      pytorch_lora_weights.safetensors   the adapter, in diffusers keys
      ema.safetensors                    the same with the averaged weights, with use_ema
      optimizer.safetensors              what the optimizer has learned
      state.json                         step, settings and digest of the data, versions, the optimizer's plain numbers
      manifest.json                      size and SHA-256 of each file above

A save writes a hidden temporary folder, syncs it, and renames it (files.new_folder). Old checkpoints go only after the
new one is complete, and of those only what is needed to resume: adapters are small, and stay (trainer/retention.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from simpletune import files
from simpletune.errors import TrainingFailed
from simpletune.models.lora_file import PREFIX
from simpletune.results.run_folder import (
    ADAPTER_FILE,
    EMA_FILE,
    FORMAT,
    MANIFEST_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    is_resumable,
    verify,
)
from simpletune.trainer.retention import remove_leftovers, set_aside_later

__all__ = [
    "Checkpoint",
    "check",
    "load_checkpoint",
    "read_state",
    "remove_leftovers",
    "save_checkpoint",
    "set_aside_later",
    "step_of",
]

_Digest = dict[str, Any]


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
    before: Callable[[], None] = lambda: None,
) -> Path:
    """Write checkpoint-`step`. Returns the new folder.

    optimizer: as `optimizers.optimizer_state` returns it. before: called when everything is written, before the
    checkpoint can be seen. Raises TrainingFailed when a number is not finite: nothing is written then; OSError and
    SafetensorError of the disk, FileExistsError where one of that step is there (a start sets those aside that it
    doesn't go on from): no trace is left then. Older checkpoints stay either way.
    """
    optimizer_tensors, optimizer_json = optimizer
    _check_finite(step, _named(adapter, ema, optimizer_tensors))
    target = output_dir / f"checkpoint-{step}"
    with files.new_folder(target) as folder:
        digests = {
            ADAPTER_FILE: write_tensors(folder / ADAPTER_FILE, adapter, adapter_metadata),
            OPTIMIZER_FILE: write_tensors(folder / OPTIMIZER_FILE, optimizer_tensors),
        }
        if ema is not None:
            digests[EMA_FILE] = write_tensors(folder / EMA_FILE, ema, adapter_metadata)
        digests[STATE_FILE] = write_json(
            folder / STATE_FILE, {"step": step, "optimizer": optimizer_json, "run": dict(state)}
        )
        files.write_json(folder / MANIFEST_FILE, {"format": FORMAT, "step": step, "files": digests})
        before()
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every byte of it. Raises TrainingFailed as `check` does."""
    check(path)
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
        ema=_load_averages(path / EMA_FILE) if has_ema else None,
        state=state["run"],
    )


def _load_averages(file: Path) -> dict[str, Tensor]:
    """By the weights' own names: the file has those of an adapter, and earlier ones had these."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in safetensors.torch.load_file(file).items()}


def check(path: Path) -> None:
    """Raise TrainingFailed, naming what is damaged or missing, where a run can't go on from this checkpoint."""
    hint = 'Name another checkpoint, or set resume_from_checkpoint to "latest" for the newest intact one.'
    problems = verify(path)
    if problems:
        raise TrainingFailed(f"the checkpoint {path} can't be used: {'; '.join(problems)}", hint)
    if not is_resumable(path):
        raise TrainingFailed(
            f"{path} holds only the adapter: what a run needs to go on was removed when newer checkpoints came",
            f"{hint} To start a new run from this adapter, name it in init_lora.",
        )


def read_state(path: Path) -> dict[str, Any]:
    """What the caller gave as `state`, without reading the weights; the checkpoint must have been verified."""
    state: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["run"]
    return state


def step_of(path: Path) -> int:
    """The steps done in a checkpoint that has been verified."""
    return int(json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["step"])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> _Digest:
    """Save tensors under their names; returns size and SHA-256 of the file that was meant, not of what the disk kept:
    they are counted from memory."""
    plain = _without_sharing(tensors)
    safetensors.torch.save_file(plain, path, metadata=dict(metadata) if metadata else None)
    return _digest(_pieces(path, plain))


def write_json(path: Path, value: Any) -> _Digest:
    """Save as JSON; returns size and SHA-256."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files.write_text(path, text)
    return _digest([text.encode()])


def _named(
    adapter: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    yield from (("the adapter", name, tensor) for name, tensor in adapter.items())
    yield from (("the averaged adapter", name, tensor) for name, tensor in (ema or {}).items())
    yield from (("the optimizer", name, tensor) for name, tensor in optimizer.items())


def _check_finite(step: int, tensors: Iterable[tuple[str, str, Tensor]]) -> None:
    for what, name, tensor in tensors:
        if not _is_finite(tensor):
            raise TrainingFailed(
                f"{what} holds NaN or infinity after step {step} ({name}); no checkpoint was written",
                hint="Resume from the last checkpoint with a lower learning_rate.",
            )


def _is_finite(tensor: Tensor) -> bool:
    """NaN goes into smallest and largest, so that nothing of the tensor's size has to be made."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def _without_sharing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU; tensors that are one in memory are written one by one, as safetensors asks."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().to("cpu").contiguous()
        if copy.data_ptr() in seen:
            copy = copy.clone()
        seen.add(copy.data_ptr())
        plain[name] = copy
    return plain


def _pieces(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The bytes of a file that has just been written: its header as it is there, then each tensor from memory."""
    with path.open("rb") as file:
        length = file.read(8)
        text = file.read(int.from_bytes(length, "little"))
    header = {name: entry["data_offsets"][0] for name, entry in json.loads(text).items() if name in tensors}
    yield length
    yield text
    for name in sorted(tensors, key=lambda name: (header[name], tensors[name].nbytes)):
        yield tensors[name].reshape(-1).view(torch.uint8).numpy()


def _digest(pieces: Iterable[Any]) -> _Digest:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}
