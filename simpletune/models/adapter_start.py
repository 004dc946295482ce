"""What an adapter is to be, layer by layer, and what each layer starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from simpletune.config.families import FAMILIES, FamilyFacts, matching_modules
from simpletune.config.lycoris import ALGOS, LayerKind, LycorisConfig, parse
from simpletune.config.lycoris_targets import LINEAR, Chain, layer_kinds
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError
from simpletune.models.adapter_layers import LoraLinear, LycorisLinear, adapter_layers
from simpletune.models.lora_file import Adapter, Factors, check_fits, read_adapter, scaling
from simpletune.models.lora_init import FROM_BASE_WEIGHT, starting_lycoris, starting_matrices
from simpletune.models.lycoris_file import Matrices
from simpletune.models.quantize import FrozenLinear

LYCORIS = "lycoris"


def lycoris_of(settings: Settings) -> LycorisConfig | None:
    """The LyCORIS config of a run that trains by one."""
    return parse(settings.lycoris_config or {}) if settings.lora_type == LYCORIS else None


def kinds_of(transformer: nn.Module, settings: Settings) -> dict[str, LayerKind]:
    """What each layer gets, in the model's order (it may be on meta).

    Raises ConfigError where nothing is meant.
    """
    config = lycoris_of(settings)
    if config is None:
        kind = LayerKind("lora", settings.lora_rank, settings.lora_alpha, dora=settings.use_dora)
        return dict.fromkeys(lora_targets(transformer, settings), kind)
    kinds = layer_kinds(config, _chains(transformer))
    if not kinds:
        raise ConfigError(
            "lycoris_config: it means no linear layer of the model",
            'name classes of it: "apply_preset": {"target_module": ["Attention", "FeedForward"]}',
        )
    return kinds


def _chains(transformer: nn.Module) -> dict[str, Chain]:
    """Each linear layer with the modules around it; one with an adapter on is still that layer."""
    classes = {name: type(module).__name__ for name, module in transformer.named_modules()}
    put_on = {name for name, _ in adapter_layers(transformer)}
    layers = [
        name
        for name, module in transformer.named_modules()
        if name in put_on or (isinstance(module, nn.Linear) and not _is_inside(name, put_on))
    ]
    found: dict[str, Chain] = {}
    for layer in layers:
        parts = layer.split(".")
        names = ["", *(".".join(parts[: count + 1]) for count in range(len(parts) - 1))]
        found[layer] = [*((name, classes[name]) for name in names), (layer, LINEAR)]
    return found


def _is_inside(name: str, modules: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in modules for count in range(1, len(parts)))


def title_of(kinds: Mapping[str, LayerKind], settings: Settings) -> str:
    if settings.lora_type != LYCORIS:
        return f"{'DoRA' if settings.use_dora else 'LoRA'} of rank {settings.lora_rank}"
    return " and ".join(sorted({ALGOS[kind.algo] for kind in kinds.values()}))


@dataclass(frozen=True)
class Start:
    """How layers of a run start: its settings, the adapter that `init_lora` names by layer, the matrices' dtype."""

    settings: Settings
    existing: Mapping[str, Adapter]
    dtype: torch.dtype

    @property
    def multiplier(self) -> float:
        config = lycoris_of(self.settings)
        return 1.0 if config is None else config.multiplier

    def lycoris(self, name: str, base: nn.Linear, kind: LayerKind, device: torch.device) -> LycorisLinear:
        """A frozen layer's LoHa or LoKr."""
        shape = base.out_features, base.in_features
        scale, known = kind.scaling(*shape) * self.multiplier, self.existing.get(name)
        if known is None:
            matrices = starting_lycoris(kind, name, shape, self.settings.seed)
        else:
            assert isinstance(known, Matrices)
            matrices = dict(known.scaled(1 / scale).tensors)
        placed = {short: matrices[short].to(device, self.dtype) for short in sorted(matrices)}
        return LycorisLinear(base, placed, scale)

    def lora(self, name: str, layer: LoraLinear, kind: LayerKind, device: torch.device) -> None:
        """Fill a LoRA that has been put on, and make it a DoRA where it is to be one."""
        settings, known, length = self.settings, self.existing.get(name), None
        ranked = settings.use_rslora and settings.lora_type != LYCORIS
        scale, init = scaling(kind.alpha, kind.dim, ranked) * self.multiplier, settings.lora_init_type
        if known is not None:
            assert isinstance(known, Factors)
            a, b, length = known.a, known.b / scale, known.magnitude
        else:
            weight = layer.base().weight
            weight = weight.to(device) if init in FROM_BASE_WEIGHT else weight
            a, b = starting_matrices(init, name, weight, kind.dim, scale, settings.seed)
        subtracted = known is None and init in FROM_BASE_WEIGHT
        layer.start(a.to(device, self.dtype), b.to(device, self.dtype), scale, subtract=subtracted)
        if kind.dora:
            layer.decompose(device, None if length is None else length.to(self.dtype))


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


def check_base_init(transformer: nn.Module, targets: tuple[str, ...], settings: Settings) -> None:
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


def existing_adapter(transformer: nn.Module, kinds: Mapping[str, LayerKind], settings: Settings) -> dict[str, Adapter]:
    """The adapter that `init_lora` names, {} where it names none."""
    if settings.init_lora is None:
        return {}
    factors = read_adapter(settings.init_lora)
    where = f"init_lora: {settings.init_lora}"
    check_fits(factors, transformer, where)
    if settings.lora_type != LYCORIS:
        _check_rank(factors, settings, where)
    key = "lycoris_config" if settings.lora_type == LYCORIS else "lora_target"
    extra, absent = sorted(set(factors) - set(kinds)), sorted(set(kinds) - set(factors))
    if extra or absent:
        said = f"has {extra[0]}, which {key} doesn't train" if extra else f"lacks {absent[0]}"
        raise ConfigError(f"{where} {said}", f'use the "{key}" it was trained with')
    for name, kind in kinds.items():
        _check_kind(factors[name], kind, f"{where}: {name}")
    return factors


def _check_rank(factors: Mapping[str, Adapter], settings: Settings, where: str) -> None:
    pairs = [factor for factor in factors.values() if isinstance(factor, Factors)]
    ranks = {factor.a.shape[0] for factor in pairs} | {factor.b.shape[1] for factor in pairs}
    if pairs and ranks != {settings.lora_rank}:
        found = ", ".join(str(rank) for rank in sorted(ranks))
        raise ConfigError(
            f"{where} has rank {found}, not {settings.lora_rank}",
            f'set "lora_rank" to {max(ranks)} (a pissa or olora run saves twice its rank)',
        )


def _check_kind(factor: Adapter, kind: LayerKind, where: str) -> None:
    """Raise ConfigError where the file has another kind of adapter, or other matrices, than is to be trained."""
    wanted = kind.shapes(*factor.shape)
    if isinstance(factor, Factors):
        given = {"lora_down.weight": tuple(factor.a.shape), "lora_up.weight": tuple(factor.b.shape)}
        fits = given == wanted and (factor.magnitude is not None) == kind.dora
    else:
        fits = {short: tuple(tensor.shape) for short, tensor in factor.tensors.items()} == wanted
    if not fits:
        raise ConfigError(
            f"{where} is another kind of adapter, or of another size, than is to be trained",
            'use the "lora_type", "use_dora" and "lycoris_config" it was trained with',
        )
