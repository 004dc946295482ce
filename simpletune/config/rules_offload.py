"""What must hold of the keys that keep a part of training in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from simpletune.config.offload import STAGED
from simpletune.config.problems import Problem
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


def offloading_from_a_gpu(whole: View) -> Iterator[Problem]:
    config, device = whole.config, whole.config["device"]
    if device in _NO_USE:
        for key in (key for key, off in _OFF.items() if config[key] != off):
            yield config.warning(key, f'"{key}" saves nothing: {_NO_USE[device]}', "remove it")
    elif 0 < config["base_model_offload"] <= STAGED:
        message = f'"base_model_offload" {config["base_model_offload"]} saves nothing: the GPU needs room for {STAGED}'
        yield config.warning("base_model_offload", message, f"offload more than {STAGED} blocks, or none")


def activations_of_recomputed_blocks(whole: View) -> Iterator[Problem]:
    config = whole.config
    recomputes = config["gradient_checkpointing"] or config["base_model_offload"]
    if config["activation_offload"] and not recomputes:
        yield config.useless("activation_offload", 'while "gradient_checkpointing" is false')


_RULES: Mapping[tuple[str, ...], Callable[[View], Iterator[Problem]]] = {
    ("device",): offloading_from_a_gpu,
    ("gradient_checkpointing",): activations_of_recomputed_blocks,
}
