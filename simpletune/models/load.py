"""Stream weights from .safetensors files into a model, one layer at a time, quantizing as they arrive.

A model is built on the meta device (no memory), then each layer is read, moved, cast and if need be quantized, and
its full-precision form dropped before the next is touched. Files are memory-mapped, so neither host nor GPU ever
holds more than the finished part of the model and one layer.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
from simpletune.models.family import Progress
from simpletune.models.quantize import FrozenLinear, QuantizeChoice, assert_all_quantized, frozen_linear, is_quantized
from simpletune.models.weight_source import WeightSource

Materialize = Callable[[str, Tensor], "Tensor | None"]
"""Given the name and the meta tensor of a buffer that no file holds, computes it, or returns None."""
Taken = Callable[[nn.Module], object]
"""Is given a part of the model that has been filled, and may move it elsewhere."""

_COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
_TRIM_EVERY_BYTES = 32 << 20


def compute_dtype(settings: Settings) -> torch.dtype:
    """The dtype of frozen weights and of every product: what `mixed_precision` says."""
    return _COMPUTE_DTYPES[settings.mixed_precision]


@dataclass(frozen=True)
class Loaded:
    """What a streamed model was made of: bytes read, and the files' tensors that it has no place for."""

    bytes_read: int
    unused: tuple[str, ...]


def stream_into(
    module: nn.Module,
    source: WeightSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    precision: str = "no_change",
    quantize: QuantizeChoice = lambda _name, _linear: True,
    quantize_via: str = "accelerator",
    key: str = "base_model_precision",
    materialize: Materialize | None = None,
    progress: Progress | None = None,
    taken: Mapping[str, Taken] | None = None,
) -> Loaded:
    """Fill a module built on the meta device from `source`; it ends frozen, in eval mode, on `device`.

    Linear layers that `quantize` chooses become FrozenLinear of `precision`, quantized on `device`, or on the host when
    `quantize_via` is "cpu". Parameters and stored buffers get `dtype`, except those transformers keeps in fp32 (see
    `stock_dtypes`). Tied parameters stay tied, whichever of their names the file has. Buffers that no file
    holds are computed by `materialize` and keep their own dtype; CLIP's `position_ids` need no help. `key` is what
    errors call the precision. `progress` is told bytes. `taken`: parts of the model, by name, that are filled first and
    handed over one by one as soon as they are whole, before anything else takes memory.

    Raises ModelUnavailable naming file and tensor when one is missing or has another shape, before anything is read
    where the headers tell.
    """
    slots = _slots(module, source)
    _check_headers(slots, source)
    stream = _Stream(module, source, device, stock_dtypes(module, dtype), progress, slots)
    where = torch.device("cpu") if quantize_via == "cpu" else device
    for part, take in [*(taken or {}).items(), ("", None)]:
        if is_quantized(precision):
            stream.quantize_linears(precision, quantize, where, key, inside=part)
        stream.fill_parameters(inside=part)
        stream.fill_buffers(materialize, inside=part)
        if take is not None:
            take(module.get_submodule(part))
    module.eval()
    if is_quantized(precision):
        assert_all_quantized(module, quantize, key)
    source.close()
    return Loaded(stream.bytes_read, tuple(sorted(source.names() - stream.read_names)))


