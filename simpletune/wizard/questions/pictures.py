"""The data sets: where the pictures are, what their captions are, at which size and how often they are seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from simpletune.data.survey import Survey, below, lines
from simpletune.wizard import proposals
from simpletune.wizard.concerns import words_about
from simpletune.wizard.measures import size
from simpletune.wizard.outlook import card, fits, forecast, largest_side, memory_note, outlook, plan, surveys
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question, same
from simpletune.wizard.questions.common import some_text, typed_path, understood_by, unfillable
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

_TIMES = (1, 2, 3, 5, 10, 20)
_BYTES_LISTED = 2_000  # of main memory, for each picture in a run's list
_STRATEGIES = {
    "textfile": "a .txt beside each picture",
    "filename": "the pictures' names",
    "instanceprompt": "one phrase for all",
}
_MEGAPIXEL_AREA = "area"
_SMALLEST, _LARGEST = 16, 8192  # pixels, as the schema has it


def pictures(state: State) -> Iterator[Question]:
    """The questions of every data set, until no further one is wanted."""
    index, more = 0, True
    while more:
        questions = of_data_set(index)
        yield questions.folder
        yield questions.captions
        if state.entry_value(index, "caption_strategy") == "instanceprompt":
            yield questions.trigger
        yield questions.resolution
        yield questions.crop
        yield questions.times
        yield questions.more
        more = state.values[questions.more.id]
        index += 1


class DataSetQuestions:
    """The questions about data set `index`, counted from 0."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.section = f"Pictures {index + 1}" if index else "Pictures"

    @cached_property
    def folder(self) -> Question:
        return self._question(
            "folder",
            "Folder",
            "Which folder holds the pictures?" if not self.index else "Which folder holds the further pictures?",
            "Subfolders are searched too. The folder is only read: nothing in it is changed or deleted.",
            propose=lambda _state: Proposal(MISSING, ""),
            read=self._read_folder,
            write=self._write_folder,
            path="folder",
            parse=typed_path,
            object=lambda state, value: _folder_objection(state, self.index, value),
            keys=("instance_data_dir",),
            after=self._report,
        )

    @cached_property
    def captions(self) -> Question:
        return self._question(
            "captions",
            "Captions",
            "Where do the captions come from?",
            "What the model reads about each picture. Good captions say all that should not become part of the style.",
            options=self._caption_options,
            propose=lambda state: proposals.propose_captions(self._survey(state)),
            read=self._reads("caption_strategy"),
            write=self._writes("caption_strategy"),
            keys=("caption_strategy",),
        )

    @cached_property
    def trigger(self) -> Question:
        return self._question(
            "trigger",
            "Caption of all",
            "Which phrase stands for these pictures?",
            'It is the caption of all of them, and calls up later what was learned: "a photo of ohwx dog".',
            propose=self._propose_trigger,
            read=self._reads("instance_prompt"),
            write=self._writes("instance_prompt"),
            parse=some_text,
            object=understood_by(some_text),
            keys=("instance_prompt",),
        )

    @cached_property
    def resolution(self) -> Question:
        return self._question(
            "resolution",
            "Resolution",
            "At which resolution are they trained?",
            "In pixels: each picture is scaled to the area of a square of this size, in its own shape.",
            options=self._resolutions,
            other="another size",
            parse=_resolution,
            object=self._object_resolution,
            propose=self._propose_resolution,
            read=self._read_resolution,
            write=self._write_resolution,
            show=_shown_size,
            fitted="machine",
            figures=True,
            keys=("resolution", "resolution_type"),
        )

    @cached_property
    def crop(self) -> Question:
        return self._question(
            "crop",
            "Shape",
            "Are they cropped?",
            "Uncropped, pictures of like shape are trained together (aspect buckets), so nothing is cut off.",
            options=self._crops,
            propose=lambda state: proposals.propose_crop(self._survey(state)),
            read=self._reads("crop"),
            write=self._writes("crop"),
            fine=True,
            keys=("crop",),
        )

    @cached_property
    def times(self) -> Question:
        return self._question(
            "times",
            "Seen an epoch",
            "How often is each picture seen in an epoch?",
            "More than once lets a small set keep up with a large one.",
            options=lambda _state: tuple(Option(times, _seen(times)) for times in _TIMES),
            other="another number",
            parse=_times,
            object=lambda _state, value: None if _is_count(value) else f"{value!r} is not a number of times",
            propose=self._propose_repeats,
            read=self._read_repeats,
            write=lambda state, value: state.image(self.index).__setitem__("repeats", value - 1),
            show=_seen,
            fine=True,
            figures=True,
            keys=("repeats",),
        )

    @cached_property
    def more(self) -> Question:
        return Question(
            id=f"data.{self.index}.more",
            section=self.section,
            row="Further pictures",
            title="Add another folder of pictures?",
            about="Several folders can each have their own captions, resolution and repeats.",
            options=lambda _state: (Option(False, "no"), Option(True, "yes")),
            propose=lambda _state: Proposal(False, "one folder is the usual case"),
            read=self._read_more,
            write=self._write_more,
        )

    def _read_more(self, state: State) -> Any:
        more = len(state.images) > self.index + 1
        return more if state.base.exists or more else MISSING

    def _write_more(self, state: State, more: bool) -> None:
        if not more:
            extra = state.images[self.index + 1 :]
            state.entries = [entry for entry in state.entries if not any(entry is one for one in extra)]

    def _question(self, name: str, row: str, title: str, about: str, **more: Any) -> Question:
        return Question(f"data.{self.index}.{name}", self.section, row, title, about, **more)

    def _caption_options(self, state: State) -> tuple[Option, ...]:
        """Names that say nothing are no reason to refuse what a file has: somebody wants it so."""
        wanted = state.images[self.index].get("caption_strategy") if self._is_old(state) else None
        found = proposals.caption_options(self._survey(state))
        return tuple(
            Option(value, _STRATEGIES[value], note, None if value == wanted == "filename" else refused)
            for value, note, refused in found
        )

    def _propose_trigger(self, state: State) -> Proposal[str]:
        return proposals.propose_trigger(self._survey(state))

    def _survey(self, state: State) -> Survey:
        return state.facts.survey(state.picture_folder(self.index))

    def _reads(self, key: str) -> Callable[[State], Any]:
        def read(state: State) -> Any:
            if self.index >= len(state.images):
                return state.base.sets_of(self.index).get(key, MISSING)
            entry = state.images[self.index]
            if key in entry:
                return entry[key]
            return state.entry_value(self.index, key) if self._is_old(state) else MISSING

        return read

    def _is_old(self, state: State) -> bool:
        """Whether the data set stood in the files already, so that keys left out have their defaults."""
        return self.index < len(state.base_images)

    def _writes(self, key: str) -> Callable[[State, Any], None]:
        return lambda state, value: state.image(self.index).__setitem__(key, value)

    def _read_folder(self, state: State) -> Any:
        """The folder's own path: what stands in the file is meant from there, what is typed from the current folder."""
        found = self._reads("instance_data_dir")(state)
        entry = state.images[self.index] if self.index < len(state.images) else None
        return found if found is MISSING else str(state.resolve_pictures(found, entry))

    def _write_folder(self, state: State, value: str) -> None:
        is_new = self.index >= len(state.base_images)
        entry = state.image(self.index)
        entry["instance_data_dir"] = state.stored(state.resolve_pictures(value, entry), state.data_path.parent)
        if is_new:
            taken = {str(other.get("id")) for other in state.entries}
            entry["id"] = entry["id"] or unique_name(name_of(Path(value)), taken)
            entry.setdefault("type", "local")
            entry.setdefault("dataset_type", "image")

    def _report(self, state: State) -> list[str]:
        """What is in the folder, what may go wrong with it, and what becomes of it."""
        found, machine = self._survey(state), state.facts.machine
        edge = state.flavour.resolution
        expected = forecast(replace(plan(state), bucket=(edge, edge), pictures=found.usable)).disk["latents"]
        words = words_about(
            found,
            edge,
            disk_needed=expected,
            disk_free=machine.disk_free,
            memory_needed=_BYTES_LISTED * found.pictures,
            memory_free=machine.memory_available,
        )
        cache = state.entry_value(self.index, "cache_dir_vae").replace("{id}", state.images[self.index]["id"])
        cache = cache.replace("{model_family}", state.value("model_family"))
        return [
            *lines(found, edge),
            *words,
            f"An epoch is up to {found.usable:,} steps of one picture.",
            f"The encoded pictures take about {size(expected)}, in {cache}.",
        ]

    def _resolutions(self, state: State) -> tuple[Option, ...]:
        edges = proposals.resolutions(state.flavour)
        return tuple(Option(edge, _shown_size(edge), self._resolution_note(state, edge)) for edge in edges)

    def _object_resolution(self, state: State, value: Any) -> str | None:
        if isinstance(value, str):
            return None if same(value, self._read_resolution(state)) else f'"{value}" is not a size in pixels'
        highest = largest_side(state.flavour)
        if isinstance(value, bool) or not isinstance(value, int) or not _SMALLEST <= value <= highest:
            return f"{value!r} is no size from {_SMALLEST} to the {highest} pixels that {state.flavour.name} goes up to"
        return None

    def _write_resolution(self, state: State, value: Any) -> None:
        entry = state.image(self.index)
        entry["resolution"] = value
        if entry.get("resolution_type") == _MEGAPIXEL_AREA:
            entry["resolution_type"] = "pixel_area"

    def _resolution_note(self, state: State, edge: int) -> str:
        wanted = replace(outlook(state), bucket=(edge, edge))
        note = memory_note(wanted, card(state).usable, "encode images", "train")
        small = below(self._survey(state), edge)
        return f"{note}; {small:,} pictures would be enlarged" if small else note

    def _propose_resolution(self, state: State) -> Proposal[Any]:
        wanted = plan(state)
        return proposals.propose_resolution(
            self._survey(state),
            state.flavour,
            lambda edge: fits(state, replace(wanted, bucket=(edge, edge), vae_batch_size=1), "encode images", "train"),
        )

    def _read_resolution(self, state: State) -> Any:
        found = self._reads("resolution")(state)
        if found is None:  # config.json's own holds
            return state.value("resolution") or state.flavour.resolution
        if found is not MISSING and self.index < len(state.images):
            kind = state.entry_value(self.index, "resolution_type")
            return f"{found:g} megapixels" if kind == _MEGAPIXEL_AREA else found
        return found

    def _crops(self, _state: State) -> tuple[Option, ...]:
        return (
            Option(False, "whole, in buckets by shape", "nothing is cut off but the rest that no bucket holds"),
            Option(True, "cut to a square", "from the middle; the sides of wide and tall pictures are lost"),
        )

    def _propose_repeats(self, state: State) -> Proposal[Any]:
        found = proposals.propose_repeats(self._survey(state), surveys(state)[: self.index])
        return Proposal(found.value + 1, found.reason)

    def _read_repeats(self, state: State) -> Any:
        found = self._reads("repeats")(state)
        return found if found is MISSING else found + 1


