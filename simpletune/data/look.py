"""A look at one picture of a data set: whether it trains, how it is placed, what it is trained with."""

from __future__ import annotations

import threading
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from simpletune import __version__
from simpletune.data.captions import Caption, read_caption
from simpletune.data.faces import Focus, check_detector, find_focus, wants_faces
from simpletune.data.geometry import Placement, objection, placements
from simpletune.data.header import MAX_PIXELS, Header, read_failure, read_header
from simpletune.data.index import Index
from simpletune.data.sources import ImageFile, Rejected, Source, Stamp, fingerprint

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.captions.metadata import Metadata

_SIZES_REMEMBERED = 4096


class Sample(NamedTuple):
    """A picture that can be trained on. `width` and `height` are its own, upright, in pixels.

    `captions` and `placements` are what it can be shown as, at least one of each; the placements share a bucket.
    """

    set_id: str
    name: str
    stamp: Stamp
    width: int
    height: int
    captions: tuple[str, ...]
    placements: tuple[Placement, ...]

    @property
    def id(self) -> tuple[str, str]:
        """What names the sample in a run: (set_id, name)."""
        return self.set_id, self.name

    @property
    def bucket(self) -> tuple[int, int]:
        """(width, height) in pixels, of every placement."""
        return self.placements[0].bucket


class Look:
    """Looks at one file after the other, in several threads if need be.

    `text_beside` says whether captions come from text files beside the pictures. `notes` are those on captions, by
    name.
    """

    def __init__(
        self, image_set: ImageSet, source: Source, metadata: Metadata | None, alignment: int, seed: int, index: Index
    ) -> None:
        self.notes: dict[str, tuple[str, ...]] = {}
        self.text_beside = image_set.caption_strategy == "textfile" and not image_set.only_instance_prompt
        self._set, self._source, self._metadata = image_set, source, metadata
        self._alignment, self._seed, self._index = alignment, seed, index
        self._by_size = lru_cache(_SIZES_REMEMBERED)(self._place)  # pictures of one size share their placements
        self._crop_by_name = image_set.crop and image_set.crop_style == "random"
        self._faces = wants_faces(image_set)
        self._detector = threading.Lock()  # it is not made for several threads
        if self._faces:
            check_detector()
        if self.text_beside:
            index.captions_read_as(_captions_depend_on(image_set, seed))

    def known(self, file: ImageFile) -> Sample | Rejected | None:
        """What is found without opening a file, by what the index knows; None when that isn't all."""
        stamp, header, text_stamp, captions, notes = self._index.entry(file.name)
        if stamp != fingerprint(file.stamp):
            header = None
        if self._metadata is not None:
            header = self._told_header(file.name) or header
        if header is None or isinstance(header, Rejected):
            return header
        if self._faces and self._index.focus(file.name, file.stamp) is None:
            return None
        placed = self._placed(file, header)
        if isinstance(placed, Rejected):
            return placed
        if not self.text_beside or not file.may_have_text:
            return None if self._set.caption_strategy == "huggingface" else self._captioned(file, header, placed)
        return self._sample(file, header, placed, captions, notes) if text_stamp == file.text_stamp else None

    def read(self, file: ImageFile) -> Sample | Rejected:
        """What is found in a file, of which only what the index doesn't know is read. Raises SourceError."""
        header = self._told_header(file.name) or self._index.header(file.name, file.stamp)
        if header is None:
            header = read_header(self._source, file)
            self._index.note_header(file.name, file.stamp, header)
        if isinstance(header, Rejected):
            return header
        placed = self._placed(file, header)
        return placed if isinstance(placed, Rejected) else self._captioned(file, header, placed)

    def _told_header(self, name: str) -> Header | None:
        """What the data set's table says of a picture's size."""
        size = self._metadata.size(name) if self._metadata else None
        return None if size is None or size[0] * size[1] > MAX_PIXELS else Header(*size)

    def _captioned(self, file: ImageFile, header: Header, placed: tuple[Placement, ...]) -> Sample | Rejected:
        known = self._index.entry(file.name)
        if self.text_beside and known.text_stamp == file.text_stamp:
            return self._sample(file, header, placed, known.captions, known.notes)
        caption = read_caption(file, self._set, self._source, self._metadata, self._seed)
        if not isinstance(caption, Caption):
            return caption
        if self.text_beside and file.text_stamp is not None:
            self._index.note_captions(file.name, file.text_stamp, caption.texts, caption.notes)
        return self._sample(file, header, placed, caption.texts, caption.notes)

    def _sample(
        self,
        file: ImageFile,
        header: Header,
        placed: tuple[Placement, ...],
        captions: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> Sample:
        if notes:
            self.notes[file.name] = notes
        return Sample(self._set.id, file.name, file.stamp, *header, captions, placed)

    def _placed(self, file: ImageFile, header: Header) -> tuple[Placement, ...] | Rejected:
        if self._faces:
            focus = self._focus(file)
            return focus if isinstance(focus, Rejected) else self._place(header, focus=focus)
        return self._place(header, file.name) if self._crop_by_name else self._by_size(header)

    def _place(self, header: Header, name: str = "", focus: Focus | None = None) -> tuple[Placement, ...] | Rejected:
        found = placements(*header, self._set, self._alignment, seed=self._seed, name=name, focus=focus)
        return objection(*header, self._set, found[0]) or found

    def _focus(self, file: ImageFile) -> Focus | Rejected:
        known = self._index.focus(file.name, file.stamp)
        if known is not None:
            return known
        try:
            data = self._source.read(file.name)
        except OSError as error:
            return read_failure(error)
        with self._detector:
            found = find_focus(data)
        self._index.note_focus(file.name, file.stamp, found)
        return found


def _captions_depend_on(image_set: ImageSet, seed: int) -> str:
    """What the captions out of text files follow from, beside the files."""
    names = [field.name for field in fields(image_set) if field.name.startswith("caption_")]
    names += ["id", "instance_prompt", "prepend_instance_prompt"]
    return repr((__version__, seed, [(name, getattr(image_set, name)) for name in names]))
