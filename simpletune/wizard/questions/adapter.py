"""The adapter: its kind, its size, its strength, and which layers it goes into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simpletune.config.families import FAMILIES
from simpletune.config.lycoris_presets import PRESETS
from simpletune.config.rules_adapter import LYCORIS, TOGETHER, excluded
from simpletune.config.schema import config_keys
from simpletune.machine.adapters import lycoris_text
from simpletune.wizard import proposals
from simpletune.wizard.measures import size
from simpletune.wizard.outlook import card, memory_note, outlook, pictures
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import number, read_key, whole_number, within_schema, write_key
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "LoRA"
RANK_AS_ALPHA = "rank"
_BYTES = 4  # of a number in the saved file
_RANKS = (4, 8, 16, 32, 64, 128)
_TARGETS = {
    "attention": "all attention layers, of picture and text",
    "attention-image": "only the picture's attention: smaller, keeps the meaning of words",
    "blocks": "attention and feed-forward layers: learns more, overfits sooner",
}


def adapter(state: State) -> Iterator[Question]:
    yield KIND
    if state.value("lora_type") == LYCORIS:
        return  # its own file says the rest
    yield RANK
    yield ALPHA
    yield TARGET


STANDARD, DORA, OWN = "standard", "dora", "file"
_KINDS = {
    STANDARD: ("LoRA", "every program reads it"),
    DORA: ("DoRA", "a LoRA whose layers learn their rows' lengths apart: better at low ranks, slower"),
    "lokr": ("LoKr, factor 16", "the smallest files; diffusers needs the LyCORIS library for it"),
    "loha": ("LoHa, rank 8", "full rank from small matrices; the slowest, and diffusers needs LyCORIS for it"),
}
_NOT_OF_LYCORIS = (
    "lora_rank", "lora_alpha", "lora_target", "lora_init_type", "lora_dropout", "use_rslora", "use_dora",
)  # fmt: skip


def _kinds(state: State) -> tuple[Option, ...]:
    options = [_kind_option(state, name, label, note) for name, (label, note) in _KINDS.items()]
    if _read_kind(state) == OWN:
        options.append(Option(OWN, "what the LyCORIS config says", str(state.value("lycoris_config"))))
    return tuple(options)


def _kind_option(state: State, name: str, label: str, note: str) -> Option:
    values = {key: state.value(key) for one in TOGETHER for key in one.keys}
    if name in PRESETS:
        values = {
            key: values[key] if key not in _NOT_OF_LYCORIS else config_keys()[key].get("default") for key in values
        }
        values |= {"lora_type": LYCORIS, "lycoris_config": state.base.lycoris_name}
    else:
        values |= {"lora_type": STANDARD, "use_dora": name == DORA}
    obstacle = next(excluded(values), None)
    if obstacle is not None:
        return Option(name, label, disabled=obstacle.message)
    wanted = outlook(state)
    text = lycoris_text(PRESETS.get(name))
    return Option(name, label, f"{note}; {_rank_note(state, replace(wanted, use_dora=name == DORA, lycoris=text))}")


def _read_kind(state: State) -> Any:
    if state.value("lora_type") == LYCORIS:
        return next((name for name, preset in PRESETS.items() if state.lycoris == preset), OWN)
    if not state.base.exists and "use_dora" not in state.config:
        return MISSING
    return DORA if state.value("use_dora") else STANDARD


def _write_kind(state: State, kind: Any) -> None:
    if kind == OWN:
        return
    if kind in PRESETS:
        for key in _NOT_OF_LYCORIS:
            state.config.pop(key, None)
        state.config |= {"lora_type": LYCORIS}
        state.config.setdefault("lycoris_config", state.base.lycoris_name)
        state.lycoris = json.loads(json.dumps(PRESETS[kind]))
        return
    for key, value in (("lora_type", STANDARD), ("use_dora", kind == DORA)):
        write_key(key, leave_default=True)(state, value)
    if state.config.pop("lycoris_config", None) is not None:
        state.lycoris = state.base.lycoris  # the file is left as it is


KIND = Question(
    id="lora.kind",
    section=SECTION,
    row="Kind",
    title="Which kind of adapter?",
    about="How what is learned is written down. docs/adapters.md compares them.",
    options=_kinds,
    propose=lambda _state: Proposal(STANDARD, "it is read everywhere, trains fastest and is understood best"),
    read=_read_kind,
    write=_write_kind,
    show=lambda value: _KINDS[value][0] if value in _KINDS else "as its LyCORIS config says",
    fine=True,
    figures=True,
    keys=("lora_type", "use_dora", "lycoris_config"),
)


def _ranks(state: State) -> tuple[Option, ...]:
    wanted = outlook(state)
    return tuple(Option(rank, str(rank), _rank_note(state, replace(wanted, lora_rank=rank))) for rank in _RANKS)


def _rank_note(state: State, wanted: Any) -> str:
    return f"a file of {size(_BYTES * wanted.adapter.parameters)}; {memory_note(wanted, card(state).usable, 'train')}"


RANK = Question(
    id="lora.rank",
    section=SECTION,
    row="Rank",
    title="Which rank has the LoRA?",
    about="Its size: a larger one learns more and needs more pictures. 4 to 32 for a subject, 16 to 64 for a style.",
    options=_ranks,
    other="another rank",
    parse=whole_number("lora_rank"),
    object=within_schema("lora_rank"),
    propose=lambda state: proposals.propose_rank(pictures(state)),
    read=read_key("lora_rank"),
    write=write_key("lora_rank"),
    figures=True,
    keys=("lora_rank",),
)


def _alphas(state: State) -> tuple[Option, ...]:
    rank = state.value("lora_rank")
    half = (Option(rank / 2 if rank % 2 else rank // 2, f"half of it, {rank / 2:g}", "scaled by 0.5"),)
    return (Option(RANK_AS_ALPHA, f"the rank, {rank}", "the LoRA counts fully (scaled by 1)"), *half)


def _read_alpha(state: State) -> Any:
    found = read_key("lora_alpha")(state)
    return RANK_AS_ALPHA if found is None else found


def _write_alpha(state: State, value: Any) -> None:
    if value != RANK_AS_ALPHA:
        state.config["lora_alpha"] = value
    elif "lora_alpha" in state.config:
        state.config["lora_alpha"] = None


ALPHA = Question(
    id="lora.alpha",
    section=SECTION,
    row="Alpha",
    title="Which alpha?",
    about="The LoRA's strength: it is scaled by alpha / rank.",
    options=_alphas,
    other="another value",
    parse=number(0, 65536),
    object=within_schema("lora_alpha"),
    propose=lambda _state: Proposal(RANK_AS_ALPHA, "then the learning rate means the same for every rank"),
    read=_read_alpha,
    write=_write_alpha,
    show=lambda value: f"{value:g}" if isinstance(value, int | float) else str(value),
    fine=True,
    keys=("lora_alpha",),
)


def _targets(state: State) -> tuple[Option, ...]:
    wanted = outlook(state)
    options = []
    for name in FAMILIES["sd3"].lora_targets:
        changed = replace(wanted, lora_target=name)
        options.append(Option(name, name, f"{_TARGETS[name]}; {_rank_note(state, changed)}"))
    patterns = state.value("lora_target")
    if isinstance(patterns, list):
        options.append(Option(patterns, "the layers listed in the file", f"{len(patterns)} patterns"))
    return tuple(options)


TARGET = Question(
    id="lora.target",
    section=SECTION,
    row="Layers",
    title="Which layers get the LoRA?",
    about="For single layers, write a list of patterns into the file by hand: lora_target.",
    options=_targets,
    propose=lambda _state: Proposal("attention", "what most LoRAs of SD3 train"),
    read=read_key("lora_target"),
    write=write_key("lora_target"),
    show=lambda value: value if isinstance(value, str) else f"{len(value)} patterns",
    fine=True,
    figures=True,
    keys=("lora_target",),
)
