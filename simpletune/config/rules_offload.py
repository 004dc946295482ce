"""What must hold of the keys that keep a part of training in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from simpletune.config.families import matches, module_names
from simpletune.config.lycoris_targets import known_layers, layer_kinds
from simpletune.config.offload import STAGED
from simpletune.config.problems import Problem, quoted
from simpletune.config.rules_adapter import lycoris_of
from simpletune.config.view import View

_OFF = {"base_model_offload": 0, "activation_offload": False}
_NO_USE = {
    "cpu": "the model is in the computer's memory anyway",
    "mps": "an Apple GPU has no memory but the computer's",
}


def offload_problems(whole: View) -> Iterator[Problem]:
    """Each rule is left out when a key that it reads is wrong already."""
    for keys, rule in _RULES.items():
        if whole.config.fine(*_OFF, *keys):
            yield from rule(whole)


def no_dropout_beside_offloading(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["lora_dropout"] > 0:
        for key, off in _in_use(whole):
            message = f'"{key}" can\'t be had with "lora_dropout" {config["lora_dropout"]}'
            yield config.error(key, message, f'set "lora_dropout" to 0, or "{key}" to {off}')


def offloading_knows_the_layers(whole: View) -> Iterator[Problem]:
    """The forward pass that offloads computes LoRAs where models/sd3_forward.py can."""
    layer = _outside_of_blocks_products(whole)
    if layer is not None:
        for key, off in _in_use(whole):
            message = f'"{key}" can\'t be had with a LoRA on {layer}, which is no attention or feed-forward layer'
            yield whole.config.error(key, message, f'set "lora_target" to "blocks", or "{key}" to {off}')


def offloading_from_a_gpu(whole: View) -> Iterator[Problem]:
    config, device = whole.config, whole.config["device"]
    if device in _NO_USE:
        for key, _off in _in_use(whole):
            yield config.warning(key, f'"{key}" saves nothing: {_NO_USE[device]}', "remove it")
    elif 0 < config["base_model_offload"] <= STAGED:
        message = f'"base_model_offload" {config["base_model_offload"]} saves nothing: the GPU needs room for {STAGED}'
        yield config.warning("base_model_offload", message, f"offload more than {STAGED} blocks, or none")


def activations_of_recomputed_blocks(whole: View) -> Iterator[Problem]:
    config = whole.config
    recomputes = config["gradient_checkpointing"] or config["base_model_offload"]
    if config["activation_offload"] and not recomputes:
        yield config.useless("activation_offload", 'while "gradient_checkpointing" is false')


def _in_use(whole: View) -> Iterator[tuple[str, str]]:
    """The keys that are on, and what turns them off."""
    for key, off in _OFF.items():
        if whole.config[key] != off:
            yield key, quoted(off).strip('"')


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
    ("lora_dropout",): no_dropout_beside_offloading,
    ("lora_target", "lora_type", "lycoris_config", "model_flavour"): offloading_knows_the_layers,
    ("device",): offloading_from_a_gpu,
    ("gradient_checkpointing",): activations_of_recomputed_blocks,
}
