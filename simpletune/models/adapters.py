"""The LoRA on a frozen transformer: where it goes, what it computes, what of it is saved.

y = W x + s (B A - B0 A0) x, with s = alpha / r or alpha / sqrt(r). B0 A0 is what pissa and olora start from; for the
other inits there is none. Published as a change to W ("W - s B0 A0 is the new base"), it is kept beside W here instead:
the base weights never change, switching the adapter off gives the base model exactly, and so does step 0 (pissa and
olora: to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

from simpletune.config.families import FAMILIES, FamilyFacts, matching_modules
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, TrainingFailed
from simpletune.models.lora_file import PREFIX, Factors, check_fits, metadata, read_adapter, scaling
from simpletune.models.lora_init import FROM_BASE_WEIGHT, starting_matrices
from simpletune.models.offload import offload_of
from simpletune.models.quantize import FrozenLinear

_ADAPTER = "default"


class LoraLinear(PeftLinear):
    """PEFT's LoRA layer with fp32 weights and a product in the base layer's dtype.

    PEFT itself casts the input to the LoRA's dtype: an fp32 copy of each input, saved for backward, and fp32 products.
    Casting the two small weights instead is what autocast does and what a bf16 pipeline computes with the saved file.
    """

    initial_a: Tensor | None
    initial_b: Tensor | None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        x = x.to(result.dtype)
        down, up = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
        delta = _low_rank(self.lora_dropout[_ADAPTER](x), down, up)
        if self.initial_a is not None and self.initial_b is not None:
            delta = delta - _low_rank(x, self.initial_a, self.initial_b)
        return result + delta * self.scaling[_ADAPTER]

    @property
    def factor(self) -> float:
        """s: what B A is multiplied by."""
        return float(self.scaling[_ADAPTER])

    def start(self, a: Tensor, b: Tensor, subtract: bool) -> None:
        """Set A (r, I) and B (O, r); with `subtract` keep copies as A0 and B0."""
        self.lora_A[_ADAPTER].weight = nn.Parameter(a)
        self.lora_B[_ADAPTER].weight = nn.Parameter(b)
        self.register_buffer("initial_a", a.clone() if subtract else None)
        self.register_buffer("initial_b", b.clone() if subtract else None)

    def tensors(self) -> dict[str, Tensor]:
        """Everything the layer needs beside its base, by short name."""
        named = {"lora_A.weight": self.lora_A[_ADAPTER].weight, "lora_B.weight": self.lora_B[_ADAPTER].weight}
        if self.initial_a is not None and self.initial_b is not None:
            named |= {"initial_a": self.initial_a, "initial_b": self.initial_b}
        return named


def _low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return functional.linear(functional.linear(x, down.to(x.dtype)), up.to(x.dtype))


@dataclass(frozen=True)
class LoraInfo:
    """What was attached: the trained modules in the model's order, and the number of trained parameters."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    trainable: int


def attach_lora(transformer: nn.Module, settings: Settings, dtype: torch.dtype = torch.float32) -> LoraInfo:
    """Freeze the transformer and put a LoRA with weights of `dtype` on each module `lora_target` means.

    Raises ConfigError naming the key for a target that matches nothing, for pissa or olora on a quantized base or
    with too high a rank, and for an `init_lora` that doesn't fit.
    """
    targets = lora_targets(transformer, settings)
    if settings.lora_init_type in FROM_BASE_WEIGHT:
        _check_base_init(transformer, targets, settings)
    existing = _existing(transformer, targets, settings)
    transformer.requires_grad_(False)
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
    )
    _inject(transformer, targets, config)
    for name, layer in _layers(transformer):
        base, device = layer.get_base_layer(), _device(transformer, layer)
        if existing is not None:
            a, b = existing[name].a.to(device), existing[name].b.to(device) / layer.scaling[_ADAPTER]
        else:
            weight = base.weight.to(device) if settings.lora_init_type in FROM_BASE_WEIGHT else base.weight
            a, b = starting_matrices(
                settings.lora_init_type, name, weight, settings.lora_rank, layer.scaling[_ADAPTER], settings.seed
            )
        subtracted = existing is None and settings.lora_init_type in FROM_BASE_WEIGHT
        layer.start(a.to(device, dtype), b.to(device, dtype), subtract=subtracted)
    trainable = sum(parameter.numel() for _, parameter in trainable_parameters(transformer))
    return LoraInfo(targets, settings.lora_rank, settings.lora_alpha, trainable)


