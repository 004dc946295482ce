"""A bounded look at a folder of pictures, whatever it is: five pictures, 500,000, or a network drive that hangs.

The folder is read by threads that nobody waits for longer than the budget, so a system call that never returns costs a
thread and not the wizard. What counts as a picture, as readable and as a caption is what the scan's modules say. In a
large folder the pictures looked at are spread over the whole listing, so that a part stands for all.
"""

from __future__ import annotations

import heapq
import os
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path

from simpletune.data.captions import Caption, name_caption, text_caption
from simpletune.data.names import reads_like_a_caption
from simpletune.data.sources import PICTURE_EXTENSIONS, Found, ImageFile, Rejected, Walk, shown
from simpletune.data.survey_lines import lines

__all__ = ["Survey", "below", "folder_typed", "lines", "survey"]

EXAMPLES = 40
_UNREADABLE_NAMED = 20
_LISTING_SHARE = 0.5
_WORKER_SHARE = 0.95
_TIMED = 8
_WAITING = 0.8
_THREADS_WHEN_WAITING = 16
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Survey:
    """What was seen of a folder in the time given.

    Of the `pictures` listed so far (all of them if `listed_all`), `looked_at` were opened; the counts are of those.
    `sizes` counts (width, height) in pixels, upright, of the readable ones, and each of them either has a text
    (`with_text`), an unusable one (`empty_text`) or none (`missing_text`). `unreadable` are the first (name, reason)s,
    `reasons` counts them all.

    `captions` are some of the different captions in text files, `name_captions` some that the file names would make;
    `likely_names` counts the names that read like captions. `words` are all words of both, in small letters.
    `commonest` is the caption most pictures share, and how many do. `problem` says why the folder can't be trained on,
    `hint` what to do.
    """

    folder: Path
    pictures: int
    looked_at: int
    listed_all: bool
    seconds: float
    sizes: Mapping[tuple[int, int], int]
    unreadable: tuple[tuple[str, str], ...]
    reasons: Mapping[str, int]
    with_text: int
    empty_text: int
    missing_text: int
    captions: tuple[str, ...]
    distinct_captions: int
    commonest: tuple[str, int]
    name_captions: tuple[str, ...]
    distinct_names: int
    likely_names: int
    words: frozenset[str]
    notes: Mapping[str, int]
    other_files: int
    problem: str | None = None
    hint: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every picture was looked at, so that the counts are exact."""
        return self.listed_all and self.looked_at == self.pictures

    @property
    def unreadable_count(self) -> int:
        return sum(self.reasons.values())

    @cached_property
    def readable(self) -> int:
        """Pictures looked at whose size is known."""
        return sum(self.sizes.values())

    @property
    def usable(self) -> int:
        """Pictures that can be trained on: counted, or estimated from those looked at."""
        return round(self.pictures * self.readable / self.looked_at) if self.looked_at else 0


def survey(folder: Path, budget_seconds: float = 2.0) -> Survey:
    """Look at `folder` for at most `budget_seconds` (and 0.3 s at the very most beyond). Never raises."""
    look = _Look(folder, budget_seconds)
    look.start()
    look.finished.wait(budget_seconds)
    return look.result()


def below(found: Survey, resolution: int, *, square: bool = False) -> int:
    """How many of the pictures looked at would be enlarged to be trained on at `resolution` pixels.

    Without `square` a picture needs the area of that square, in its own shape; with it, a shorter edge that long.
    """
    return sum(
        count
        for (width, height), count in found.sizes.items()
        if (min(width, height) < resolution if square else width * height < resolution * resolution)
    )


def folder_typed(text: str, base: Path) -> Path:
    """The folder that somebody typed, or dragged into the terminal, meant from `base`. The disk is not asked.

    `~`, a trailing slash, quotes around it, and (but on Windows) backslashes before spaces and brackets are understood.
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif os.name != "nt":
        text = re.sub(r"\\([\s()\[\]{}'\"&;!$#*?<>|`\\])", r"\1", text)
    return Path(os.path.normpath(base / os.path.expanduser(text)))  # noqa: PTH111 - a ~ of nobody's stays as it is


