"""The question where a data set's pictures are, and those that only a bucket or a data set of the hub raises."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

from simpletune.data.survey import HubLook, lines
from simpletune.wizard.concerns import words_about
from simpletune.wizard.measures import size
from simpletune.wizard.outlook import forecast, plan
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question, same
from simpletune.wizard.questions.common import some_text, understood_by, unfillable
from simpletune.wizard.questions.one_set import OneSet
from simpletune.wizard.questions.places import KEY_OF_TYPE, S3, SOURCE_KEYS, place_of, typed_place, value_of
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

_BYTES_LISTED = 2_000  # of main memory, for each picture in a run's list
_TRAIN = "train"
_ENVIRONMENT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ANOTHER_SERVER = "A server that isn't Amazon's is named by AWS_ENDPOINT_URL, or --set dataset.{}.s3_endpoint=ADDRESS."
_TESTED_ON = ("test", "validation", "val", "dev")


def source(state: State, index: int) -> Iterator[Question]:
    """Where the pictures are; what a hub's data set leaves open."""
    questions = of_source(index)
    yield questions.folder
    kind = state.place(index).type
    if kind == "s3":
        yield questions.endpoint
    elif kind == "huggingface":
        look = questions.survey(state).hub
        if look is None or look.splits != (_TRAIN,):
            yield questions.split
        if (look is None and state.place(index).folder is None) or (look is not None and len(look.images) > 1):
            yield questions.image_column
        if state.place(index).folder is None:
            yield questions.part