def lora_targets(transformer: nn.Module, settings: Settings) -> tuple[str, ...]:
    """The full names of the linear layers `lora_target` means, in the model's order (it may be on meta).

    Raises ConfigError naming a preset or pattern that matches nothing.
    """
    facts = FAMILIES[settings.model_family]
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    if isinstance(settings.lora_target, str):
        in_blocks = [name for name in names if name.startswith(f"{facts.block_prefix}.")]
        found = {
            name for suffix in _preset(facts, settings.lora_target) for name in matching_modules(suffix, in_blocks)
        }
        if not found:
            raise _no_match(settings.lora_target, facts)
    else:
        found = set()
        for pattern in settings.lora_target:
            matches = matching_modules(pattern, names)
            if not matches:
                raise _no_match(pattern, facts)
            found.update(matches)
    return tuple(name for name in names if name in found)


def _preset(facts: FamilyFacts, preset: str) -> tuple[str, ...]:
    if preset not in facts.lora_targets:
        raise ConfigError(
            f'lora_target: "{preset}" is not one of {", ".join(facts.lora_targets)}',
            f'a pattern of module names goes into a list: "lora_target": ["{preset}"]',
        )
    return facts.lora_targets[preset]


def _no_match(pattern: str, facts: FamilyFacts) -> ConfigError:
    return ConfigError(
        f'lora_target: "{pattern}" matches no linear layer of the model',
        f"layers of a block are {', '.join(facts.block_modules[:5])}, ...; `*` stands for anything",
    )


def _check_base_init(transformer: nn.Module, targets: tuple[str, ...], settings: Settings) -> None:
    key = f"lora_init_type: {settings.lora_init_type}"
    if settings.init_lora is not None:
        raise ConfigError(f"{key} can't start from init_lora", 'remove one of the two, or use "default"')
    for name in targets:
        module = transformer.get_submodule(name)
        if isinstance(module, FrozenLinear):
            raise ConfigError(
                f"{key} needs the unquantized weights of {name}",
                'use "default" or "gaussian", or set "base_model_precision" to "no_change"',
            )
        smaller = min(module.in_features, module.out_features)
        if settings.lora_rank > smaller:
            raise ConfigError(f"{key} allows ranks up to {smaller} for {name}", f'set "lora_rank" to {smaller} or less')


def attach_factors(transformer: nn.Module, factors: Mapping[str, Factors], strength: float = 1.0) -> None:
    """Put a saved adapter on the frozen transformer to make pictures with, computed as in training.

    W x + strength * (B A) x, layer by layer; each layer may have a rank of its own. `lora_file.check_fits` has found
    that the adapter fits. `detach` takes it off again. The strength goes into B: compiled code would be made anew for
    another number beside it.
    """
    targets = tuple(name for name, _ in transformer.named_modules() if name in factors)
    transformer.requires_grad_(False)
    _inject(transformer, targets, LoraConfig(r=1, lora_alpha=1))
    for name, layer in _layers(transformer):
        device = _device(transformer, layer)
        layer.start(factors[name].a.to(device), factors[name].b.to(device) * strength, subtract=False)
        layer.scaling[_ADAPTER] = 1.0


def detach(transformer: nn.Module) -> None:
    """Take the adapter off: the transformer is the base model again, module by module."""
    for name, layer in _layers(transformer):
        parent, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(parent), leaf, layer.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
    transformer._hf_peft_config_loaded = False


@contextmanager
def attached(transformer: nn.Module, factors: Mapping[str, Factors] | None, strength: float = 1.0) -> Iterator[None]:
    """Inside the block the transformer has a saved adapter on, as `attach_factors` puts it; None is the base alone."""
    if factors is None:
        yield
        return
    attach_factors(transformer, factors, strength)
    try:
        yield
    finally:
        detach(transformer)


def _device(transformer: nn.Module, layer: LoraLinear) -> torch.device:
    """Where the layer computes: its weights may wait in host memory."""
    offload = offload_of(transformer)
    if offload is not None:
        return offload.device
    base = layer.get_base_layer()
    device: torch.device = base.scale.device if isinstance(base, FrozenLinear) else base.weight.device
    return device


