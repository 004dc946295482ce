"""One question, from its screen to a value that can be its answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from simpletune.wizard.outlook import panel
from simpletune.wizard.question import OTHER, NotUnderstood, Question, same
from simpletune.wizard.screen import Back, Check, Option, Prompter, Screen, Typed
from simpletune.wizard.state import MISSING, Answer, State

SECTIONS = (
    "Start", "Hardware", "Model", "Pictures", "Precision", "LoRA", "Training", "Sample pictures", "Result", "Review",
)  # fmt: skip
Ahead = Callable[[Question, Any], State]


def ask(
    prompter: Prompter, question: Question, state: State, ahead: Ahead, default: Any, *, can_go_back: bool
) -> Answer:
    """Ask until there is an answer that is possible.

    `default` is what is preselected, MISSING for what is proposed; one that isn't possible any more is said, and makes
    way for what is proposed. `ahead(question, value)` gives the files as they would be with a value here and what is
    proposed after it. Raises Back.
    """
    proposed = question.propose(state)
    wished, problem = _beginning(question, state, default, proposed.value)
    while True:
        figures: tuple[str, ...] = ()
        if question.figures:
            state.ahead = ahead(question, wished)
            figures = panel(state.ahead)
        screen = _screen(question, state, wished, proposed, figures, problem, can_go_back)
        value = prompter.ask(screen)
        if value is OTHER:
            value = _typed(prompter, question, state, wished, problem)
            if value is OTHER:
                problem = None
                continue
        elif isinstance(value, Typed) or question.options is None:
            value, problem = _understood(question, value.text if isinstance(value, Typed) else value)
            if problem is not None:
                wished = value
                continue
        with doing(prompter, "Looking at the pictures" if _looks_at_pictures(question) else ""):
            state.facts.look_again()
            problem = question.objection(state, value)
        if problem is None:
            return Answer(value, followed=proposed.value is not MISSING and same(value, proposed.value))
        wished = value


def _beginning(question: Question, state: State, default: Any, proposed: Any) -> tuple[Any, str | None]:
    """What is preselected at first, and what was wrong with the answer that stood there before."""
    wrong = None if default is MISSING else question.objection(state, default)
    said = "" if wrong is None else question.label(state, default)
    problem = wrong if wrong is None or said in wrong else f"{said}: {wrong}"
    return (proposed if default is MISSING or (wrong is not None and proposed is not MISSING) else default), problem


def doing(prompter: Prompter, what: str) -> AbstractContextManager[None]:
    """Say what takes a moment, if anything does."""
    return prompter.busy(what) if what else nullcontext()


def _looks_at_pictures(question: Question) -> bool:
    return question.id.startswith("data.") and question.path is not None


def _typed(prompter: Prompter, question: Question, state: State, wished: Any, problem: str | None) -> Any:
    """A value typed in place of the options; OTHER when somebody went back to them."""
    text = "" if wished is MISSING else _text(question, wished)
    while True:
        screen = Screen(
            question.id, heading(question), f"{question.title} ({question.other})", question.about, default=text,
            problem=problem, check=lambda text: _understood(question, text)[1], name=question.row,
        )  # fmt: skip
        try:
            text = prompter.ask(screen)
        except Back:
            return OTHER
        value, problem = _understood(question, text)
        problem = problem or question.objection(state, value)
        if problem is None:
            return value


def _understood(question: Question, text: str) -> tuple[Any, str | None]:
    """The value that a text means; the text itself, and what is wrong with it, when it means none."""
    try:
        return question.parse(text), None
    except NotUnderstood as error:
        return text, str(error)


def _screen(
    question: Question,
    state: State,
    wished: Any,
    proposed: Any,
    figures: tuple[str, ...],
    problem: str | None,
    can_go_back: bool,
) -> Screen:
    options = None if question.options is None else question.options(state)
    if options is not None and question.other is not None:
        known = any(same(option.value, wished) for option in options)
        wrong = None if known or wished is MISSING else question.objection(state, wished)
        own = () if known or wished is MISSING else (Option(wished, question.shown(wished), "as it is now", wrong),)
        options = (*options, *own, Option(OTHER, f"{question.other} ..."))
    if options is not None and all(option.disabled for option in options if option.value is not OTHER):
        problem = problem or "none of these fits with what was chosen before: go back and change that"
    has_proposal = proposed.value is not MISSING
    return Screen(
        id=question.id,
        heading=heading(question),
        title=question.title,
        about=question.about,
        options=options,
        default=_default(question, wished, proposed.value, options),
        recommended=proposed.value if has_proposal else None,
        reason=proposed.reason if has_proposal else "",
        panel=figures,
        problem=problem,
        path=question.path,
        check=_check(question, state),
        can_go_back=can_go_back,
        name=question.row,
    )


def _check(question: Question, state: State) -> Check | None:
    """What is wrong with a typed answer: where it stands in the place of options, all that may be wrong."""
    if question.options is None:
        return lambda text: _understood(question, text)[1]
    if question.other is None:
        return None

    def wrong(text: str) -> str | None:
        value, problem = _understood(question, text)
        return problem or question.objection(state, value)

    return wrong


def _default(question: Question, wished: Any, proposed: Any, options: tuple[Option, ...] | None) -> Any:
    if options is None:
        return "" if wished is MISSING else _text(question, wished)
    possible = [option.value for option in options if option.disabled is None]
    wanted = [value for one in (wished, proposed) for value in possible if same(value, one)]
    return next(iter([*wanted, *possible]), None)


def _text(question: Question, value: Any) -> str:
    """A value as it would be typed; nothing for one that can't be."""
    text = value if isinstance(value, str) else str(value)
    return text if question.options is None or _understood(question, text)[1] is None else ""


def heading(question: Question) -> str:
    """`4 of 10 · Pictures`: the section, and how far it is."""
    name = question.section.rstrip("0123456789 ")
    number = SECTIONS.index(name) + 1 if name in SECTIONS else 0
    return f"{number} of {len(SECTIONS)} · {question.section}" if number else question.section
