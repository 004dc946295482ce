"""The review: all answers as a table, those that are changed marked, each a row to edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simpletune.wizard.ask import SECTIONS
from simpletune.wizard.outlook import panel
from simpletune.wizard.question import Question, same
from simpletune.wizard.screen import Option, Screen
from simpletune.wizard.state import MISSING, State
from simpletune.wizard.walk import Step, Walk

WRITE, STOP, ADD, REMOVE, EDIT = "write", "stop", "add", "remove", "edit"
_HIDDEN = ("depth",)  # asked once at the start; nothing follows from it any more


@dataclass(frozen=True)
class Choice:
    """What was picked: an action, and what it is about (a question's id, a data set's index)."""

    action: str
    about: Any = None


def review_screen(walk: Walk, before: State, problem: str | None = None) -> Screen:
    """The table as a choice. `before` is the state of the files on disk, without any answers."""
    rows = [option for step in walk.steps if (option := _row(step, walk.state, before)) is not None]
    sets = len(walk.state.images)
    removals = [
        Option(Choice(REMOVE, index), f"Remove {walk.state.images[index].get('id', index + 1)}", "from the list only")
        for index in range(sets if sets > 1 else 0)
    ]
    marked = "* = changed" if walk.state.base.exists else "* = other than recommended"
    return Screen(
        id="review",
        heading=f"{len(SECTIONS)} of {len(SECTIONS)} · Review",
        title="Is this right?",
        about=f"Pick a row to change it. {marked}.",
        options=(
            Option(Choice(WRITE), "Write the files", "after a look at what changes in them"),
            *rows,
            Option(Choice(ADD), "Add another folder of pictures"),
            *removals,
            Option(Choice(STOP), "Stop, and keep the answers", "the next start offers them"),
        ),
        default=Choice(WRITE),
        panel=panel(walk.state),
        problem=problem,
        can_go_back=False,
    )


def _row(step: Step, state: State, before: State) -> Option | None:
    question, value = step.question, step.answer.value
    if question.id in _HIDDEN or question.id.endswith(".more"):
        return None
    old = before_of(step.question, before)
    in_files = state.base.exists
    changed = not same(old, value) if in_files else not step.answer.followed and step.origin == "given"
    mark = "* " if changed and (in_files or question.propose(state).value is not MISSING) else "  "
    was = f" (was {question.shown(old)})" if changed and in_files and old is not MISSING else ""
    return Option(
        Choice(EDIT, question.id),
        f"{mark}{question.row}{_numbered(question.section)}",
        f"{question.label(state, value)}{was}",
    )


def _numbered(section: str) -> str:
    """What tells a further data set's rows from those of the first: " 2"."""
    number = section.rpartition(" ")[2]
    return f" {number}" if number.isdigit() else ""


def before_of(question: Question, before: State) -> Any:
    """What the files say to a question; MISSING for a data set they don't have."""
    try:
        return question.read(before)
    except (IndexError, KeyError):
        return MISSING
