"""Which kinds of adapter go with which other settings, and what must hold of a LyCORIS config.

TOGETHER is the one table of it: `validate` tells it of the files, the wizard asks it before it offers a kind, and the
trainer before it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simpletune import outside
from simpletune.config.architecture import component_config
from simpletune.config.document import Document
from simpletune.config.lycoris import Fault, LycorisConfig, faults, parse
from simpletune.config.lycoris_targets import known_layers, layer_faults, layer_kinds, target_faults
from simpletune.config.problems import ERROR, WARNING, Problem, quoted_path
from simpletune.config.rules import differs
from simpletune.config.view import View

LYCORIS, STANDARD = "lycoris", "standard"


@dataclass(frozen=True)
class Exclusion:
    """Values that can't be had together. `key` is where it is shown; `says` gets all values of `keys`."""

    key: str
    keys: tuple[str, ...]
    holds: Callable[[Mapping[str, Any]], bool]
    message: str
    hint: str


def _lycoris(values: Mapping[str, Any]) -> bool:
    return bool(values["lora_type"] == LYCORIS)


_STANDARD_ONLY = 'set "lora_type" to "standard", or remove it'

TOGETHER = (
    Exclusion(
        "lora_type",
        ("lora_type", "lycoris_config"),
        lambda values: _lycoris(values) and values["lycoris_config"] is None,
        '"lora_type" lycoris needs "lycoris_config", the file that says what to train',
        "name one (docs/adapters.md has examples; `simpletune configure` writes one), or use standard",
    ),
    Exclusion(
        "use_dora",
        ("use_dora", "lora_type"),
        lambda values: _lycoris(values) and values["use_dora"],
        '"use_dora" is for a standard LoRA, and "lora_type" is lycoris',
        _STANDARD_ONLY,
    ),
    Exclusion(
        "use_dora",
        ("use_dora", "base_model_precision"),
        lambda values: values["use_dora"] and values["base_model_precision"] == "int2-quanto",
        '"use_dora" can\'t be had over 2 bits: the lengths it trains are those of the quantized rows, which differ too '
        "much from those of the model that the adapter is used with",
        'set "base_model_precision" to "int4-quanto" or better, or "use_dora" to false',
    ),
    Exclusion(
        "lora_init_type",
        ("lora_init_type", "lora_type"),
        lambda values: _lycoris(values) and values["lora_init_type"] != "default",
        '"lora_init_type" is for a standard LoRA, and "lora_type" is lycoris',
        _STANDARD_ONLY,
    ),
    Exclusion(
        "use_rslora",
        ("use_rslora", "lora_type"),
        lambda values: _lycoris(values) and values["use_rslora"],
        '"use_rslora" is for a standard LoRA, and "lora_type" is lycoris',
        'set "linear_alpha" in the LyCORIS config instead, or remove it',
    ),
    Exclusion(
        "lora_dropout",
        ("lora_dropout", "lora_type"),
        lambda values: _lycoris(values) and values["lora_dropout"] > 0,
        '"lora_dropout" is for a standard LoRA, and "lora_type" is lycoris',
        _STANDARD_ONLY,
    ),
)

READ_ELSEWHERE = {"lora_rank": "linear_dim", "lora_alpha": "linear_alpha", "lora_target": "apply_preset"}


def excluded(values: Mapping[str, Any]) -> Iterator[Exclusion]:
    """What can't be had together, of the values of all keys that the table reads."""
    return (one for one in TOGETHER if one.holds(values))


def adapter_problems(whole: View) -> Iterator[Problem]:
    config = whole.config
    for one in TOGETHER:
        if config.fine(*one.keys) and one.holds({key: config[key] for key in one.keys}):
            yield config.error(one.key, one.message, one.hint)
    start = config.path("init_lora") if config.fine("init_lora") else None
    if start is not None and outside.is_pickle(start):
        yield config.error("init_lora", f"{quoted_path(start)} is a pickle", outside.conversion([start]))
    if not config.fine("lora_type", "lycoris_config"):
        return
    if config["lora_type"] == STANDARD:
        if config["lycoris_config"] is not None:
            yield config.useless("lycoris_config", 'while "lora_type" is standard')
        return
    for key, place in READ_ELSEWHERE.items():
        if differs(config, key):
            yield config.useless(key, f'while "lora_type" is lycoris: "{place}" of the LyCORIS config says it')
    if config["lycoris_config"] is not None:
        yield from file_problems(whole)


def file_problems(whole: View) -> Iterator[Problem]:
    """What is wrong in the file that `lycoris_config` names, at its own lines."""
    path = whole.config.path("lycoris_config")
    if path is None or not (path in whole.config.document.planned or path.is_file()):
        return  # rules.named_paths_exist says so
    document = Document.open(path, whole.config.document.planned)
    found = document.syntax_problems()
    if not found:
        found = [_problem(document, fault) for fault in _faults(whole, document.value)]
    if any(problem.severity == ERROR for problem in found):
        whole.config.document.bad.add(("lycoris_config",))
    yield from found


def _problem(document: Document, fault: Fault) -> Problem:
    severity = WARNING if fault.warning else ERROR
    path = _numbered(document.value, fault.path)
    return document.problem(path, fault.message, fault.hint, severity=severity, on_key=fault.on_key)


def _numbered(value: Any, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A path into `value`, its last part a number where that is a name in a list."""
    for depth, part in enumerate(path):
        if isinstance(value, list) and isinstance(part, str) and part in value:
            return (*path[:depth], value.index(part))
        value = value.get(part) if isinstance(value, dict) else None
    return path


def _faults(whole: View, value: Any) -> Iterator[Fault]:
    yield from (first := list(faults(value)))
    if any(not fault.warning for fault in first) or not whole.config.fine("model_family", "model_flavour"):
        return
    config = parse(value)
    if whole.config["pretrained_model_name_or_path"]:
        return  # another checkpoint's layers are looked at when it is loaded
    layers = known_layers(whole.family, whole.flavour)
    yield from (second := list(target_faults(config, layers, whole.flavour.name)))
    if second:
        return
    kinds = layer_kinds(config, layers)
    if not kinds:
        hint = 'name classes of it: "target_module": ["Attention", "FeedForward"]'
        yield Fault(("apply_preset",), f"it means no layer of {whole.flavour.name}", hint, on_key=True)
    yield from layer_faults(config, kinds, {name: _shape(whole, name) for name in kinds})


def _shape(whole: View, layer: str) -> tuple[int, int]:
    """(outputs, inputs) of a layer of the flavour's; of those outside of blocks, which vary, only the width."""
    config = component_config(whole.flavour.name, "transformer")
    width: int = config["num_attention_heads"] * config["attention_head_dim"]
    if layer.endswith("net.0.proj"):
        return 4 * width, width
    return (width, 4 * width) if layer.endswith("net.2") else (width, width)


def lycoris_of(whole: View) -> LycorisConfig | None:
    """The LyCORIS config that is trained by; None where none is, or it has errors."""
    path = whole.config.path("lycoris_config")
    if whole.config["lora_type"] != LYCORIS or path is None:
        return None
    value = Document.open(path, whole.config.document.planned).value
    return None if any(not fault.warning for fault in faults(value)) else parse(value)
