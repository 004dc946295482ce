"""What a data set is for: to learn from, to keep what the model knows, or to measure on. Asked of further sets only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

from simpletune.data.survey import Place
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question, same
from simpletune.wizard.questions.common import number
from simpletune.wizard.questions.one_set import OneSet
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

TRAIN, REGULARISATION, EVAL = "train", "regularisation", "eval"
_FIRST = "the first pictures are those to learn from"
_WEIGHTS = (1.0, 0.5, 0.1)
_HEAVIEST = 1000


def role(state: State, index: int) -> Iterator[Question]:
    """Nothing is asked of the first set, unless it is for something else already."""
    questions = of_role(index)
    other = questions.read_role(state) in (REGULARISATION, EVAL)
    if index or other or questions.role.id in state.answers:
        yield questions.role
    if questions.is_regularisation(state):
        yield questions.weight


def is_eval(state: State, index: int) -> bool:
    return bool(state.entry_value(index, "dataset_type") == "eval")


class RoleQuestions(OneSet):
    @cached_property
    def role(self) -> Question:
        return self.question(
            "role",
            "Used for",
            "What are these pictures for?",
            "Most are learned from. Others can keep the model from forgetting their kind, or tell how well it learns.",
            options=self._roles,
            propose=lambda _state: Proposal(TRAIN, "the usual case"),
            read=self.read_role,
            write=self._write_role,
            keys=("dataset_type", "is_regularisation_data"),
        )

    @cached_property
    def weight(self) -> Question:
        return self.question(
            "weight",
            "Their weight",
            "How much do they count?",
            "The loss of such a picture, against 1 for one that is learned from.",
            options=lambda _state: tuple(Option(weight, f"{weight:g}") for weight in _WEIGHTS),
            other="another weight",
            propose=lambda _state: Proposal(1.0, "as much as the pictures that are learned from"),
            read=self.reads("regularisation_weight"),
            write=self.writes_unless("regularisation_weight", 1.0),
            parse=number(0, _HEAVIEST),
            object=lambda _state, value: None if _is_weight(value) else f"{value!r} is not a weight",
            show=lambda value: f"{value:g}",
            fine=True,
            keys=("regularisation_weight",),
        )

    def is_regularisation(self, state: State) -> bool:
        return not is_eval(state, self.index) and bool(self.value(state, "is_regularisation_data"))

    def read_role(self, state: State) -> Any:
        kind, keeps = self.reads("dataset_type")(state), self.reads("is_regularisation_data")(state)
        if kind == "eval":
            return EVAL
        if keeps is not MISSING and keeps:
            return REGULARISATION
        said = state.base.sets_of(self.index)
        is_said = "dataset_type" in said or "is_regularisation_data" in said
        return TRAIN if self.is_old(state) or is_said else MISSING

    def _roles(self, state: State) -> tuple[Option, ...]:
        first = _FIRST if self.index == 0 else None
        wanted = self.read_role(state)
        return tuple(
            Option(value, label, note, None if same(value, wanted) else refused)
            for value, label, note, refused in (
                (TRAIN, "to learn from", "", None),
                (REGULARISATION, "to keep what the model knows", "regularisation: other dogs beside yours", first),
                (EVAL, "only to measure", "their loss tells when to stop", first or self._trained_on(state)),
            )
        )

    def _trained_on(self, state: State) -> str | None:
        """Why the pictures can't be for measuring: they are among those of another set."""
        own = state.place(self.index)
        for index in range(len(state.images)):
            if index != self.index and not is_eval(state, index) and _overlap(own, state.place(index)):
                return "the same pictures are trained on"
        return None

    def _write_role(self, state: State, value: str) -> None:
        entry = state.image(self.index)
        entry["dataset_type"] = EVAL if value == EVAL else "image"
        if value == REGULARISATION or "is_regularisation_data" in entry:
            entry["is_regularisation_data"] = value == REGULARISATION
        if value == EVAL:
            self.forget(
                state, "repeats", "probability", "start_step", "end_step", "is_regularisation_data",
                "regularisation_weight",
            )  # fmt: skip
        elif value == TRAIN:
            self.forget(state, "regularisation_weight")


@cache
def of_role(index: int) -> RoleQuestions:
    return RoleQuestions(index)


def _overlap(one: Place, other: Place) -> bool:
    """Whether two places have pictures in common: the same, or one within the other."""
    folders = one.folder, other.folder
    if one.type != other.type or folders[0] is None or folders[1] is None:
        return one == other
    return folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0])


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _HEAVIEST