class SourceQuestions(OneSet):
    @cached_property
    def folder(self) -> Question:
        return self.question(
            "folder",
            "Folder",
            "Where are the pictures?" if not self.index else "Where are the further pictures?",
            "A folder, with all below it, .tar files too; or s3://bucket/folder; or hf://owner/name, a data set of the "
            "hub. "
            "It is only read: nothing in it is changed or deleted.",
            propose=lambda _state: Proposal(MISSING, ""),
            read=self._read_folder,
            write=self._write_folder,
            path="folder",
            parse=typed_place,
            object=self._object_folder,
            keys=("instance_data_dir", "s3_url", "dataset_name"),
            after=self._report,
        )

    @cached_property
    def endpoint(self) -> Question:
        return self.question(
            "endpoint",
            "Server",
            "Which server is the bucket on?",
            "Credentials are taken from the environment or the AWS configuration files, and never stand in files here.",
            options=lambda _state: (Option(None, "Amazon's, or that of the environment", _environment()),),
            other="the address of another server",
            propose=lambda _state: Proposal(None, "it answers there"),
            parse=_address,
            object=understood_by(_address),
            read=self.reads("s3_endpoint"),
            write=self.writes_unless("s3_endpoint", None),
            fine=True,
            keys=("s3_endpoint",),
        )

    @cached_property
    def split(self) -> Question:
        return self.question(
            "split",
            "Split",
            "Which part of the data set is trained on?",
            "A data set is in parts (splits). train[:500] takes the first 500 rows of one.",
            options=self._splits,
            other="another part",
            propose=self._propose_split,
            parse=some_text,
            object=self._object_split,
            read=self.reads("dataset_split"),
            write=self.writes_unless("dataset_split", _TRAIN),
            fine=True,
            keys=("dataset_split",),
        )

    @cached_property
    def image_column(self) -> Question:
        return self.question(
            "image_column",
            "Picture column",
            "Which column holds the pictures?",
            "A data set may have several; the others are not fetched into the caches.",
            options=self._image_columns,
            other="a column of another name",
            propose=self._propose_image_column,
            parse=some_text,
            object=understood_by(some_text),
            read=self.reads("image_column"),
            write=self.writes_unless("image_column", None),
            show=lambda value: "the only one" if value is None else str(value),
            fine=True,
            keys=("image_column",),
        )

    @cached_property
    def part(self) -> Question:
        return self.question(
            "part",
            "Fetched",
            "How much of the data set is fetched?",
            "The whole of its part is downloaded first, or so many pictures one by one: for some of a very large set.",
            options=lambda _state: (Option(None, "all of it", "downloaded once, when training first starts"),),
            other="so many pictures",
            propose=lambda _state: Proposal(None, "the usual case"),
            parse=_pictures,
            object=self._object_part,
            read=self._read_part,
            write=self._write_part,
            show=lambda value: "row by row" if value is True else f"{value:,} pictures",
            fine=True,
            keys=("streaming", "max_num_samples"),
        )

    # --- the folder

    def _read_folder(self, state: State) -> Any:
        """The place itself: a path in the file is meant from there, a typed one from the current folder."""
        if self.index < len(state.images):
            found = value_of(state, state.images[self.index])
        else:
            found = value_of(state, state.base.sets_of(self.index))
        return MISSING if found is None else found

    def _object_folder(self, state: State, value: str) -> str | None:
        if "://" in value and (wrong := understood_by(typed_place)(state, value)):
            return wrong
        place = place_of(state, self.index, value)
        if place.folder is not None:
            stored = state.stored(place.folder, state.data_path.parent)
            if wrong := unfillable(stored, ("model_family", "output_dir", "id")):
                return wrong
        found = state.facts.survey(place)
        if found.problem is None:
            return None
        also = _ANOTHER_SERVER.format(state.base.entry_of(self.index)) if value.startswith(S3) else None
        hint = (found.hint or "").removesuffix(".")
        joint = ". " if hint[:1].isupper() else ": "
        return joint.join(part for part in (found.problem, hint) if part) + (f". {also}" if also else "")

    def _write_folder(self, state: State, value: str) -> None:
        place = place_of(state, self.index, value)
        kind = place.type or state.facts.survey(place).type
        is_new = self.index >= len(state.base_images)
        entry = state.image(self.index)
        if not is_new:
            self.forget(state, *SOURCE_KEYS)
        here = place.folder
        stored = place.where if here is None else state.stored(here, state.data_path.parent)
        entry[KEY_OF_TYPE[kind]] = stored
        if is_new or "type" in entry or kind != "local":
            entry["type"] = kind
        if is_new:
            taken = {str(other.get("id")) for other in state.entries}
            entry["id"] = entry["id"] or unique_name(name_of(place.name), taken)
            entry.setdefault("dataset_type", "image")

    def _report(self, state: State) -> list[str]:
        """What is there, what may go wrong with it, and what becomes of it."""
        found, machine = self.survey(state), state.facts.machine
        edge = state.flavour.resolution
        said = lines(found, edge)
        if found.unseen is not None:
            return said
        expected = forecast(replace(plan(state), bucket=(edge, edge), pictures=found.usable)).disk["latents"]
        words = words_about(
            found,
            edge,
            disk_needed=expected,
            disk_free=machine.disk_free,
            memory_needed=_BYTES_LISTED * found.pictures,
            memory_free=machine.memory_available,
        )
        cache_dir = state.entry_value(self.index, "cache_dir_vae").replace("{id}", state.images[self.index]["id"])
        cache_dir = cache_dir.replace("{model_family}", state.value("model_family"))
        return [
            *said,
            *words,
            f"An epoch is up to {found.usable:,} steps of one picture.",
            f"The encoded pictures take about {size(expected)}, in {cache_dir}.",
        ]

    # --- data sets of the hub

    def _look(self, state: State) -> HubLook | None:
        return self.survey(state).hub

    def _splits(self, state: State) -> tuple[Option, ...]:
        look = self._look(state)
        return tuple(Option(name, name) for name in (look.splits if look is not None else (_TRAIN,)))

    def _propose_split(self, state: State) -> Proposal[Any]:
        look = self._look(state)
        if look is None or _TRAIN in look.splits:
            return Proposal(_TRAIN, "the part that data sets have for this")
        if len(look.splits) == 1:
            return Proposal(look.splits[0], "the only part")
        found = next((name for name in look.splits if name not in _TESTED_ON), None)
        return Proposal(MISSING, "") if found is None else Proposal(found, "it has no part named train")

    def _object_split(self, state: State, value: Any) -> str | None:
        if wrong := understood_by(some_text)(state, value):
            return wrong
        from simpletune.data.sources import SourceError
        from simpletune.data.sources.hub.split import check_there, parse

        look = self._look(state)
        try:
            spans = parse(value)
            if look is not None:
                check_there(spans, dict.fromkeys(look.splits, ()), "the data set")
        except SourceError as error:
            return f"{error.message}; {error.hint}"
        return None

    def _image_columns(self, state: State) -> tuple[Option, ...]:
        look = self._look(state)
        several = "it has several" if look is not None and len(look.images) > 1 else None
        only = Option(None, "the only one with pictures", "", several)
        return (only, *(Option(name, name) for name in (look.images if look is not None else ())))

    def _propose_image_column(self, state: State) -> Proposal[Any]:
        look = self._look(state)
        if look is None or len(look.images) < 2:
            return Proposal(None, "most data sets have one")
        known = next((name for name in look.images if name.lower() in ("image", "picture", "img")), None)
        return Proposal(MISSING, "") if known is None else Proposal(known, "the others have other names")

    def _read_part(self, state: State) -> Any:
        streamed = self.reads("streaming")(state)
        if streamed is MISSING:
            return MISSING
        if not streamed:
            return None
        limit = self.reads("max_num_samples")(state)
        return True if limit in (MISSING, None) else limit

    def _write_part(self, state: State, value: Any) -> None:
        entry = state.image(self.index)
        if value is None:
            if self._read_part(state) not in (None, MISSING):
                self.forget(state, "streaming", "max_num_samples")
        else:
            entry |= {"streaming": True, "max_num_samples": value}

    def _object_part(self, state: State, value: Any) -> str | None:
        if same(value, self._read_part(state)):
            return None
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return None if is_count else f"{value!r} is not a number of pictures"


@cache
def of_source(index: int) -> SourceQuestions:
    return SourceQuestions(index)


def name_of(place: str) -> str:
    """A data set's name from its folder's: what the schema allows, the folder's own as far as possible."""
    name = re.sub(r"[/\\\x00-\x1f{}]", "", place.removesuffix(".parquet"))
    return re.sub(r"^[\s.]+|[\s.]+$", "", name[:80]) or "pictures"


def unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number where one like it is taken: caches are named so, and some disks mix up A and a."""
    folded = {one.casefold() for one in taken}
    candidates = [name, *(f"{name}-{number}" for number in range(2, 1002))]
    return next(candidate for candidate in candidates if candidate.casefold() not in folded)


def _environment() -> str:
    return next((value for name in _ENVIRONMENT if (value := os.environ.get(name))), "")


def _address(text: Any) -> Any:
    if text is None:
        return None
    clean = some_text(text)
    if not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", clean):
        raise NotUnderstood(f'"{clean}" is not an address such as https://s3.example.org, without name or password')
    return clean


def _pictures(text: str) -> int:
    digits = text.strip().lower().removesuffix("pictures").strip().replace(",", "")
    if not digits.isdecimal() or not 1 <= int(digits[:10]) <= 100_000_000:
        raise NotUnderstood(f'"{text}" is not a number of pictures')
    return int(digits)
