"""Which layers a LyCORIS config means, by the rules of the library's wrapper. Free of torch.

Modules are taken from the outside in. One whose class is a target gives an adapter to every linear layer in it; of
entries for classes the innermost counts. A linear layer that no such module holds is taken by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from simpletune.config.families import FamilyFacts, Flavour, module_names
from simpletune.config.lycoris import Fault, LayerKind, LycorisConfig, Preset, factorization
from simpletune.config.problems import quoted
from simpletune.config.suggest import close, did_you_mean

LINEAR, _LIST = "Linear", "ModuleList"
Chain = Sequence[tuple[str, str]]
"""The modules around a layer and the layer itself, from the outside in: full name and class of each."""


def layer_kinds(config: LycorisConfig, layers: Mapping[str, Chain]) -> dict[str, LayerKind]:
    """What each linear layer gets, in the order of `layers`; those that get nothing are left out."""
    found = {}
    for name, chain in layers.items():
        kind = _kind(config, chain)
        if kind is not None:
            found[name] = kind
    return found


def _kind(config: LycorisConfig, chain: Chain) -> LayerKind | None:
    preset, (layer, own_class) = config.preset, chain[-1]
    for place, (name, kind) in enumerate(chain):
        if _means(preset, preset.excluded, name):
            continue
        by_name = _means(preset, preset.names, name)
        if kind in preset.classes and not by_name:
            return None if _means(preset, preset.excluded, layer) else _inside(config, chain[place:])
        if by_name and name == layer:
            changed = _entry(preset, layer)
            changed = preset.by_class.get(own_class, {}) if changed is None else changed
            return config.kind_with(config.kind.algo, changed)
    return None


def _inside(config: LycorisConfig, chain: Chain) -> LayerKind:
    """By the innermost module with an entry of its own; an algorithm is also that of the modules around."""
    algo = config.kind.algo
    changed: Mapping[str, Any] = {}
    for name, kind in chain:
        entry = config.preset.by_class.get(kind)
        if entry is not None and not _means(config.preset, config.preset.excluded, name):
            algo, changed = entry.get("algo", algo), entry
    return config.kind_with(algo, changed)


def _means(preset: Preset, patterns: Iterable[str], name: str) -> bool:
    return bool(name) and any(_matches(preset, pattern, name) for pattern in patterns)


def _matches(preset: Preset, pattern: str, name: str) -> bool:
    return name == pattern or (fnmatchcase(name, pattern) if preset.shell_patterns else bool(re.match(pattern, name)))


def _entry(preset: Preset, name: str) -> Mapping[str, object] | None:
    if name in preset.by_name:
        return preset.by_name[name]
    return next((entry for pattern, entry in preset.by_name.items() if _matches(preset, pattern, name)), None)


def known_layers(facts: FamilyFacts, flavour: Flavour) -> dict[str, Chain]:
    """Every linear layer of a published model with the modules around it."""
    return {name: _chain(facts, flavour, name) for name in module_names(facts, flavour)}


def _chain(facts: FamilyFacts, flavour: Flavour, layer: str) -> Chain:
    parts = layer.split(".")
    names = ["", *(".".join(parts[: count + 1]) for count in range(len(parts) - 1))]
    return [*((name, facts.class_of(flavour, name)) for name in names), (layer, LINEAR)]


def target_faults(config: LycorisConfig, layers: Mapping[str, Chain], model: str) -> Iterator[Fault]:
    """Patterns that are none, and targets that `model` has nothing of."""
    preset = config.preset
    broken = list(_broken(preset))
    yield from broken
    if broken:
        return
    classes = {kind for chain in layers.values() for _, kind in chain}
    for name in preset.classes:
        if name not in classes:
            meant = close(name, classes)
            hint = None if meant else f"its classes with linear layers are {', '.join(sorted(classes - {_LIST}))}"
            yield _fault("module", name, preset.by_class, _nothing(model, "class", name, meant), hint)
    for name in preset.names:
        if not any(_matches(preset, name, layer) for layer in layers):
            hint = "names are matched from their beginning, as transformer_blocks.0.attn.to_q"
            yield _fault("name", name, preset.by_name, _nothing(model, "name", name, None), hint)


def _nothing(model: str, what: str, name: str, meant: str | None) -> str:
    return f"{model} has no layer whose {what} is {quoted(name)}{did_you_mean(meant)}"


def _fault(what: str, name: str, entries: Mapping[str, object], message: str, hint: str | None) -> Fault:
    """At the name itself: the key of an entry, or in the list of targets."""
    place = f"{what}_algo_map" if name in entries else f"target_{what}"
    return Fault(("apply_preset", place, name), message, hint, on_key=name in entries)


def _broken(preset: Preset) -> Iterator[Fault]:
    """Regular expressions that can't be read."""
    for key, patterns in (("target_name", preset.names), ("exclude_name", preset.excluded)):
        for pattern in () if preset.shell_patterns else patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                hint = 'for shell patterns add "use_fnmatch": true inside "apply_preset"'
                message = f"{quoted(pattern)} is no regular expression: {error}"
                if key == "target_name":
                    yield _fault("name", pattern, preset.by_name, message, hint)
                else:
                    yield Fault(("apply_preset", key, pattern), message, hint)


def layer_faults(
    config: LycorisConfig, kinds: Mapping[str, LayerKind], shapes: Mapping[str, tuple[int, int]]
) -> Iterator[Fault]:
    """What is not as it was asked for: LoKr factors that don't divide a layer, which LyCORIS replaces.

    shapes: (outputs, inputs) of the layers.
    """
    said = set()
    for name, kind in kinds.items():
        for size in dict.fromkeys(shapes[name]) if kind.algo == "lokr" and kind.factor > 0 else ():
            if size % kind.factor and (size, kind.factor) not in said:
                said.add((size, kind.factor))
                used = " x ".join(map(str, factorization(size, kind.factor)))
                message = f'"factor" {kind.factor} doesn\'t divide {size}, the width of {name}: {used} is used there'
                yield Fault(
                    _place_of_factor(config, kind.factor),
                    message,
                    "as LyCORIS does it; 2, 4, 8 and 16 divide most widths",
                    warning=True,
                )


def _place_of_factor(config: LycorisConfig, factor: int) -> tuple[str, ...]:
    """Where the file says it first: for all layers, or for some."""
    if config.kind.factor != factor:
        for what, entries in (("module", config.preset.by_class), ("name", config.preset.by_name)):
            for name, entry in entries.items():
                if entry.get("factor") == factor:
                    return "apply_preset", f"{what}_algo_map", name, "factor"
    return ("factor",)
