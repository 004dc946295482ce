"""What all questions about one data set have in common: its section, its entry, what was seen of its pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpletune.data.survey import Survey
from simpletune.wizard.question import Question
from simpletune.wizard.state import MISSING, State


class OneSet:
    """The questions about data set `index`, counted from 0."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.section = f"Pictures {index + 1}" if index else "Pictures"

    def question(self, name: str, row: str, title: str, about: str, **more: Any) -> Question:
        return Question(f"data.{self.index}.{name}", self.section, row, title, about, **more)

    def survey(self, state: State) -> Survey:
        return state.facts.survey(state.place(self.index))

    def is_old(self, state: State) -> bool:
        """Whether the data set stood in the files already, so that keys left out have their defaults."""
        return self.index < len(state.base_images)

    def value(self, state: State, key: str) -> Any:
        """A key's value in the files made so far, its default when it isn't given."""
        return state.entry_value(self.index, key)

    def reads(self, key: str) -> Callable[[State], Any]:
        """What the files have for a key, or --set gives; MISSING for a new set that leaves it open."""

        def read(state: State) -> Any:
            if self.index >= len(state.images):
                return state.base.sets_of(self.index).get(key, MISSING)
            entry = state.images[self.index]
            if key in entry:
                return entry[key]
            return state.entry_value(self.index, key) if self.is_old(state) else MISSING

        return read

    def writes(self, key: str) -> Callable[[State, Any], None]:
        return lambda state, value: state.image(self.index).__setitem__(key, value)

    def writes_unless(self, key: str, default: Any) -> Callable[[State, Any], None]:
        """Write a value; the default only where the key stands already, so that files stay short."""

        def write(state: State, value: Any) -> None:
            entry = state.image(self.index)
            if value != default or key in entry:
                entry[key] = value

        return write

    def forget(self, state: State, *keys: str) -> None:
        """Take keys out of the entry, but what --set gives."""
        entry, said = state.image(self.index), state.base.sets_of(self.index)
        for key in keys:
            if key not in said:
                entry.pop(key, None)
