"""Through the questions in order, as far as there are answers: what is answered, and what is to be asked next.

An answer holds as long as its question is still asked, it is still possible, and, if it was the recommended one, it
still is. All else is asked again. Because files are made from the answers alone, going back and changing one leads to
the same files as answering that way at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simpletune.wizard.facts import Facts
from simpletune.wizard.question import Question, same
from simpletune.wizard.state import MISSING, Answer, Base, State

Sequence = Callable[[State], Iterator[Question]]


@dataclass(frozen=True)
class Step:
    """A question with its answer, and where it came from: "given", "file" (as it stands there) or "proposed"."""

    question: Question
    answer: Answer
    origin: str


@dataclass(frozen=True)
class Walk:
    """How far the answers go: the files they make, the steps, and the question that is open (None at the end)."""

    state: State
    steps: tuple[Step, ...]
    open: Question | None

    def step(self, question_id: str) -> Step | None:
        return next((step for step in self.steps if step.question.id == question_id), None)


@dataclass(frozen=True)
class Terms:
    """What a walk takes for answered without asking: what stands in the files (without `files`, of fine points only),
    and what is proposed, for fine points or for everything. `stop_at` is a question that is to be asked although it has
    an answer."""

    fine_points: bool = True
    everything: bool = False
    files: bool = True
    stop_at: str | None = None


def walk(sequence: Sequence, facts: Facts, base: Base, answers: Mapping[str, Answer], terms: Terms) -> Walk:
    """Answer the questions of `sequence` in order until one is open."""
    state = State(facts, base, answers)
    steps: list[Step] = []
    for question in sequence(state):
        step = None if question.id == terms.stop_at else _step(question, state, terms)
        if step is None:
            return Walk(state, tuple(steps), question)
        steps.append(step)
        state.values[question.id] = step.answer.value
        if step.origin != "file":
            question.write(state, step.answer.value)
    return Walk(state, tuple(steps), None)


def _step(question: Question, state: State, terms: Terms) -> Step | None:
    """The answer that a question has by itself; None when it must be asked."""
    given = state.answers.get(question.id)
    if given is not None:
        if holds(question, state, given):
            followed = given.followed or same(question.propose(state).value, given.value)
            origin = "file" if same(question.read(state), given.value) else "given"
            return Step(question, Answer(given.value, followed), origin)
        return _proposed(question, state) if given.followed and _by_itself(question, terms) else None
    found = in_files(question, state) if terms.files or _by_itself(question, terms) else MISSING
    if found is not MISSING:
        if question.objection(state, found) is None:
            return Step(question, Answer(found), "file")
        if not terms.everything or state.base.sets_any(question.id, question.keys):
            return None
    return _proposed(question, state) if _by_itself(question, terms) else None


def in_files(question: Question, state: State) -> Any:
    """The answer that the files have, or --set gives; MISSING for one that was for another machine or model."""
    void = state.is_void(question.fitted) and not state.base.sets_any(question.id, question.keys)
    return MISSING if void else question.read(state)


def _by_itself(question: Question, terms: Terms) -> bool:
    return terms.everything or (question.fine and terms.fine_points)


def _proposed(question: Question, state: State) -> Step | None:
    value: Any = question.propose(state).value
    if value is MISSING or question.objection(state, value) is not None:
        return None
    return Step(question, Answer(value, followed=True), "proposed")


def holds(question: Question, state: State, answer: Answer) -> bool:
    """Whether an answer given before may stand."""
    if question.objection(state, answer.value) is not None:
        return False
    return not answer.followed or same(question.propose(state).value, answer.value)
