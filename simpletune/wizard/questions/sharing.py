"""Whether the result goes to the Hugging Face hub: asked where somebody is logged in to it, or the files have it so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import write_key
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

STAYS, PRIVATE, PUBLIC = "no", "private", "public"


def sharing(state: State) -> Iterator[Question]:
    if state.facts.hub_login or state.base.config.get("push_to_hub"):
        yield HUB


def _read(state: State) -> Any:
    if "push_to_hub" not in state.config and not state.base.exists:
        return MISSING
    if not state.config.get("push_to_hub"):
        return STAYS
    return PRIVATE if state.config.get("hub_private", True) else PUBLIC


def _write(state: State, value: str) -> None:
    write_key("push_to_hub", leave_default=True)(state, value != STAYS)
    if value != STAYS:
        write_key("hub_private", leave_default=True)(state, value == PRIVATE)


HUB = Question(
    id="hub",
    section="Result",
    row="On the hub",
    title="Shall the finished LoRA go to the Hugging Face hub?",
    about="With a model card, under the account that is logged in here. `simpletune push` does the same later.",
    options=lambda _state: (
        Option(STAYS, "no"),
        Option(PRIVATE, "yes, private", "only you see it"),
        Option(PUBLIC, "yes, public", "everybody sees it, with its card and sample pictures"),
    ),
    propose=lambda _state: Proposal(STAYS, "nothing leaves this machine unasked"),
    read=_read,
    write=_write,
    keys=("push_to_hub", "hub_private"),
)
