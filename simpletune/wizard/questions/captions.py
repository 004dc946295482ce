"""Where a data set's captions come from, and what is done to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from simpletune.config.rules_captions import TABLES, table_kind
from simpletune.wizard import proposals
from simpletune.wizard.outlook import card
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question, same
from simpletune.wizard.questions.common import some_text, typed_path, understood_by
from simpletune.wizard.questions.one_set import OneSet
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

CAPTION_NOW = "model"
"""The answer that has captions written by a model, once the files are there. Until they are, one phrase stands for
all, so that the files train at any time; `simpletune caption` sets the data file to use the captions when it is done.
"""

_STRATEGIES = {
    "textfile": "a .txt beside each picture",
    "filename": "the pictures' names",
    "instanceprompt": "one phrase for all",
    "huggingface": "the data set's own column",
    CAPTION_NOW: "have a model write them",
}
_OF_TABLES = ("metadata_path", "filename_column", "width_column", "height_column")
_COST = "4.3 GB to download; slow without a GPU"
_ORDERS = (0, 4, 16)
_MOST_ORDERS = 1000


def captions(state: State, index: int) -> Iterator[Question]:
    """Where captions come from; the phrase, the column, the order, where they matter."""
    questions = of_captions(index)
    yield questions.origin
    chosen = state.values[questions.origin.id]
    if chosen == CAPTION_NOW:
        yield questions.until_then
    elif chosen == "instanceprompt":
        yield questions.trigger
    elif chosen == "huggingface":
        yield questions.column
    if chosen not in (CAPTION_NOW, "instanceprompt") and questions.are_tags(state):
        yield questions.orders


def captioned_later(state: State) -> list[str]:
    """The ids of the data sets that a model is to write captions for."""
    return [
        str(entry["id"])
        for index, entry in enumerate(state.images)
        if state.values.get(of_captions(index).origin.id) == CAPTION_NOW
    ]


class CaptionQuestions(OneSet):
    @cached_property
    def origin(self) -> Question:
        return self.question(
            "captions",
            "Captions",
            "Where do the captions come from?",
            "What the model reads about each picture. Good captions say all that should not become part of the style.",
            options=self._origins,
            other="a table (.csv, .jsonl)",
            propose=lambda state: proposals.propose_captions(self.survey(state)),
            read=self._read_origin,
            write=self._write_origin,
            parse=_table_path,
            object=self._object_table,
            show=lambda value: _STRATEGIES.get(value) or f"the table {Path(value).name}",
            keys=("caption_strategy", "metadata_path"),
        )

    @cached_property
    def trigger(self) -> Question:
        return self.question(
            "trigger",
            "Caption of all",
            "Which phrase stands for these pictures?",
            'It is the caption of all of them, and calls up later what was learned: "a photo of ohwx dog".',
            propose=lambda state: proposals.propose_trigger(self.survey(state)),
            read=self.reads("instance_prompt"),
            write=self.writes("instance_prompt"),
            parse=some_text,
            object=understood_by(some_text),
            keys=("instance_prompt",),
        )

    @cached_property
    def until_then(self) -> Question:
        return replace(
            self.trigger,
            row="Until then",
            title="Which phrase stands for all until the captions are written?",
            about="The model's captions take its place; it counts only if you train without them.",
            fine=True,
        )

    @cached_property
    def column(self) -> Question:
        return self.question(
            "column",
            "Caption column",
            "Which column holds the captions?",
            "A column of text; one with several texts a row gives a picture several captions.",
            options=self._columns,
            other="a column of another name",
            propose=self._propose_column,
            read=self.reads("caption_column"),
            write=self.writes_unless("caption_column", None),
            parse=some_text,
            object=self._object_column,
            show=_shown_column,
            fine=True,
            keys=("caption_column",),
        )

    @cached_property
    def orders(self) -> Question:
        return self.question(
            "orders",
            "Caption orders",
            "Are the parts of a caption shuffled?",
            "The captions are lists of tags: in several orders, no one is learned. The first part stays first.",
            options=lambda _state: tuple(Option(count, _shown_orders(count), _orders_cost(count)) for count in _ORDERS),
            other="another number of orders",
            propose=lambda _state: Proposal(0, "each order is encoded on its own"),
            read=self.reads("caption_shuffle_count"),
            write=self.writes_unless("caption_shuffle_count", 0),
            parse=_orders,
            object=lambda _state, value: None if _is_count(value) else f"{value!r} is not a number of orders",
            show=_shown_orders,
            fine=True,
            figures=True,
            keys=("caption_shuffle_count",),
        )

    def are_tags(self, state: State) -> bool:
        return proposals.looks_like_tags(self.survey(state).captions) or bool(
            self.value(state, "caption_shuffle_count")
        )

    # --- where they come from

    def _origins(self, state: State) -> tuple[Option, ...]:
        """Names that say nothing are no reason to refuse what a file has: somebody wants it so."""
        found = self.survey(state)
        wanted = state.images[self.index].get("caption_strategy") if self.is_old(state) else None
        plain = [
            Option(value, _STRATEGIES[value], note, None if value == wanted == "filename" else refused)
            for value, note, refused in proposals.caption_options(found)
        ]
        tables = [
            Option(one.path, f"the table {Path(one.path).name}", proposals.table_note(one)) for one in found.tables
        ]
        elsewhere = None if card(state).here else "on the machine that trains: simpletune caption config.json"
        return (*plain, *tables, Option(CAPTION_NOW, _STRATEGIES[CAPTION_NOW], _COST, elsewhere))

    def _read_origin(self, state: State) -> Any:
        strategy = self.reads("caption_strategy")(state)
        if strategy not in TABLES:
            return strategy
        named = self.reads("metadata_path")(state)
        return str(state.resolve_pictures(named)) if isinstance(named, str) else MISSING

    def _write_origin(self, state: State, value: str) -> None:
        entry = state.image(self.index)
        if self.is_old(state):
            self._forget_others(state, value)
        kind = table_kind(Path(value).suffix)
        if kind is not None:
            entry["metadata_path"] = state.stored(Path(value), state.data_path.parent)
        entry["caption_strategy"] = kind or ("instanceprompt" if value == CAPTION_NOW else value)

    def _forget_others(self, state: State, value: str) -> None:
        """Take out what belongs to the captions that were there before, and has no effect any more."""
        entry = state.image(self.index)
        self.forget(state, *_OF_TABLES)
        if value != "huggingface":
            self.forget(state, "caption_column")
        if not entry.get("prepend_instance_prompt") and not entry.get("only_instance_prompt"):
            self.forget(state, "instance_prompt")

    def _object_table(self, state: State, value: Any) -> str | None:
        if wrong := understood_by(_table_path)(state, value):
            return wrong
        if same(value, self._read_origin(state)) and self._names_columns(state):
            return None  # which columns it has been told is for validation to judge
        found = state.facts.table(Path(value))
        return found if isinstance(found, str) else None

    def _names_columns(self, state: State) -> bool:
        return any(self.reads(key)(state) not in (MISSING, None) for key in ("filename_column", "caption_column"))

    # --- the column of a data set

    def _columns(self, state: State) -> tuple[Option, ...]:
        look = self.survey(state).hub
        none = "no column has one of these names" if look is not None and look.caption is None else None
        known = look.caption if look is not None and look.caption else "caption, text, prompt or description"
        first = Option(None, _shown_column(None), known, none)
        return (first, *(Option(name, name) for name in (look.texts if look is not None else ())))

    def _propose_column(self, state: State) -> Proposal[Any]:
        look = self.survey(state).hub
        if look is None or look.caption is not None:
            return Proposal(None, "its usual names")
        if len(look.texts) == 1:
            return Proposal(look.texts[0], "the only one with text")
        return Proposal(MISSING, "")

    def _object_column(self, state: State, value: Any) -> str | None:
        return None if same(value, self.reads("caption_column")(state)) else understood_by(some_text)(state, value)


@cache
def of_captions(index: int) -> CaptionQuestions:
    return CaptionQuestions(index)


def _table_path(text: str) -> str:
    path = typed_path(text) if isinstance(text, str) else ""
    if table_kind(os.path.splitext(path)[1]) is None:  # noqa: PTH122
        raise NotUnderstood("a table of captions ends in .csv, .tsv, .jsonl or .parquet")
    return path


def _shown_column(value: Any) -> str:
    if value is None:
        return "found by its name"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _orders(text: str) -> int:
    digits = text.strip().lower().removesuffix("orders").strip()
    if not digits.isdecimal() or not _is_count(int(digits[:9])):
        raise NotUnderstood(f'"{text}" is not a number of orders from 0 to {_MOST_ORDERS}')
    return int(digits)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ORDERS


def _shown_orders(count: Any) -> str:
    return "no, as they are" if count == 0 else f"in {count} orders each"


def _orders_cost(count: int) -> str:
    return f"{count} times the captions to encode" if count else ""
