"""The interview: ask what is open, go back when somebody wants to, and end in the review.

Going back asks an earlier question again. What was answered after it stays where it still holds (walk.py) and is asked
again where it doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from simpletune.wizard.ask import ask, doing
from simpletune.wizard.facts import Facts
from simpletune.wizard.question import Question, no_lines
from simpletune.wizard.questions import questions
from simpletune.wizard.questions.depth import ALL
from simpletune.wizard.review import ADD, EDIT, REMOVE, STOP, WRITE, review_screen
from simpletune.wizard.screen import Back, Prompter
from simpletune.wizard.state import MISSING, REMOVED, Answer, Base, State
from simpletune.wizard.walk import Terms, Walk, in_files, walk

Save = Callable[[Mapping[str, Answer]], None]


class Stopped(Exception):
    """Raised when the wizard is left without writing; the answers are in the draft."""


class Interview:
    """Asks through a prompter until there is an answer to everything and the review is accepted.

    `answers` are those given so far and grow with each; `save` is called after each. `through` asks everything again,
    with what stands in the files as the default; without it only what the files leave open is asked.
    """

    def __init__(
        self,
        prompter: Prompter,
        facts: Facts,
        base: Base,
        answers: Mapping[str, Answer],
        save: Save,
        *,
        through: bool = False,
    ) -> None:
        self.prompter = prompter
        self.facts = facts
        self.base = base
        self.answers = dict(answers)
        self.save = save
        self.through = through and base.exists
        self._again: str | None = None  # the question that is asked although it has an answer
        self._reviewed = False
        self._before_edit: tuple[str, dict[str, Answer]] | None = None  # the question picked in the review, and answers

    def run(self, problem: str | None = None) -> Walk:
        """The finished walk, once its review was accepted. Raises Stopped, KeyboardInterrupt or EOFError."""
        for question in [step.question for step in self._walk().steps if step.question.id in self.answers]:
            self._report(question)  # what was answered before, by a flag or in a draft, is reported once too
        while True:
            reached = self._walk()
            if reached.open is not None:
                self._ask(reached)
                continue
            if not self._reviewed:
                self._reviewed = True
                continue
            self._before_edit = None
            if self._review(reached, problem):
                return reached
            problem = None

    def _walk(self) -> Walk:
        terms = Terms(
            fine_points=not self._asks_everything or self._reviewed,
            files=not self.through or self._reviewed,
            stop_at=self._again,
        )
        return walk(questions, self.facts, self.base, self.answers, terms)

    @property
    def _asks_everything(self) -> bool:
        depth = self.answers.get("depth")
        return depth is not None and depth.value == ALL

    def ahead(self, question: Question, value: Any) -> State:
        """The files with `value` here and what is proposed for all that is open."""
        answers = dict(self.answers) if value is MISSING else {**self.answers, question.id: Answer(value)}
        return walk(questions, self.facts, self.base, answers, Terms(everything=True)).state

    def _ask(self, reached: Walk) -> None:
        question = reached.open
        assert question is not None
        previous = self._previous(reached)
        back = previous is not None or self._is_edited(question.id)
        try:
            answer = ask(
                self.prompter, question, reached.state, self.ahead, self._default(question, reached.state),
                can_go_back=back,
            )  # fmt: skip
        except Back:
            self._go_back(question.id, previous)
            return
        self._again = None
        if question.id == "depth" and answer.value != ALL:
            self._forget_fine_points()
        self.answers[question.id] = answer
        self.save(self.answers)
        self._report(question)

    def _forget_fine_points(self) -> None:
        """What isn't asked takes the recommended value, also when it had been asked before somebody went back."""
        whole = walk(questions, self.facts, self.base, self.answers, Terms(everything=True))
        fine = {step.question.id for step in whole.steps if step.question.fine}
        self.answers = {name: answer for name, answer in self.answers.items() if name not in fine}

    def _default(self, question: Question, state: State) -> Any:
        """What is preselected: the answer given before, what the files have, else what is proposed."""
        given = self.answers.get(question.id)
        if given is not None and not given.followed:
            return given.value
        found = in_files(question, state)
        return found if given is None and found is not MISSING else MISSING

    def _previous(self, reached: Walk) -> str | None:
        """The question that was asked before the open one."""
        asked = [step.question.id for step in reached.steps if step.question.id in self.answers]
        return asked[-1] if asked else None

    def _is_edited(self, question_id: str) -> bool:
        """Whether the question is the one that was picked in the review."""
        return self._before_edit is not None and self._before_edit[0] == question_id

    def _go_back(self, question_id: str, previous: str | None) -> None:
        """To the question before; from one that was picked in the review back to that, with the answers it had."""
        if self._before_edit is not None and self._is_edited(question_id):
            self.answers, self._again = self._before_edit[1], None
            self.save(self.answers)
        else:
            self._again = previous

    def _report(self, question: Question) -> None:
        """What is worth saying once a question is answered: the pictures that were found, what the hub said."""
        if question.after is no_lines:
            return
        with doing(self.prompter, "Asking the hub" if question.id.startswith("model.") else ""):
            reached = walk(questions, self.facts, self.base, self.answers, Terms(files=not self.through))
            lines = question.after(reached.state) if question.id in reached.state.values else []
        if lines:
            self.prompter.say(lines)

    def _review(self, reached: Walk, problem: str | None) -> bool:
        before = State(self.facts, self.base, {name: self.answers[name] for name in (REMOVED,) if name in self.answers})
        choice = self.prompter.ask(review_screen(reached, before, problem))
        if choice.action == WRITE:
            return True
        if choice.action == STOP:
            raise Stopped
        if choice.action == EDIT:
            self._edit(choice.about)
        elif choice.action == ADD:
            more = f"data.{len(reached.state.images) - 1}.more"
            self._edit(more)
            self.answers[more], self._again = Answer(True), None
        elif choice.action == REMOVE:
            self._remove(choice.about)
        self.save(self.answers)
        return False

    def _edit(self, question_id: str) -> None:
        self._before_edit = question_id, dict(self.answers)
        self._again = question_id

    def _remove(self, index: int) -> None:
        """Take a data set out: an entry of the files is noted as removed, and the answers to later ones move up."""
        state = self._walk().state
        if index < len(state.base_images):
            gone = self.answers.get(REMOVED, Answer([])).value
            self.answers[REMOVED] = Answer([*gone, state.images[index].get("id")])
        moved: dict[str, Answer] = {}
        for name, answer in self.answers.items():
            prefix, _, rest = name.partition(".")
            number, _, what = rest.partition(".")
            if prefix != "data" or not number.isdecimal():
                moved[name] = answer
            elif int(number) != index:
                moved[f"data.{int(number) - (int(number) > index)}.{what}"] = answer
        moved[f"data.{len(state.images) - 2}.more"] = Answer(False)
        self.answers = moved
