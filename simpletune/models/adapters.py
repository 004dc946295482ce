"""The adapter on a frozen transformer: where it goes, what it starts from, what of it is saved.

A LoRA computes y = W x + s (B A - B0 A0) x, with s = alpha / r or alpha / sqrt(r). B0 A0 is what pissa and olora start
from; for the other inits there is none. Published as a change to W ("W - s B0 A0 is the new base"), it is kept beside W
here instead: the base weights never change, switching the adapter off gives the base model exactly, and so does step 0
(pissa and olora: to rounding). DoRA, LoHa and LoKr: deltas.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from simpletune.config.settings import Settings
from simpletune.errors import TrainingFailed
from simpletune.models import lycoris_file
from simpletune.models.adapter_layers import (
    ADAPTER,
    MAGNITUDE,
    AdapterLayer,
    LoraLinear,
    LycorisLinear,
    adapter_layers,
    weight_of,
)
from simpletune.models.adapter_start import (
    LYCORIS,
    Start,
    check_base_init,
    existing_adapter,
    kinds_of,
    lycoris_of,
    title_of,
)
from simpletune.models.deltas import row_lengths, row_squares
from simpletune.models.lora_file import PREFIX, Adapter, Factors, metadata
from simpletune.models.lora_init import FROM_BASE_WEIGHT
from simpletune.models.offload import offload_of
from simpletune.models.quantize import FrozenLinear

_LEAST = 1e-6  # of what a DoRA's rows may be multiplied by where it is weakened
_IN_LYCORIS = {"lora_A.weight": lycoris_file.DOWN, "lora_B.weight": lycoris_file.UP}


@dataclass(frozen=True)
class LoraInfo:
    """What was attached: the trained modules in the model's order, what it is, and the number of trained parameters."""

    targets: tuple[str, ...]
    title: str  # "LoRA of rank 16"
    trainable: int


def attach_lora(transformer: nn.Module, settings: Settings, dtype: torch.dtype = torch.float32) -> LoraInfo:
    """Freeze the transformer and put the adapter of the settings on it, with weights of `dtype`.

    Raises ConfigError naming the key for a target that matches nothing, for pissa or olora on a quantized base or
    with too high a rank, and for an `init_lora` that doesn't fit.
    """
    kinds = kinds_of(transformer, settings)
    targets = tuple(kinds)
    if settings.lora_init_type in FROM_BASE_WEIGHT:
        check_base_init(transformer, targets, settings)
    start = Start(settings, existing_adapter(transformer, kinds, settings), dtype)
    transformer.requires_grad_(False)
    pairs = tuple(name for name, kind in kinds.items() if kind.algo == "lora")
    _inject(transformer, pairs, LoraConfig(r=1, lora_dropout=settings.lora_dropout))
    for name, kind in kinds.items():
        layer = transformer.get_submodule(name)
        if isinstance(layer, LoraLinear):
            start.lora(name, layer, kind, _device(transformer, layer.base()))
        elif isinstance(layer, nn.Linear):
            _replace(transformer, name, start.lycoris(name, layer, kind, _device(transformer, layer)))
    trainable = sum(parameter.numel() for _, parameter in trainable_parameters(transformer))
    return LoraInfo(targets, title_of(kinds, settings), trainable)


