"""A question as a value: what it is called, what it proposes and why, and how its answer is written and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simpletune.wizard.proposals import Proposal
from simpletune.wizard.screen import Option
from simpletune.wizard.state import State

Objection = str | None
OTHER = object()  # the option "another value", which is then typed


class NotUnderstood(ValueError):
    """What was typed can't be an answer; the message says why."""


def _same(text: str) -> Any:
    return text


def _nothing(_state: State, _value: Any) -> None:
    return None


def no_lines(_state: State) -> list[str]:
    return []


@dataclass(frozen=True)
class Question:
    """One question of the wizard.

    id: names the answer in drafts and answer files ("data.0.captions"). row: its name in the review. options: None for
    a typed answer; with `other` the options may be passed by and a value typed. parse: from what is typed to the value;
    raises NotUnderstood. object: what is wrong with a value, or None. write: puts the value into the state's files.
    read: the value that files on disk have, MISSING when they leave it open. fine: a fine point, which takes what is
    proposed unless everything is to be asked. fitted: "machine" for an answer made to fit the machine and the model,
    "model" for one that fits the model alone, "card" for the model: what the files say is void for others. figures:
    whether memory, disk and time depend on it. keys: what it sets. after: lines to show once it was answered.
    """

    id: str
    section: str
    row: str
    title: str
    about: str
    propose: Callable[[State], Proposal[Any]]
    write: Callable[[State, Any], None]
    read: Callable[[State], Any]
    options: Callable[[State], tuple[Option, ...]] | None = None
    parse: Callable[[str], Any] = _same
    object: Callable[[State, Any], Objection] = _nothing
    show: Callable[[Any], str] = str
    other: str | None = None
    path: str | None = None
    fine: bool = False
    fitted: str = ""
    figures: bool = False
    keys: tuple[str, ...] = ()
    after: Callable[[State], list[str]] = field(default=no_lines)

    def objection(self, state: State, value: Any) -> Objection:
        """Why `value` can't be the answer here: no option, a disabled one, no text, or what `object` says of it."""
        if self.options is None:
            return self.object(state, value) if isinstance(value, str) else f"{value!r} is not a text"
        found = next((option for option in self.options(state) if same(option.value, value)), None)
        if found is not None:
            return found.disabled
        return f"{self.shown(value)} is not one of the choices" if self.other is None else self.object(state, value)

    def shown(self, value: Any) -> str:
        """The value as text, whatever it is: an answer file may hold anything."""
        try:
            return self.show(value)
        except (TypeError, ValueError):
            return repr(value)

    def label(self, state: State, value: Any) -> str:
        """The value as a person reads it in the review."""
        if self.options is not None:
            found = next((option.label for option in self.options(state) if same(option.value, value)), None)
            if found is not None:
                return found
        return self.shown(value)


def same(one: Any, other: Any) -> bool:
    """Equality that tells true from 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
