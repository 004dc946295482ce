"""A vision-language model over a set of pictures: what has no caption gets one, in batches, stopped and resumed freely.

    read and shrink in threads -> batches through the model -> clean -> store, batch by batch

Pictures are only read, through their Source. One that can't be read is named and passed over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psutil

from simpletune.data.caches.pipeline import read_ahead
from simpletune.data.captioning.text import clean, with_trigger
from simpletune.data.images import load_rgb
from simpletune.data.sources import ImageFile, Listing, Source, SourceError, shown
from simpletune.errors import DataError, Interrupted, OutOfMemory
from simpletune.models.caption_loading import choose_device, find_model, load_describer
from simpletune.models.captioning import Answer, Describer, fitted
from simpletune.models.memory import release

if TYPE_CHECKING:
    from PIL.Image import Image

    from simpletune.progress import Reporter

_NAMED = 10
_THREADS = 2
_BATCH_SIZES = {"cuda": 8, "mps": 2}


class Store(Protocol):
    """Where captions are kept: CaptionFile or Sidecars."""

    def has(self, name: str) -> bool: ...

    def add(self, captions: Sequence[tuple[str, str]]) -> None: ...

    def finish(self) -> None: ...

    def pause(self) -> None: ...


@dataclass(frozen=True)
class Options:
    """Which model makes the captions, and how. None: what suits the device (batch_size) or the model (prompt)."""

    model: str
    revision: str | None = None
    endpoint: str | None = None
    prompt: str | None = None
    trigger: str = ""
    max_new_tokens: int = 120
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None

    @property
    def digest(self) -> str:
        """Names what decides the captions, so that a run that makes them anew goes on only with the same options."""
        deciding = (self.model, self.revision, self.prompt, self.trigger, self.max_new_tokens, self.quantize)
        return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:12]


@dataclass
class Outcome:
    """How many pictures have captions: of earlier runs, of this one; and those that got none."""

    before: int = 0
    made: int = 0
    unreadable: int = 0
    speechless: int = 0

    @property
    def captioned(self) -> int:
        return self.before + self.made

    @property
    def total(self) -> int:
        return self.captioned + self.unreadable + self.speechless


def caption(source: Source, listing: Listing, store: Store, options: Options, reporter: Reporter) -> Outcome:
    """Give every picture of `listing` that `store` hasn't a caption; the model is loaded only if one is missing.

    Raises Interrupted on Ctrl-C, when all that was made is kept; DataError when no picture can be read, OutOfMemory
    when one alone doesn't fit, ModelUnavailable.
    """
    missing = [file for file in listing.files if not store.has(file.name)]
    outcome = Outcome(before=len(listing.files) - len(missing))
    work = _Work(source, options, reporter, outcome)
    for name, rejected in listing.rejected:
        work.pass_over(name, rejected.detail)
    try:
        if missing:
            _caption(work, missing, len(listing.files), store)
    except KeyboardInterrupt:
        store.pause()
        raise Interrupted(_stopped(outcome, len(listing.files)), "the same command goes on with the rest") from None
    if outcome.unreadable and outcome.unreadable == outcome.total:
        raise DataError(f"none of the {outcome.unreadable} pictures can be read", "see the first of them above")
    store.finish()
    work.say_how_many()
    return outcome


def try_out(
    source: Source, files: Sequence[ImageFile], options: Options, reporter: Reporter
) -> Iterator[tuple[str, str]]:
    """The captions that some pictures would get, with their names; "" where the model says nothing. Keeps nothing."""
    work = _Work(source, options, reporter, Outcome())
    for batch in work.captions(work.load(), files):
        yield from batch


def _caption(work: _Work, missing: Sequence[ImageFile], total: int, store: Store) -> None:
    describer = work.load()
    with work.reporter.phase("Captioning", total, "picture", done=work.outcome.before) as phase:
        for batch in work.captions(describer, missing):
            made = [(name, text) for name, text in batch if text]
            store.add(made)
            work.outcome.made += len(made)
            for name, text in batch:
                if not text:
                    work.outcome.speechless += 1
                    work.name(name, "the model says nothing about it")
            phase.advance(len(batch))


@dataclass
class _Work:
    """One pass of a model over pictures."""

    source: Source
    options: Options
    reporter: Reporter
    outcome: Outcome
    _named: int = field(default=0)

    def captions(self, describer: Describer, files: Sequence[ImageFile]) -> Iterator[list[tuple[str, str]]]:
        """(name, caption) of the pictures that can be read, a batch at a time, in order."""
        size = self.options.batch_size or _BATCH_SIZES.get(describer.device.type, 1)
        pool = ThreadPoolExecutor(_THREADS, "pictures")
        try:
            waiting: list[tuple[str, Image]] = []
            for file, picture in read_ahead(pool, self._picture, files, 2 * size):
                if isinstance(picture, str):
                    self.pass_over(file.name, picture)
                    continue
                waiting.append((file.name, picture))
                if len(waiting) >= size:
                    size = yield from self._batch(describer, waiting, size)
                    waiting = []
            if waiting:
                yield from self._batch(describer, waiting, size)
        finally:
            pool.shutdown(cancel_futures=True)  # whoever stops it doesn't wait for pictures that nobody will see

    def pass_over(self, name: str, why: str) -> None:
        """Name a picture that can't be read, and count it."""
        self.outcome.unreadable += 1
        self.name(name, why)

    def name(self, name: str, why: str) -> None:
        """A warning that names a picture; the first few only."""
        self._named += 1
        if self._named <= _NAMED:
            self.reporter.warn(f"{shown(name)}: {why}")

    def say_how_many(self) -> None:
        if self._named > _NAMED:
            self.reporter.warn(f"and {self._named - _NAMED} more pictures without a caption")

    def load(self) -> Describer:
        """The model, found or downloaded, on its device."""
        options = self.options
        device = choose_device(options.device)
        folder = find_model(options.model, options.revision, self.reporter, options.endpoint)
        self.reporter.note(f"loading {shown(options.model)} on {device}")
        return load_describer(
            folder,
            device,
            options.dtype,
            prompt=options.prompt,
            max_new_tokens=options.max_new_tokens,
            quantize=options.quantize,
            free_bytes=psutil.virtual_memory().available,
        )

    def _picture(self, file: ImageFile) -> Image | str:
        """A picture in the size the model gets, or why it can't be read."""
        where = self.source.location(file.name)
        try:
            return fitted(load_rgb(where, self.source.read(file.name)))
        except SourceError as error:
            raise DataError(error.message, error.hint) from error
        except OSError as error:
            return f"it can't be read: {error.strerror or error}"
        except DataError as error:
            return error.message.removeprefix(f"{shown(where)}: ")

    def _batch(
        self, describer: Describer, pictures: Sequence[tuple[str, Image]], size: int
    ) -> Generator[list[tuple[str, str]], None, int]:
        """Captions of a batch, in smaller ones from where it doesn't fit; returns the size that fits."""
        left = list(pictures)
        while left:
            batch = left[:size]
            try:
                answers = describer.describe([picture for _, picture in batch])
            except OutOfMemory as error:
                problem = error.message
            else:
                yield [(name, self._text(answer)) for (name, _), answer in zip(batch, answers, strict=True)]
                left = left[len(batch) :]
                continue
            size = self._halved(describer, len(batch), problem)
        return size

    def _text(self, answer: Answer) -> str:
        return with_trigger(self.options.trigger, clean(answer.text, answer.cut))

    def _halved(self, describer: Describer, tried: int, problem: str) -> int:
        release(describer.device)
        if tried == 1:
            hint = "use --quantize int8, a smaller --model or --max-new-tokens, or --device cpu"
            raise OutOfMemory(f"out of memory with one picture ({problem})", hint)
        self.reporter.note(f"out of memory with a batch of {tried}: going on with --batch-size {tried // 2}")
        return tried // 2


def _stopped(outcome: Outcome, total: int) -> str:
    if not outcome.captioned:
        return "stopped before the first caption"
    return f"stopped: {outcome.captioned:,} of {total:,} pictures have captions, and they are kept"
