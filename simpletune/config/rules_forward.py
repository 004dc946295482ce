"""What must hold of the keys whose blocks models/sd3_forward.py computes: it doesn't know every LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from simpletune.config.families import matches, module_names
from simpletune.config.lycoris_targets import known_layers, layer_kinds
from simpletune.config.problems import Problem, quoted
from simpletune.config.rules_adapter import lycoris_of
from simpletune.config.view import View

# For each key the values that need it, and one that doesn't.
_NEED: Mapping[str, tuple[Callable[[object], bool], object]] = {
    "base_model_offload": (lambda value: value != 0, 0),
    "activation_offload": (lambda value: value is True, False),
    "execution": (lambda value: value == "compile", "auto"),
    "base_model_matmul": (lambda value: value in ("int8", "fp8"), "auto"),
}


def forward_problems(whole: View) -> Iterator[Problem]:
    """Each rule is left out when a key that it reads is wrong already."""
    for keys, rule in _RULES.items():
        if whole.config.fine(*_NEED, *keys):
            yield from rule(whole)


def no_dropout(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["lora_dropout"] > 0:
        for key, named, remedy in _asked(whole):
            message = f'{named} can\'t be had with "lora_dropout" {config["lora_dropout"]}'
            yield config.error(key, message, f'set "lora_dropout" to 0, or {remedy}')


def known_loras(whole: View) -> Iterator[Problem]:
    layer = _outside_of_blocks_products(whole)
    if layer is not None:
        for key, named, remedy in _asked(whole):
            message = f"{named} can't be had with a LoRA on {layer}, which is no attention or feed-forward layer"
            yield whole.config.error(key, message, f'set "lora_target" to "blocks", or {remedy}')


def _asked(whole: View) -> Iterator[tuple[str, str, str]]:
    """The keys that need it: each with the words for it, and what to set it to instead."""
    for key, (needs, instead) in _NEED.items():
        value = whole.config[key]
        if needs(value):
            said = quoted(instead) if isinstance(instead, str) else quoted(instead).strip('"')
            yield key, f'"{key}"' + (f" {value}" if isinstance(value, str) else ""), f'"{key}" to {said}'


def _outside_of_blocks_products(whole: View) -> str | None:
    """The first layer with a LoRA that isn't one of attention or feed-forward."""
    target, config = whole.config["lora_target"], lycoris_of(whole)
    if config is not None:
        found: Iterable[str] = layer_kinds(config, known_layers(whole.family, whole.flavour))
    elif isinstance(target, str):
        return None
    else:
        names = module_names(whole.family, whole.flavour)
        found = (name for pattern in target for name in names if matches(pattern, name))
    return next((name for name in found if ".attn" not in name and ".ff" not in name), None)


_RULES: Mapping[tuple[str, ...], Callable[[View], Iterator[Problem]]] = {
    ("lora_dropout",): no_dropout,
    ("lora_target", "lora_type", "lycoris_config", "model_flavour"): known_loras,
}