class _Look:
    """A survey under way. Threads add what they find under the lock; `result` is what has been found by then."""

    def __init__(self, folder: Path, budget: float) -> None:
        self.finished = threading.Event()
        self._folder, self._budget = folder, budget
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = False
        self._walk = Walk(folder)
        self._listed: list[Found] = []
        self._listed_all = False
        self._order: Iterator[int] = iter(())
        self._looked_at = 0
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._unreadable: list[tuple[str, str]] = []
        self._reasons: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._captions: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self._likely_names = 0
        self._words: set[str] = set()
        self._notes: Counter[str] = Counter()
        self._problem: tuple[str, str] | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="survey", daemon=True).start()

    def _run(self) -> None:
        try:
            self._list()
            self._look_at_all()
        except (OSError, ValueError) as error:
            self._problem = _cannot_use(self._folder, error)
        finally:
            self.finished.set()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _list(self) -> None:
        until = self._budget * _LISTING_SHARE
        for found in self._walk.pictures():
            self._listed.append(found)
            if len(self._listed) % 256 == 0 and self._elapsed() > until:
                return
        self._listed_all = True

    def _look_at_all(self) -> None:
        """From a local disk one thread is fastest; where the time goes into waiting, more share it (as in scan.py)."""
        self._order = _spread(len(self._listed))
        began, worked = time.perf_counter(), time.thread_time()
        self._look_at_some(_TIMED)
        elapsed, worked = time.perf_counter() - began, time.thread_time() - worked
        helpers = []
        if elapsed - worked > _WAITING * elapsed:
            helpers = [threading.Thread(target=self._look_at_some, daemon=True) for _ in range(_THREADS_WHEN_WAITING)]
        for helper in helpers:
            helper.start()
        self._look_at_some(None)
        for helper in helpers:
            helper.join()

    def _look_at_some(self, count: int | None) -> None:
        until = self._budget * _WORKER_SHARE
        while not self._over and self._elapsed() < until and count != 0:
            with self._lock:
                index = next(self._order, None)
            if index is None:
                return
            self._look_at(self._listed[index])
            count = None if count is None else count - 1

    def _look_at(self, found: Found) -> None:
        from simpletune.data.header import read_header  # Pillow takes a while to import, and the wizard starts without

        file = found.look()
        header = read_header(file.path, file.size_bytes) if isinstance(file, ImageFile) else file
        if isinstance(header, Rejected) or isinstance(file, Rejected):
            why = header if isinstance(header, Rejected) else file
            assert isinstance(why, Rejected)
            with self._lock:
                self._add_unreadable(found.name, why)
            return
        text, name = text_caption(file), name_caption(file)
        with self._lock:
            self._looked_at += 1
            self._sizes[header.width, header.height] += 1
            self._add_text(text)
            if isinstance(name, Caption):
                self._names[name.text] += 1
                self._likely_names += reads_like_a_caption(name.text)
                self._words.update(_WORD.findall(name.text.lower()))

    def _add_unreadable(self, name: str, why: Rejected) -> None:
        self._looked_at += 1
        self._reasons[why.reason.value] += 1
        if len(self._unreadable) < _UNREADABLE_NAMED:
            self._unreadable.append((name, why.reason.value))

    def _add_text(self, text: Caption | Rejected | None) -> None:
        if text is None:
            self._texts["missing"] += 1
        elif isinstance(text, Rejected):
            self._texts["empty"] += 1
        else:
            self._texts["with"] += 1
            self._captions[text.text] += 1
            self._words.update(_WORD.findall(text.text.lower()))
            self._notes.update(text.notes)

    def result(self) -> Survey:
        with self._lock:
            self._over = True
            for name, why in self._walk.closed:
                self._add_unreadable(name, why)
            problem, hint = self._problem or self._nothing_to_use() or (None, None)
            return Survey(
                folder=self._folder,
                pictures=len(self._listed) + len(self._walk.closed),
                looked_at=self._looked_at,
                listed_all=self._listed_all,
                seconds=self._elapsed(),
                sizes=dict(self._sizes),
                unreadable=tuple(sorted(self._unreadable)),
                reasons=dict(self._reasons),
                with_text=self._texts["with"],
                empty_text=self._texts["empty"],
                missing_text=self._texts["missing"],
                captions=_examples(self._captions),
                distinct_captions=len(self._captions),
                commonest=_commonest(self._captions),
                name_captions=_examples(self._names),
                distinct_names=len(self._names),
                likely_names=self._likely_names,
                words=frozenset(self._words),
                notes=dict(self._notes),
                other_files=self._walk.other,
                problem=problem,
                hint=hint,
            )

    def _nothing_to_use(self) -> tuple[str, str] | None:
        folder, listed = shown(str(self._folder)), len(self._listed)
        if not self._listed_all and not self._looked_at and not listed:
            return (
                f"{folder} didn't answer within {self._budget:g} s",
                "It may lie on a drive or network folder that is asleep or gone. Open it elsewhere, then try again.",
            )
        if self._listed_all and not listed:
            other = f", only {self._walk.other} files of other kinds" if self._walk.other else ""
            kinds = ", ".join(sorted(extension.removeprefix(".") for extension in PICTURE_EXTENSIONS))
            return f"There are no pictures in {folder}{other}", f"Pictures end in {kinds}."
        if self._listed_all and self._looked_at and self._looked_at >= listed and not self._sizes:
            reason, count = self._reasons.most_common(1)[0]
            return f"None of the {listed} pictures in {folder} can be read", f"{count} of them: {reason}."
        return None