def stock_dtypes(module: nn.Module, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """The dtype `from_pretrained(dtype=...)` gives each tensor of a transformers model, by its name.

    T5 asks for its `wo` in fp32, but transformers honours `_keep_in_fp32_modules` in fp16 only, and the `_strict`
    list in fp16 and bf16. diffusers' SD3 classes keep nothing.
    """
    kept: set[str] = set()
    for child in module.modules():
        if dtype == torch.float16:
            kept |= set(getattr(child, "_keep_in_fp32_modules", None) or ())
        if dtype in (torch.float16, torch.bfloat16):
            kept |= set(getattr(child, "_keep_in_fp32_modules_strict", None) or ())
    pattern = re.compile("|".join(sorted(glob.replace("*", ".*") for glob in kept)) or r"(?!)")
    return lambda name: torch.float32 if pattern.search(name) else dtype


@dataclass(frozen=True)
class _Slot:
    """One tensor of the model: every name it goes by, and the one the source has it under."""

    names: tuple[str, ...]
    stored: str
    shape: tuple[int, ...]


def _slots(module: nn.Module, source: WeightSource) -> list[_Slot]:
    """The model's parameters and stored buffers, tied ones together."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    groups: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(id(parameter), []).append(name)
    for name, target in _ties(module).items():
        if name in parameters and target in parameters and parameters[name] is not parameters[target]:
            groups[id(parameters[target])] += groups.pop(id(parameters[name]))
    slots, missing = [], []
    for names in groups.values():
        stored = next((name for name in names if name in source), None)
        if stored is None:
            missing.append(names[0])
        else:
            slots.append(_Slot(tuple(names), stored, tuple(parameters[names[0]].shape)))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelUnavailable(
            f"{source.where(missing[0])} lacks {', '.join(missing[:3])}{more}",
            "the file is incomplete, or it is another model than the flavour names",
        )
    buffers = (name for name in _stored_buffers(module) if name in source)
    return slots + [_Slot((name,), name, tuple(module.get_buffer(name).shape)) for name in buffers]


def _ties(module: nn.Module) -> dict[str, str]:
    """transformers 5 states ties as {name: the name it shares}; a meta model may not have tied them yet."""
    ties = getattr(module, "_tied_weights_keys", None)
    return dict(ties) if isinstance(ties, Mapping) else {}


def _stored_buffers(module: nn.Module) -> Iterator[str]:
    for prefix, child in module.named_modules():
        for name in child._buffers:
            if name not in child._non_persistent_buffers_set and child._buffers[name] is not None:
                yield f"{prefix}.{name}" if prefix else name


def _check_headers(slots: Sequence[_Slot], source: WeightSource) -> None:
    for slot in slots:
        shape = source.shape(slot.stored)
        if shape is not None and shape != slot.shape:
            raise _wrong_shape(slot, shape, source)


def _wrong_shape(slot: _Slot, shape: tuple[int, ...], source: WeightSource) -> ModelUnavailable:
    return ModelUnavailable(
        f"{source.where(slot.stored)}: {slot.stored} has shape {list(shape)}, the model wants {list(slot.shape)}",
        "this is another model than the flavour names",
    )


class _Stream:
    """One pass over a model's slots."""

    def __init__(
        self,
        module: nn.Module,
        source: WeightSource,
        device: torch.device,
        dtype_of: Callable[[str], torch.dtype],
        progress: Progress | None,
        slots: Sequence[_Slot],
    ) -> None:
        self.module, self.source, self.device, self.dtype_of = module, source, device, dtype_of
        self.progress = progress
        self.pending = {name: slot for slot in slots for name in slot.names}
        self.total_bytes = source.total_bytes
        self.bytes_read = 0
        self.read_names: set[str] = set()
        self.filled: set[str] = set()  # buffers

    def quantize_linears(
        self, precision: str, quantize: QuantizeChoice, where: torch.device, key: str, inside: str
    ) -> None:
        trimmed_at = 0
        for name, linear in list(self.module.get_submodule(inside).named_modules(prefix=inside)):
            if isinstance(linear, FrozenLinear) or not isinstance(linear, nn.Linear) or not quantize(name, linear):
                continue
            weight_name, dtype = f"{name}.weight", self.dtype_of(f"{name}.weight")
            weight = self._read(self.pending.pop(weight_name), where, dtype)
            bias = None if linear.bias is None else self._read(self.pending.pop(f"{name}.bias"), where, dtype)
            frozen = frozen_linear(weight, bias, precision, dtype, name=name, key=key)
            del weight
            parent, leaf = _parent(self.module, name)
            setattr(parent, leaf, frozen.to(self.device).eval())
            if where.type == "cpu" and self.bytes_read - trimmed_at > _TRIM_EVERY_BYTES:
                trimmed_at = self.bytes_read
                _return_free_memory()
        if where.type == "cpu":
            _return_free_memory()

    def fill_parameters(self, inside: str) -> None:
        """Those of the part of that name; of the whole model for an empty one."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        for slot in dict.fromkeys(self.pending.values()):
            if slot.names[0] in parameters and slot.names[0].startswith(f"{inside}." if inside else ""):
                tensor = self._read(slot, self.device, self.dtype_of(slot.names[0]))
                filled = nn.Parameter(tensor, requires_grad=False)
                for name in slot.names:
                    parent, leaf = _parent(self.module, name)
                    parent._parameters[leaf] = filled
                    del self.pending[name]

    def fill_buffers(self, materialize: Materialize | None, inside: str) -> None:
        part = self.module.get_submodule(inside)
        for name, buffer in list(part.named_buffers(prefix=inside, remove_duplicate=False)):
            if name in self.filled:
                continue
            self.filled.add(name)
            parent, leaf = _parent(self.module, name)
            if name in self.pending:
                dtype = self.dtype_of(name) if buffer.is_floating_point() else buffer.dtype
                parent._buffers[leaf] = self._read(self.pending[name], self.device, dtype)
            elif buffer.is_meta:
                parent._buffers[leaf] = _computed(name, buffer, materialize, self.source).to(self.device)
            else:
                parent._buffers[leaf] = buffer.to(self.device)

    def _read(self, slot: _Slot, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A tensor of its own on `device`, cast there rather than on the host."""
        raw = self.source.read(slot.stored)
        if tuple(raw.shape) != slot.shape:
            raise _wrong_shape(slot, tuple(raw.shape), self.source)
        self.read_names.add(slot.stored)
        self.bytes_read += raw.numel() * raw.element_size()
        if self.progress is not None:
            self.progress(min(self.bytes_read, self.total_bytes), self.total_bytes)
        moved = raw.to(device).to(dtype)
        # What is still the mapped file would change, or crash the process, when the file is replaced under it.
        return moved.clone() if moved.data_ptr() == raw.data_ptr() and device.type == "cpu" else moved


def _return_free_memory() -> None:
    """Give freed host memory back to the system.

    Quantizing leaves a small tensor between every two large freed ones, and glibc keeps the holes: without this the
    process grew by 4.4 times the size of the quantized model.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _computed(name: str, buffer: Tensor, materialize: Materialize | None, source: WeightSource) -> Tensor:
    computed = materialize(name, buffer) if materialize is not None else None
    if computed is None and name.split(".")[-1] == "position_ids":
        computed = torch.arange(buffer.shape[-1], dtype=buffer.dtype).expand(buffer.shape)
    if computed is None:
        raise ModelUnavailable(f"{source.where(name)} lacks {name}", "the file is incomplete")
    return computed


def _parent(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    prefix, _, leaf = name.rpartition(".")
    return module.get_submodule(prefix), leaf
