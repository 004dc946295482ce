"""The LoRA: its size, its strength, and which layers it goes into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simpletune.config.families import FAMILIES
from simpletune.machine.shapes import lora_parameters
from simpletune.wizard import proposals
from simpletune.wizard.measures import size
from simpletune.wizard.outlook import card, memory_note, outlook, pictures
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import number, read_key, whole_number, within_schema, write_key
from simpletune.wizard.screen import Option
from simpletune.wizard.state import State

SECTION = "LoRA"
RANK_AS_ALPHA = "rank"
_BYTES = 4  # of a number in the saved file
_RANKS = (4, 8, 16, 32, 64, 128)
_TARGETS = {
    "attention": "all attention layers, of picture and text",
    "attention-image": "only the picture's attention: smaller, keeps the meaning of words",
    "blocks": "attention and feed-forward layers: learns more, overfits sooner",
}


def adapter(_state: State) -> Iterator[Question]:
    yield RANK
    yield ALPHA
    yield TARGET


def _ranks(state: State) -> tuple[Option, ...]:
    wanted = outlook(state)
    return tuple(Option(rank, str(rank), _rank_note(state, replace(wanted, lora_rank=rank))) for rank in _RANKS)


def _rank_note(state: State, wanted: Any) -> str:
    numbers = lora_parameters(wanted.flavour, wanted.lora_target, wanted.lora_rank)
    return f"a file of {size(_BYTES * numbers)}; {memory_note(wanted, card(state).usable, 'train')}"


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