def _inject(transformer: nn.Module, targets: tuple[str, ...], config: LoraConfig) -> None:
    config.target_modules = list(targets)
    config.init_lora_weights = False
    config._register_custom_module({nn.Linear: LoraLinear})
    # On meta: PEFT would draw from the global random generator, and in the base's dtype.
    inject_adapter_in_model(config, transformer, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    transformer._hf_peft_config_loaded = True  # diffusers' own adapter methods ask for it
    attached = [name for name, _ in _layers(transformer)]
    if attached != list(targets):
        raise TrainingFailed(f"LoRA was attached to {len(attached)} layers where {len(targets)} were meant")


def _existing(transformer: nn.Module, targets: tuple[str, ...], settings: Settings) -> dict[str, Factors] | None:
    if settings.init_lora is None:
        return None
    factors = read_adapter(settings.init_lora)
    where = f"init_lora: {settings.init_lora}"
    ranks = {factor.a.shape[0] for factor in factors.values()} | {factor.b.shape[1] for factor in factors.values()}
    if ranks != {settings.lora_rank}:
        found = ", ".join(str(rank) for rank in sorted(ranks))
        raise ConfigError(
            f"{where} has rank {found}, not {settings.lora_rank}",
            f'set "lora_rank" to {max(ranks)} (a pissa or olora run saves twice its rank)',
        )
    extra, absent = sorted(set(factors) - set(targets)), sorted(set(targets) - set(factors))
    if extra or absent:
        said = f"has {extra[0]}, which lora_target doesn't train" if extra else f"lacks {absent[0]}"
        raise ConfigError(f"{where} {said}", 'use the "lora_target" it was trained with')
    check_fits(factors, transformer, where)
    return factors


def _layers(transformer: nn.Module) -> list[tuple[str, LoraLinear]]:
    return [(name, module) for name, module in transformer.named_modules() if isinstance(module, LoraLinear)]


def trainable_parameters(transformer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every trained parameter with its name, layer by layer in the model's order: A, then B."""
    return [
        (f"{name}.{short}", tensor)
        for name, layer in _layers(transformer)
        for short, tensor in layer.tensors().items()
        if isinstance(tensor, nn.Parameter)
    ]


def lora_state(transformer: nn.Module) -> dict[str, Tensor]:
    """The adapter as it is, on its device, not copied; `MODULE.lora_A.weight` (r, I), `MODULE.lora_B.weight` (O, r)."""
    return {
        f"{name}.{short}": tensor.detach()
        for name, layer in _layers(transformer)
        for short, tensor in layer.tensors().items()
    }


def load_lora_state(transformer: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a `lora_state` or `checkpoint_state` into the attached adapter, in place (optimizers and graphs hold it).

    Raises TrainingFailed naming the first tensor that is missing, left over or of another shape.
    """
    given = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    own = lora_state(transformer)
    for name in sorted(set(own) ^ set(given)):
        said = "lacks" if name in own else "has, unlike this run,"
        raise TrainingFailed(f"the checkpoint's adapter {said} {name}", "was lora_target or lora_init_type changed?")
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
    layers = [layer for _, layer in _layers(transformer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = not enabled
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def checkpoint_state(transformer: nn.Module, settings: Settings) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapter as it is, on its device, not copied, with its own alpha in the metadata: to resume from."""
    state = {f"{PREFIX}{name}": tensor for name, tensor in lora_state(transformer).items()}
    targets = [name for name, _ in _layers(transformer)]
    return state, metadata(settings.lora_rank, settings.lora_alpha, settings.use_rslora, targets)


def final_state(
    transformer: nn.Module, settings: Settings, state: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The adapter to use: diffusers keys and metadata, fp32, for the unchanged base; `state` in place of the live one.

    The scale is folded into B and alpha = rank is stated. pissa and olora become a plain LoRA of twice the rank,
    exactly: [B, -B0] [A; A0] = B A - B0 A0.
    """
    live = lora_state(transformer) | dict(state or {})
    saved: dict[str, Tensor] = {}
    scale = scaling(settings.lora_alpha, settings.lora_rank, settings.use_rslora)
    layers = _layers(transformer)
    for name, _ in layers:
        a, b = live[f"{name}.lora_A.weight"].float(), live[f"{name}.lora_B.weight"].float() * scale
        if f"{name}.initial_a" in live:
            a = torch.cat([a, live[f"{name}.initial_a"]])
            b = torch.cat([b, live[f"{name}.initial_b"] * -scale], dim=1)
        saved[f"{PREFIX}{name}.lora_A.weight"] = _saved(a)
        saved[f"{PREFIX}{name}.lora_B.weight"] = _saved(b)
    rank = next(iter(saved.values())).shape[0]
    return saved, metadata(rank, rank, False, [name for name, _ in layers])


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
