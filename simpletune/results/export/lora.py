"""Writing an adapter in one of the layouts, at a lower rank if that is wanted."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from simpletune import files
from simpletune.errors import EnvironmentNotReady, UsageError
from simpletune.models.deltas import row_lengths, row_squares
from simpletune.models.lora_file import Adapter, Factors, type_of
from simpletune.models.single_file import transformer_original
from simpletune.models.weight_source import WeightSource
from simpletune.results.export.layouts import COMFYUI, header, swapped_halves, tensors
from simpletune.results.export.rank import Reduced, error_in_all, reduce
from simpletune.results.export.subject import Subject

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """What was written. `layers`: by module, how far each is off after its rank was reduced; {} where none was."""

    path: Path
    layers: Mapping[str, Reduced]

    @property
    def error(self) -> float:
        return error_in_all(self.layers)


def needs_base(subject: Subject, layout: str) -> bool:
    """Whether the base's weights are needed: ComfyUI divides a DoRA's lengths by those of the base's rows."""
    return layout == COMFYUI and any(isinstance(one, Factors) and one.magnitude is not None for one in _all(subject))


def _all(subject: Subject) -> list[Adapter]:
    return list(subject.factors.values())


def export_lora(
    subject: Subject,
    layout: str,
    path: Path,
    dtype: str,
    rank: int | None = None,
    max_error: float | None = None,
    base: WeightSource | None = None,
) -> Exported:
    """Write `path`. `max_error` alone: every layer gets the lowest rank that is off by so much at most; with `rank`:
    nothing is written when that rank is off by more, over all layers. `base`: the transformer's weights, where
    `needs_base` says so.

    Raises UsageError for that, for an adapter that has no rank to reduce or that the layout can't hold, and for numbers
    that `dtype` can't hold; EnvironmentNotReady when it can't be written.
    """
    layers, last_block = _reduced(subject, rank, max_error), subject.flavour.block_count - 1
    factors: dict[str, Adapter] = {module: layer.factors for module, layer in layers.items()} or dict(subject.factors)
    if base is not None:
        factors = {module: _for_comfyui(module, factor, base, last_block) for module, factor in factors.items()}
    made = tensors(factors, layout, last_block, DTYPES[dtype])
    check_held(made, dtype)
    _write(path, made, header(factors, layout))
    return Exported(path, layers)


def _reduced(subject: Subject, rank: int | None, max_error: float | None) -> dict[str, Reduced]:
    if rank is None and max_error is None:
        return {}
    each = max_error if rank is None else None
    pairs = {
        module: one for module, one in subject.factors.items() if isinstance(one, Factors) and one.magnitude is None
    }
    if len(pairs) < len(subject.factors):
        raise UsageError(
            f"--rank and --max-error are for LoRAs, and this is a {type_of(subject.factors)}",
            "leave them out; a smaller one must be trained",
        )
    layers = {module: reduce(factor, rank, each) for module, factor in pairs.items()}
    off = error_in_all(layers)
    if rank is not None and max_error is not None and off > max_error:
        raise UsageError(
            f"at rank {rank} the adapter is off by {off:.3g}, which is more than --max-error {max_error:g}",
            "raise --rank or --max-error; --max-error without --rank finds each layer's rank",
        )
    return layers


def _for_comfyui(module: str, adapter: Adapter, base: WeightSource, last_block: int) -> Adapter:
    """ComfyUI multiplies W + B A by m / |W|, where DoRA's paper, PEFT and LyCORIS have m / |W + B A|: so m is given it
    with the quotient of the two lengths in it. Where MMDiT has a modulation's halves the other way round, it exchanges
    those of B A and not those of m, which are exchanged here."""
    if not isinstance(adapter, Factors) or adapter.magnitude is None:
        return adapter
    weight = base.read(f"{module}.weight").float()
    squares = row_squares(weight)
    changed = squares.sqrt() / row_lengths(weight, squares, adapter.a.float(), adapter.b.float())
    length = adapter.magnitude * changed
    turned = transformer_original(f"{module}.weight", last_block).swapped
    return replace(adapter, magnitude=swapped_halves(length) if turned else length)


def check_held(made: Mapping[str, Tensor], dtype: str) -> None:
    """Raise UsageError naming the first tensor with numbers that its `dtype` can't hold."""
    for name, tensor in made.items():
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{name} holds numbers beyond what {dtype} has", "use --dtype bf16 or fp32")


def _write(path: Path, made: dict[str, Tensor], said: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_with(path, lambda temporary: safetensors.torch.save_file(made, temporary, said))
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> EnvironmentNotReady:
    """The error for a file that the disk or the system refuses."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # safetensors says it in words only.
    full = any(os.strerror(number) in reason for number in (errno.ENOSPC, errno.EDQUOT))
    hint = "free some space, or name another place with --output" if full else "name another place with --output"
    return EnvironmentNotReady(f"{path} can't be written: {reason}", hint)