def _spread(count: int) -> Iterator[int]:
    """0 .. count - 1, each once, in steps of about the golden section: any first part is spread evenly over all."""
    step = max(1, round(count * 0.6180339887))
    while gcd(step, count) > 1:
        step += 1
    return (index * step % count for index in range(count))


def _examples(captions: Counter[str]) -> tuple[str, ...]:
    """Some of them, by a hash: the same whatever order they came in, and not all from one end of the alphabet."""
    return tuple(heapq.nsmallest(EXAMPLES, captions, key=lambda caption: (_hash(caption), caption)))


def _commonest(captions: Counter[str]) -> tuple[str, int]:
    return min(captions.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def _cannot_use(folder: Path, error: OSError | ValueError) -> tuple[str, str]:
    """What is wrong with a folder that can't be listed, and what to do."""
    name = shown(str(folder))
    if isinstance(error, FileNotFoundError):
        return f"There is no folder {name}", _where_it_ends(folder)
    if isinstance(error, NotADirectoryError):
        return f"{name} is a file, not a folder", f"Give the folder it lies in: {shown(str(folder.parent))}"
    if isinstance(error, PermissionError):
        return f"You may not read {name}", "Ask its owner for permission, or copy the pictures to a folder of yours."
    detail = shown(str(error.strerror)) if isinstance(error, OSError) else "no path can be written like this"
    return f"{name} can't be read: {detail}", "Check the path, and that its drive is connected."


def _where_it_ends(folder: Path) -> str:
    """The last part of a path that exists, with a name there that is nearly the one that doesn't."""
    import difflib

    for parent in folder.parents:
        if parent.is_dir():
            missing = folder.relative_to(parent).parts[0]
            names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
            near = difflib.get_close_matches(missing, names, 1)
            meant = f'; did you mean "{shown(near[0])}"?' if near else ""
            return f'{shown(str(parent))} has no "{shown(missing)}"{meant or "."}'
    return "Check the path."
