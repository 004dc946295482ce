"""The data sets: where the pictures are, what they are for, their captions, how they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.captions import captions
from simpletune.wizard.questions.masks import of_masks
from simpletune.wizard.questions.role import is_eval, role
from simpletune.wizard.questions.shape import RANDOM, of_shape
from simpletune.wizard.questions.source import source
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State


def pictures(state: State) -> Iterator[Question]:
    """The questions of every data set, until no further one is wanted."""
    index, more = 0, True
    while more:
        yield from source(state, index)
        yield from role(state, index)
        yield from captions(state, index)
        yield from _shown(state, index)
        yield _more(index)
        more = state.values[_more(index).id]
        index += 1


def _shown(state: State, index: int) -> Iterator[Question]:
    """How the pictures are shown; those that are only measured on are shown once, as they are."""
    shape = of_shape(index)
    yield shape.resolution if not is_eval(state, index) else shape.measured
    yield shape.crop
    if state.values[shape.crop.id] == RANDOM:
        yield shape.variants
    if not is_eval(state, index):
        yield shape.mirror
        yield of_masks(index).masks
        yield shape.times


@cache
def _more(index: int) -> Question:
    def read(state: State) -> Any:
        more = len(state.images) > index + 1
        return more if state.base.exists or more else MISSING

    def write(state: State, more: bool) -> None:
        if not more:
            extra = state.images[index + 1 :]
            state.entries = [entry for entry in state.entries if not any(entry is one for one in extra)]

    return Question(
        id=f"data.{index}.more",
        section=f"Pictures {index + 1}" if index else "Pictures",
        row="Further pictures",
        title="Add another folder of pictures?",
        about="Several can each have their own captions, resolution and repeats; or be for measuring only.",
        options=lambda _state: (Option(False, "no"), Option(True, "yes")),
        propose=lambda _state: Proposal(False, "one folder is the usual case"),
        read=read,
        write=write,
    )
