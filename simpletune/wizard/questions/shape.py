"""How a data set's pictures are shown: at which size, cut how, mirrored or not, how often."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

from simpletune.config.architecture import largest_side
from simpletune.data.survey import below
from simpletune.wizard import proposals
from simpletune.wizard.outlook import card, fits, memory_note, outlook, plan, surveys
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question, same
from simpletune.wizard.questions.one_set import OneSet
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

RANDOM, FACE, CORNER = "random", "face", "corner"
_TIMES = (1, 2, 3, 5, 10, 20)
_VARIANTS = (1, 2, 4, 8)
_MEGAPIXEL_AREA = "area"
_SMALLEST, _LARGEST = 16, 8192  # pixels, as the schema has it


class ShapeQuestions(OneSet):
    @cached_property
    def resolution(self) -> Question:
        return self.question(
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
    def measured(self) -> Question:
        return replace(self.resolution, title="At which resolution are they measured?")

    @cached_property
    def crop(self) -> Question:
        return self.question(
            "crop",
            "Shape",
            "Are they cropped?",
            "Uncropped, pictures of like shape are trained together (aspect buckets), so nothing is cut off.",
            options=self._crops,
            propose=lambda state: proposals.propose_crop(self.survey(state)),
            read=self._read_crop,
            write=self._write_crop,
            fine=True,
            keys=("crop", "crop_style"),
        )

    @cached_property
    def variants(self) -> Question:
        return self.question(
            "variants",
            "Cuts of each",
            "How many different cuts of each picture are made?",
            "They are fixed from the start; one is drawn each time a picture is shown.",
            options=lambda _state: tuple(Option(count, str(count), _more_cache(count)) for count in _VARIANTS),
            other="another number",
            propose=lambda _state: Proposal(4, "enough to show all of most pictures"),
            read=self.reads("crop_variants"),
            write=self.writes("crop_variants"),
            parse=_count,
            object=lambda _state, value: None if _is_count(value, 1000) else f"{value!r} is not a number of cuts",
            fine=True,
            keys=("crop_variants",),
        )

    @cached_property
    def mirror(self) -> Question:
        return self.question(
            "mirror",
            "Mirrored",
            "Are they shown mirrored left to right, too?",
            "It makes more of few pictures, where left and right are all the same: not with letters or faces.",
            options=lambda _state: (Option(False, "no"), Option(True, "in half of the showings", _more_cache(2))),
            propose=lambda _state: Proposal(False, "hardly anything is the same both ways"),
            read=self.reads("horizontal_flip"),
            write=self.writes_unless("horizontal_flip", False),
            fine=True,
            keys=("horizontal_flip",),
        )

    @cached_property
    def times(self) -> Question:
        return self.question(
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

    def _resolutions(self, state: State) -> tuple[Option, ...]:
        edges = proposals.resolutions(state.flavour)
        return tuple(Option(edge, _shown_size(edge), self._resolution_note(state, edge)) for edge in edges)

    def _object_resolution(self, state: State, value: Any) -> str | None:
        if isinstance(value, str):
            return None if same(value, self._read_resolution(state)) else f'"{value}" is not a size in pixels'
        highest = largest_side(state.flavour.name)
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
        small = below(self.survey(state), edge)
        return f"{note}; {small:,} picture{'' if small == 1 else 's'} would be enlarged" if small else note

    def _propose_resolution(self, state: State) -> Proposal[Any]:
        wanted = plan(state)
        return proposals.propose_resolution(
            self.survey(state),
            state.flavour,
            lambda edge: fits(state, replace(wanted, bucket=(edge, edge), vae_batch_size=1), "encode images", "train"),
        )

    def _read_resolution(self, state: State) -> Any:
        found = self.reads("resolution")(state)
        if found is None:  # config.json's own holds
            return state.value("resolution") or state.flavour.resolution
        if found is not MISSING and self.index < len(state.images):
            kind = state.entry_value(self.index, "resolution_type")
            return f"{found:g} megapixels" if kind == _MEGAPIXEL_AREA else found
        return found

    def _crops(self, state: State) -> tuple[Option, ...]:
        style = self._read_crop(state) if self.index < len(state.images) else None
        missing = None if find_spec("cv2") else "needs OpenCV: pip install 'simpletune[faces]'"
        corner = (Option(CORNER, "cut, from the top left corner"),) if style == CORNER else ()
        return (
            Option(False, "whole, in buckets by shape", "nothing is cut off but the rest that no bucket holds"),
            Option(True, "cut to a square", "from the middle; the sides of wide and tall pictures are lost"),
            Option(RANDOM, "cut at random places", "several cuts of a picture show all of it in time"),
            Option(FACE, "cut around the largest face", "from the middle where none is found", missing),
            *corner,
        )

    def _read_crop(self, state: State) -> Any:
        cut, style = self.reads("crop")(state), self.reads("crop_style")(state)
        return style if cut is True and style in (RANDOM, FACE, CORNER) else cut

    def _write_crop(self, state: State, value: Any) -> None:
        entry = state.image(self.index)
        entry["crop"] = value is not False
        if isinstance(value, str):
            entry["crop_style"] = value
        else:
            self.forget(state, "crop_style")
        if value != RANDOM:
            self.forget(state, "crop_variants")

    def _propose_repeats(self, state: State) -> Proposal[Any]:
        found = proposals.propose_repeats(self.survey(state), surveys(state)[: self.index])
        return Proposal(found.value + 1, found.reason)

    def _read_repeats(self, state: State) -> Any:
        found = self.reads("repeats")(state)
        return found if found is MISSING else found + 1


@cache
def of_shape(index: int) -> ShapeQuestions:
    return ShapeQuestions(index)


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


def _count(text: str) -> int:
    digits = text.strip()
    if not digits.isdecimal() or not _is_count(int(digits[:9]), 1000):
        raise NotUnderstood(f'"{text}" is not a number from 1 to 1000')
    return int(digits)


def _is_count(value: Any, most: int = 10_000) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _more_cache(count: int) -> str:
    return "" if count == 1 else f"{count} times the picture cache, and its time"


def _seen(times: int) -> str:
    return "once" if times == 1 else "twice" if times == 2 else f"{times} times"
