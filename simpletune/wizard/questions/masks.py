"""Which parts of a data set's pictures count: all, or what masks say."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Any

from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import is_folder, not_a_folder, typed_path, unfillable
from simpletune.wizard.questions.one_set import OneSet
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

NONE, ALPHA = "none", "alpha"


class MaskQuestions(OneSet):
    @cached_property
    def masks(self) -> Question:
        return self.question(
            "masks",
            "Masks",
            "Do masks say what counts in the pictures?",
            "White parts are learned, black ones ignored: a picture of the same name in a folder, or transparency.",
            options=self._options,
            other="a folder of masks",
            propose=self._propose,
            read=self._read,
            write=self._write,
            parse=typed_path,
            object=self._object,
            show=lambda value: f"the folder {Path(value).name}",
            fine=True,
            keys=("mask_source", "mask_data_dir"),
        )

    def _options(self, state: State) -> tuple[Option, ...]:
        found, pictures = self.survey(state).masks, self.survey(state).pictures
        beside = (
            ()
            if found is None
            else (Option(found[0], f"the folder {Path(found[0]).name}", self._note(found[1], pictures)),)
        )
        return (
            Option(NONE, "no, all of a picture counts"),
            Option(ALPHA, "their own transparency", "see-through parts are ignored"),
            *beside,
        )

    def _note(self, count: int, pictures: int) -> str:
        rest = pictures - count
        return f"a mask for {count:,}" + (f"; the other {rest:,} are left out" if rest > 0 else ", all of them")

    def _propose(self, state: State) -> Proposal[Any]:
        found = self.survey(state)
        if found.masks is not None and found.listed_all and found.masks[1] == found.pictures:
            return Proposal(found.masks[0], "it stands beside the pictures, with a mask for each")
        return Proposal(NONE, "the usual case")

    def _read(self, state: State) -> Any:
        kind = self.reads("mask_source")(state)
        if kind != "folder":
            return kind
        named = self.reads("mask_data_dir")(state)
        return str(state.resolve_pictures(named)) if isinstance(named, str) else MISSING

    def _write(self, state: State, value: str) -> None:
        entry = state.image(self.index)
        self.forget(state, "mask_data_dir")
        if value in (NONE, ALPHA):
            if value != NONE or "mask_source" in entry:
                entry["mask_source"] = value
            return
        entry |= {"mask_source": "folder", "mask_data_dir": state.stored(Path(value), state.data_path.parent)}

    def _object(self, state: State, value: Any) -> str | None:
        if not isinstance(value, str) or not value:
            return f"{value!r} is not a folder"
        path = Path(value)
        if wrong := not_a_folder(path) or unfillable(state.stored(path, state.data_path.parent)):
            return wrong
        pictures = state.place(self.index).folder
        if pictures is not None and is_folder(pictures) and path.resolve().is_relative_to(pictures.resolve()):
            return f"{path} is among the pictures, so masks would count as pictures: move them out of there"
        return None


@cache
def of_masks(index: int) -> MaskQuestions:
    return MaskQuestions(index)
