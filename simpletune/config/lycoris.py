"""LyCORIS configs in SimpleTuner's format: which adapter each layer gets. Free of torch.

    {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 16,
     "apply_preset": {"target_module": ["Attention"], "module_algo_map": {"Attention": {"factor": 8}}}}

The rules are those of the LyCORIS library (Yeh et al. 2023, arXiv 2309.14859), which SimpleTuner hands the file to. Of
its algorithms those of the LoRA kind are computed here: lora and locon (the same on linear layers), loha and lokr.
`lycoris_targets.py` finds the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from simpletune.config.suggest import close, did_you_mean

ALGOS = {"lora": "LoRA", "locon": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
_ELSEWHERE = ("dylora", "glora", "full", "diag-oft", "boft", "ia3", "tlora")  # the library's others
_DEFAULT_DIM, _DEFAULT_ALPHA = 4, 1.0  # the library's


@dataclass(frozen=True)
class LayerKind:
    """What one linear layer gets. `dim` is the rank; alpha, factor and the rest are as LyCORIS means them.

    `dora`: the rows' lengths are trained beside it (standard LoRA only).
    """

    algo: str  # lora | loha | lokr
    dim: int
    alpha: float
    factor: int = -1
    decompose_both: bool = False
    full_matrix: bool = False
    unbalanced: bool = False
    dora: bool = False

    def factors(self, outputs: int, inputs: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """LoKr's shapes: W1 (a, c) and W2 (b, d) of a layer with a b = outputs and c d = inputs."""
        (a, b), (c, d) = factorization(outputs, self.factor), factorization(inputs, self.factor)
        if self.unbalanced:
            a, b = b, a
        return (a, c), (b, d)

    def shapes(self, outputs: int, inputs: int) -> dict[str, tuple[int, int]]:
        """Every trained matrix of a layer, by the name that the LyCORIS library gives it."""
        if self.algo == "lora":
            return {"lora_down.weight": (self.dim, inputs), "lora_up.weight": (outputs, self.dim)}
        if self.algo == "loha":
            up, down = (outputs, self.dim), (self.dim, inputs)
            return {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": up, "hada_w2_b": down}
        first, second = self.factors(outputs, inputs)
        both = self.decompose_both and not self.full_matrix and self.dim < max(first) / 2
        low = not self.full_matrix and self.dim < max(second) / 2
        return {**_parts("lokr_w1", first, self.dim, low=both), **_parts("lokr_w2", second, self.dim, low=low)}

    def scaling(self, outputs: int, inputs: int) -> float:
        """What the product is multiplied by: alpha / dim, but 1 for a LoKr of two whole matrices."""
        if self.algo == "lokr" and set(self.shapes(outputs, inputs)) == {"lokr_w1", "lokr_w2"}:
            return 1.0
        return (self.alpha or self.dim) / self.dim

    def numbers(self, outputs: int, inputs: int) -> int:
        """Trained parameters of a layer."""
        return sum(map(math.prod, self.shapes(outputs, inputs).values())) + (outputs if self.dora else 0)


def _parts(name: str, shape: tuple[int, int], dim: int, *, low: bool) -> dict[str, tuple[int, int]]:
    return {f"{name}_a": (shape[0], dim), f"{name}_b": (dim, shape[1])} if low else {name: shape}


def factorization(size: int, factor: int) -> tuple[int, int]:
    """The two factors of `size`, the smaller first, that LyCORIS takes: `factor` itself where it divides; else the most
    even ones of which the smaller is at most `factor`, or without that limit where `factor` is -1."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = size if factor < 0 else factor
    small = max(divisor for divisor in range(1, math.isqrt(size) + 1) if size % divisor == 0 and divisor <= limit)
    return small, size // small


@dataclass(frozen=True)
class Preset:
    """Which modules get one: by the class they or something around them have, or by name. `by_class` and `by_name` are
    what differs for some; names are regular expressions that match at the beginning, or shell patterns."""

    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    by_class: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_name: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shell_patterns: bool = False


@dataclass(frozen=True)
class LycorisConfig:
    """A whole file: the kind of every layer that the preset says nothing else of, and the preset."""

    kind: LayerKind
    multiplier: float
    preset: Preset

    def kind_with(self, algo: str, changed: Mapping[str, Any]) -> LayerKind:
        """The kind of a layer whose class or name has entries of its own; `algo` where they name none."""
        base = self.kind
        return LayerKind(
            algo=_plain_algo(changed.get("algo", algo)),
            dim=int(changed.get("dim") or base.dim),
            alpha=float(changed.get("alpha") or base.alpha),
            factor=int(changed.get("factor", base.factor)),
            decompose_both=bool(changed.get("decompose_both", base.decompose_both)),
            full_matrix=bool(changed.get("full_matrix", base.full_matrix)),
            unbalanced=bool(changed.get("unbalanced_factorization", base.unbalanced)),
        )


def _plain_algo(name: str) -> str:
    return "lora" if name.lower() == "locon" else name.lower()


def parse(value: Mapping[str, Any]) -> LycorisConfig:
    """The config of a file in which `faults` found no error."""
    preset = value.get("apply_preset") or {}
    kind = LayerKind(
        algo=_plain_algo(value.get("algo", "lora")),
        dim=int(value.get("linear_dim") or _DEFAULT_DIM),
        alpha=float(value.get("linear_alpha", _DEFAULT_ALPHA) or value.get("linear_dim") or _DEFAULT_DIM),
        factor=int(value.get("factor", -1)),
        decompose_both=bool(value.get("decompose_both", False)),
        full_matrix=bool(value.get("full_matrix", False)),
        unbalanced=bool(value.get("unbalanced_factorization", False)),
    )
    # Without a preset LyCORIS takes every linear layer.
    classes = preset.get("target_module", ["Linear"])
    return LycorisConfig(
        kind,
        float(value.get("multiplier", 1.0)),
        Preset(
            tuple(dict.fromkeys([*classes, *preset.get("module_algo_map", {})])),
            tuple(dict.fromkeys([*preset.get("target_name", []), *preset.get("name_algo_map", {})])),
            tuple(preset.get("exclude_name", [])),
            preset.get("module_algo_map", {}),
            preset.get("name_algo_map", {}),
            bool(preset.get("use_fnmatch", False)),
        ),
    )


# --- what may stand in a file


@dataclass(frozen=True)
class Fault:
    """Something wrong at `path` of a file, where a name in a list stands for its number. `warning`: it can be used all
    the same; `on_key`: the key there is wrong, not its value."""

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None
    warning: bool = False
    on_key: bool = False


_NUMBER, _WHOLE, _SWITCH, _NAMES, _MAP = "a number", "a whole number", "true or false", "a list of names", "an object"
_TOP = {
    "algo": "the name of an algorithm",
    "preset": "the name of a preset",
    "multiplier": _NUMBER,
    "linear_dim": _WHOLE,
    "linear_alpha": _NUMBER,
    "factor": _WHOLE,
    "decompose_both": _SWITCH,
    "full_matrix": _SWITCH,
    "unbalanced_factorization": _SWITCH,
    "apply_preset": _MAP,
}
_OF_LAYERS = {
    "algo": "the name of an algorithm",
    "dim": _WHOLE,
    "alpha": _NUMBER,
    "factor": _WHOLE,
    "decompose_both": _SWITCH,
    "full_matrix": _SWITCH,
    "unbalanced_factorization": _SWITCH,
}
_PRESET = {
    "target_module": _NAMES,
    "target_name": _NAMES,
    "exclude_name": _NAMES,
    "module_algo_map": _MAP,
    "name_algo_map": _MAP,
    "use_fnmatch": _SWITCH,
}
# What LyCORIS takes and linear layers of a transformer have no use for, or which changes nothing of the result.
_HARMLESS = (
    "bypass_mode", "use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp", "conv_dim", "conv_alpha", "enable_conv",
    "block_size", "constraint", "rescaled", "wd_on_output", "lora_prefix",
)  # fmt: skip
_PRESETS_THERE = (
    "full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only",
)  # fmt: skip
"""The library's own by name. They list modules for other trainers; what a network is made of here they leave alone."""
_ONLY_OFF = {
    "dropout": "dropout isn't computed for LyCORIS adapters",
    "rank_dropout": "dropout isn't computed for LyCORIS adapters",
    "module_dropout": "dropout isn't computed for LyCORIS adapters",
    "dora_wd": 'weight decomposition is there for a standard LoRA only: "lora_type" standard with "use_dora"',
    "use_scalar": "a trained scalar isn't computed",
    "train_norm": "norms aren't trained",
    "rs_lora": 'rank-stabilized scaling is a key of a standard LoRA: "use_rslora"',
}
_HINT_OF_PRESET = 'name what to train: "apply_preset": {"target_module": ["Attention", "FeedForward"]}'
_IGNORED_BY_LYCORIS = {"linear_dim": "dim", "linear_alpha": "alpha"}


def faults(value: Any) -> Iterator[Fault]:
    """Everything wrong in a file's value."""
    if not isinstance(value, Mapping):
        yield Fault((), "the file must hold an object {...}", "see docs/adapters.md for one")
        return
    yield from _keys(value, (), _TOP)
    preset = value.get("apply_preset")
    if not preset:
        hint = 'name what to train: "apply_preset": {"target_module": ["Attention"]}'
        yield Fault((), 'without "apply_preset" every linear layer is trained', hint, warning=True)
    elif isinstance(preset, Mapping):
        yield from _keys(preset, ("apply_preset",), _PRESET)
        named = next((key for key in ("target_name", "name_algo_map", "module_algo_map") if preset.get(key)), None)
        if named is not None and "target_module" not in preset:
            message = f'"{named}" is no choice: without "target_module" every linear layer is trained'
            hint = 'that is how LyCORIS reads it; for nothing else write "target_module": [] beside it'
            yield Fault(("apply_preset", named), message, hint, warning=True, on_key=True)
        for name in ("module_algo_map", "name_algo_map"):
            entries = preset.get(name)
            for key, entry in entries.items() if isinstance(entries, Mapping) else ():
                path = ("apply_preset", name, key)
                if isinstance(entry, Mapping):
                    yield from _keys(entry, path, _OF_LAYERS)
                else:
                    yield Fault(path, f'"{key}" must be {_MAP}', 'such as {"factor": 8}')


def _keys(value: Mapping[str, Any], path: tuple[str | int, ...], known: Mapping[str, str]) -> Iterator[Fault]:
    for key, given in value.items():
        here = (*path, key)
        if key in _HARMLESS:
            continue
        if key in _ONLY_OFF:
            if given:
                yield Fault(here, f'"{key}" can\'t be had: {_ONLY_OFF[key]}', "remove it", on_key=True)
        elif known is _OF_LAYERS and key in _IGNORED_BY_LYCORIS:
            hint = f'write "{_IGNORED_BY_LYCORIS[key]}", which is what LyCORIS reads here, or remove it'
            yield Fault(here, f'"{key}" isn\'t read for some layers alone', hint, warning=True, on_key=True)
        elif key not in known:
            message = f'unknown key "{key}"{did_you_mean(close(key, known))}'
            yield Fault(here, message, f"there are {', '.join(known)}", on_key=True)
        else:
            yield from _value(here, key, given, known[key])


def _value(path: tuple[str | int, ...], key: str, given: Any, kind: str) -> Iterator[Fault]:
    if key == "algo":
        yield from _algo(path, given)
    elif key == "preset":
        yield from _named_preset(path, given)
    elif key == "apply_preset" and isinstance(given, str):
        yield Fault(path, f'"{key}" must be {kind}, not a preset\'s name', _HINT_OF_PRESET)
    elif not _is(given, kind):
        wrong = [index for index, name in enumerate(given) if not _is_name(name)] if isinstance(given, list) else []
        yield Fault((*path, *wrong[:1]) if kind is _NAMES else path, f'"{key}" must be {kind}')
    elif key in ("linear_dim", "dim") and given < 1:
        yield Fault(path, f'"{key}" must be at least 1')
    elif key == "factor" and (given == 0 or given < -1):
        yield Fault(path, '"factor" must be at least 1, or -1 for factors as even as can be')
    elif kind is _NUMBER and not math.isfinite(given):
        yield Fault(path, f'"{key}" must be a finite number')
    elif key == "multiplier" and given == 0:
        yield Fault(path, '"multiplier" 0 would train nothing', "write 1.0")


def _named_preset(path: tuple[str | int, ...], given: Any) -> Iterator[Fault]:
    if given == "full":
        return  # the library's default
    if given in _PRESETS_THERE:
        message = f'"preset" "{given}" chooses nothing here: "apply_preset" says what is trained'
        yield Fault(path, message, _HINT_OF_PRESET, warning=True)
    else:
        yield Fault(path, '"preset" names none of LyCORIS\' presets', _HINT_OF_PRESET)


def _algo(path: tuple[str | int, ...], given: Any) -> Iterator[Fault]:
    name = given.lower() if isinstance(given, str) else None
    choices = f"choose one of {', '.join(ALGOS)}"
    if name in _ELSEWHERE:
        yield Fault(path, f'"algo": "{name}" is an algorithm of LyCORIS that isn\'t computed here', choices)
    elif name not in ALGOS:
        meant = did_you_mean(close(name, ALGOS)) if name else ""
        yield Fault(path, f'"algo" must name an algorithm{meant}', choices)


def _is(given: Any, kind: str) -> bool:
    if kind is _SWITCH:
        return isinstance(given, bool)
    if isinstance(given, bool):
        return False
    if kind is _MAP:
        return isinstance(given, Mapping)
    if kind is _NAMES:
        return isinstance(given, list | tuple) and all(map(_is_name, given))
    return isinstance(given, int) or (kind is _NUMBER and isinstance(given, float))


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and given != ""
