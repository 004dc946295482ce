"""How much is asked: the main things, or everything."""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

MAIN, ALL = "main", "everything"


def depth(_state: State) -> Iterator[Question]:
    yield DEPTH


DEPTH = Question(
    id="depth",
    section="Start",
    row="Asked for",
    title="How much do you want to decide?",
    about="What isn't asked takes the recommended value. All of it can be changed in the review at the end.",
    options=lambda _state: (
        Option(MAIN, "the main things", "about a dozen questions, three minutes"),
        Option(ALL, "everything", "also crop, repeats, alpha, layers, batch, learning rate, optimizer, schedule"),
    ),
    propose=lambda _state: Proposal(MAIN, "the rest is filled in to fit your machine and pictures"),
    read=lambda state: MAIN if state.base.exists else MISSING,
    write=lambda _state, _value: None,
)