@cache
def of_data_set(index: int) -> DataSetQuestions:
    return DataSetQuestions(index)


def _folder_objection(state: State, index: int, value: str) -> str | None:
    entry = state.images[index] if index < len(state.images) else None
    folder = state.resolve_pictures(value, entry)
    if wrong := unfillable(state.stored(folder, state.data_path.parent), ("model_family", "output_dir", "id")):
        return wrong
    found = state.facts.survey(folder)
    return None if found.problem is None else ": ".join(part for part in (found.problem, found.hint) if part)


def name_of(folder: Path) -> str:
    """A data set's name from its folder's: what the schema allows, the folder's own as far as possible."""
    name = re.sub(r"[/\\\x00-\x1f{}]", "", folder.name)
    return re.sub(r"^[\s.]+|[\s.]+$", "", name[:80]) or "pictures"


def unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number where one like it is taken: caches are named so, and some disks mix up A and a."""
    folded = {one.casefold() for one in taken}
    candidates = [name, *(f"{name}-{number}" for number in range(2, 1002))]
    return next(candidate for candidate in candidates if candidate.casefold() not in folded)


def _resolution(text: str) -> int:
    digits = text.strip().lower().removesuffix("px").strip()
    if not digits.isdecimal() or not _SMALLEST <= int(digits[:9]) <= _LARGEST:
        raise NotUnderstood(f'"{text}" is not a size from {_SMALLEST} to {_LARGEST} pixels')
    return int(digits)


def _shown_size(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g} px"


def _times(text: str) -> int:
    digits = text.strip().lower().removesuffix("times").strip()
    if not digits.isdecimal() or not _is_count(int(digits[:9])):
        raise NotUnderstood(f'"{text}" is not a number of times from 1 to 10000')
    return int(digits)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000


def _seen(times: int) -> str:
    return "once" if times == 1 else "twice" if times == 2 else f"{times} times"