def _replace(transformer: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(transformer.get_submodule(parent), leaf, module)


def attach_factors(transformer: nn.Module, factors: Mapping[str, Adapter], strength: float = 1.0) -> None:
    """Put a saved adapter on the frozen transformer to make pictures with, computed as in training.

    W x + strength * (W' - W) x for the weight W' with the adapter in it, layer by layer; each layer may have a rank of
    its own. `lora_file.check_fits` has found that the adapter fits. `detach` takes it off again. The strength goes into
    the matrices: compiled code would be made anew for another number beside them.
    """
    transformer.requires_grad_(False)
    pairs = {name: factor for name, factor in factors.items() if isinstance(factor, Factors)}
    targets = tuple(name for name, _ in transformer.named_modules() if name in pairs)
    _inject(transformer, targets, LoraConfig(r=1))
    for name, factor in factors.items():
        layer = transformer.get_submodule(name)
        if isinstance(factor, Factors):
            assert isinstance(layer, LoraLinear)
            _put_on(layer, factor, strength, _device(transformer, layer.base()))
            continue
        assert isinstance(layer, nn.Linear)
        device = _device(transformer, layer)
        placed = {short: tensor.to(device) for short, tensor in factor.scaled(strength).tensors.items()}
        _replace(transformer, name, LycorisLinear(layer, placed, 1.0))


def _put_on(layer: LoraLinear, factor: Factors, strength: float, device: torch.device) -> None:
    a, b, length = factor.a.to(device), factor.b.to(device), factor.magnitude
    if length is not None and strength != 1:
        b, length = _weakened(weight_of(layer.base(), device), a, b, length.to(device), strength)
        strength = 1.0
    layer.start(a, b * strength, 1.0)
    if length is not None:
        layer.decompose(device, length)


def _weakened(weight: Tensor, a: Tensor, b: Tensor, length: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """B and m of the DoRA that changes W by `strength` of what this one does.

    With k = m / |W + B A|, W + t (k (W + B A) - W) = k' (W + (t k / k') B A) for k' = 1 + t (k - 1).
    """
    squares = row_squares(weight)
    turned = length / row_lengths(weight, squares, a, b)
    wanted = 1 + strength * (turned - 1)
    wanted = torch.where(wanted.abs() < _LEAST, torch.full_like(wanted, _LEAST), wanted)
    b = (strength * turned / wanted)[:, None] * b
    return b, wanted * row_lengths(weight, squares, a, b)


def detach(transformer: nn.Module) -> None:
    """Take the adapter off: the transformer is the base model again, module by module."""
    for name, layer in adapter_layers(transformer):
        _replace(transformer, name, layer.base())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
    transformer._hf_peft_config_loaded = False


@contextmanager
def attached(transformer: nn.Module, factors: Mapping[str, Adapter] | None, strength: float = 1.0) -> Iterator[None]:
    """Inside the block the transformer has a saved adapter on, as `attach_factors` puts it; None is the base alone."""
    if factors is None:
        yield
        return
    attach_factors(transformer, factors, strength)
    try:
        yield
    finally:
        detach(transformer)


def _device(transformer: nn.Module, base: nn.Linear) -> torch.device:
    """Where the layer computes: its weights may wait in host memory."""
    offload = offload_of(transformer)
    if offload is not None:
        return offload.device
    device: torch.device = base.scale.device if isinstance(base, FrozenLinear) else base.weight.device
    return device


def _inject(transformer: nn.Module, targets: tuple[str, ...], config: LoraConfig) -> None:
    if not targets:
        return
    config.target_modules = list(targets)
    config.init_lora_weights = False
    config._register_custom_module({nn.Linear: LoraLinear})
    # On meta: PEFT would draw from the global random generator, and in the base's dtype.
    inject_adapter_in_model(config, transformer, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    transformer._hf_peft_config_loaded = True  # diffusers' own adapter methods ask for it
    attached = [name for name, _ in adapter_layers(transformer)]
    if attached != list(targets):
        raise TrainingFailed(f"LoRA was attached to {len(attached)} layers where {len(targets)} were meant")


def trainable_parameters(transformer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every trained parameter with its name, layer by layer in the model's order: of a LoRA A, then B."""
    return [
        (f"{name}.{short}", tensor)
        for name, layer in adapter_layers(transformer)
        for short, tensor in layer.tensors().items()
        if isinstance(tensor, nn.Parameter)
    ]


def lora_state(transformer: nn.Module) -> dict[str, Tensor]:
    """The adapter as it is, on its device, not copied; `MODULE.lora_A.weight` (r, I), `MODULE.lora_B.weight` (O, r)."""
    return {
        f"{name}.{short}": tensor.detach()
        for name, layer in adapter_layers(transformer)
        for short, tensor in layer.tensors().items()
    }


def load_lora_state(transformer: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a `lora_state` or `checkpoint_state` into the attached adapter, in place (optimizers and graphs hold it).

    Raises TrainingFailed naming the first tensor that is missing, left over or of another shape.
    """
    own, known = lora_state(transformer), _lycoris_keys(transformer)
    plain = {name: tensor for name, tensor in state.items() if not name.endswith(f".{lycoris_file.ALPHA}")}
    given = {known.get(name, name.removeprefix(PREFIX)): tensor for name, tensor in plain.items()}
    for name in sorted(set(own) ^ set(given)):
        said = "lacks" if name in own else "has, unlike this run,"
        raise TrainingFailed(
            f"the checkpoint's adapter {said} {name}",
            "was lora_target, lora_init_type, use_dora or lycoris_config changed?",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != given[name].shape:
                raise TrainingFailed(
                    f"the checkpoint's {name} is {list(given[name].shape)}, this run's {list(tensor.shape)}",
                    "was lora_rank changed?",
                )
            tensor.copy_(given[name])


@contextmanager
def adapter_enabled(transformer: nn.Module, enabled: bool) -> Iterator[None]:
    """Inside the block the adapter is on or off; off, the transformer is the base model.

    PEFT's own switch also flips `requires_grad`, which would drop the parameters from a captured step.
    """
    layers = [layer for _, layer in adapter_layers(transformer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = not enabled
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _lycoris_keys(transformer: nn.Module) -> dict[str, str]:
    """Key of a LyCORIS file -> name in `lora_state`."""
    return {
        lycoris_file.key(name, _IN_LYCORIS.get(short, short)): f"{name}.{short}"
        for name, layer in adapter_layers(transformer)
        for short in layer.tensors()
    }


def checkpoint_state(transformer: nn.Module, settings: Settings) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapter as it is, on its device, not copied, with its own alpha in the metadata: to resume from.

    Of LoHa and LoKr alpha is beside the matrices, as the LyCORIS library has it.
    """
    live = lora_state(transformer)
    config = lycoris_of(settings)
    if config is None:
        targets = [name for name, _ in adapter_layers(transformer)]
        said = metadata(settings.lora_rank, settings.lora_alpha, settings.use_rslora, targets, settings.use_dora)
        return {f"{PREFIX}{name}": tensor for name, tensor in live.items()}, said
    state = {key: live[name] for key, name in _lycoris_keys(transformer).items()}
    for name, kind in kinds_of(transformer, settings).items():
        state[lycoris_file.key(name, lycoris_file.ALPHA)] = torch.tensor(kind.alpha or float(kind.dim))
    return state, {"format": "pt", lycoris_file.MULTIPLIER_KEY: repr(config.multiplier)}


def final_state(
    transformer: nn.Module, settings: Settings, state: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapter to use, in fp32, for the unchanged base; `state` in place of the live one.

    The scale is folded into the matrices and alpha = rank is stated. Standard: diffusers' keys and metadata; pissa and
    olora become a plain LoRA of twice the rank, exactly: [B, -B0] [A; A0] = B A - B0 A0. LyCORIS: its library's keys.
    """
    live = lora_state(transformer) | dict(state or {})
    saved: dict[str, Tensor] = {}
    layers = adapter_layers(transformer)
    for name, layer in layers:
        own = {short: live[f"{name}.{short}"].float() for short in layer.tensors()}
        if settings.lora_type == LYCORIS:
            saved |= _final_lycoris(name, layer, own)
        elif isinstance(layer, LoraLinear):
            saved |= _final_lora(name, layer, own)
    saved = {name: _saved(tensor) for name, tensor in saved.items()}
    if settings.lora_type == LYCORIS:
        return saved, {"format": "pt"}
    rank = next(iter(saved.values())).shape[0]
    return saved, metadata(rank, rank, False, [name for name, _ in layers], settings.use_dora)


def _final_lora(name: str, layer: LoraLinear, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scale = layer.low_rank.scaling
    a, b = own["lora_A.weight"], own["lora_B.weight"] * scale
    if "initial_a" in own:
        a, b = torch.cat([a, own["initial_a"]]), torch.cat([b, own["initial_b"] * -scale], dim=1)
    saved = {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    return saved if MAGNITUDE not in own else {**saved, f"{PREFIX}{name}.{MAGNITUDE}": own[MAGNITUDE]}


def _final_lycoris(name: str, layer: AdapterLayer, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(layer, LoraLinear):
        a, b = own["lora_A.weight"], own["lora_B.weight"] * layer.low_rank.scaling
        named, rank = {lycoris_file.DOWN: a, lycoris_file.UP: b}, len(a)
    else:
        assert isinstance(layer, LycorisLinear)
        folded = lycoris_file.Matrices(own).scaled(layer.scaling)
        named, rank = dict(folded.tensors), folded.rank
    named[lycoris_file.ALPHA] = torch.tensor(float(rank))
    return {lycoris_file.key(name, short): tensor for short, tensor in named.items()}


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
