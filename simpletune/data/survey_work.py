"""The looking that a survey does: threads that nobody waits for longer than the budget.

A system call that never returns, as on a network folder that is gone, so costs a thread and not the wizard.
"""

from __future__ import annotations

import heapq
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from math import gcd
from pathlib import Path

from simpletune.data.captions import Caption, name_caption, text_caption
from simpletune.data.header import Header, read_header
from simpletune.data.local import Folder, Found, Walk
from simpletune.data.names import reads_like_a_caption, speaking_words
from simpletune.data.pace import THREADS_WHEN_WAITING, is_waiting
from simpletune.data.sources import ImageFile, Rejected
from simpletune.data.survey import Survey
from simpletune.data.survey_problems import cannot_use, no_pictures, no_reply, none_readable, none_so_far

_EXAMPLES = 40
_UNREADABLE_NAMED = 20
_LISTING_SHARE = 0.5
_WORKING_SHARE = 0.95
_FILES_TIMED = 8
_WORD = re.compile(r"[^\W\d_]{2,}")


def look(folder: Path, budget_seconds: float) -> Survey:
    """What `survey` promises."""
    work = _Work(folder, budget_seconds)
    threading.Thread(target=work.run, name="survey", daemon=True).start()
    work.finished.wait(budget_seconds)
    return work.result()


class _Tally:
    """What has been found so far, added picture by picture."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.reasons: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self.telling_names: Counter[str] = Counter()
        self.words: set[str] = set()
        self.notes: Counter[str] = Counter()

    def add_unreadable(self, name: str, why: Rejected) -> None:
        self.looked_at += 1
        self.reasons[why.reason.value] += 1
        if len(self.unreadable) < _UNREADABLE_NAMED:
            self.unreadable.append((name, why.reason.value))

    def add(self, header: Header, text: Caption | Rejected | None, name: Caption | Rejected) -> None:
        self.looked_at += 1
        self.sizes[header.width, header.height] += 1
        if isinstance(text, Caption):
            self.texts["with"] += 1
            self.captions.update(text.texts)
            self.words.update(*(_WORD.findall(line.lower()) for line in text.texts))
            self.notes.update(text.notes)
        else:
            self.texts["missing" if text is None else "empty"] += 1
        if isinstance(name, Caption):
            self.names[name.text] += 1
            self.words.update(_WORD.findall(name.text.lower()))
            if reads_like_a_caption(name.text):
                self.telling_names[" ".join(speaking_words(name.text))] += 1


class _Work:
    """A survey under way. `run` is for a thread of its own; `result` is what has been found when it is asked for."""

    def __init__(self, folder: Path, budget: float) -> None:
        self.finished = threading.Event()
        self._folder, self._budget = folder, budget
        self._began = time.monotonic()
        self._source = Folder(str(folder))
        self._walk = Walk(folder, lambda: self._is_past(_LISTING_SHARE))
        self._listed: list[Found] = []
        self._listed_all = False
        self._order: Iterator[int] = iter(())
        self._tally = _Tally()
        self._lock = threading.Lock()  # for _order and _tally, which several threads use; never held while reading
        self._over = False
        self._problem: tuple[str, str] | None = None

    def run(self) -> None:
        try:
            for found in self._walk.pictures():
                self._listed.append(found)
            self._listed_all = not self._walk.stopped
            self._look_at_all()
        except (OSError, ValueError) as error:  # ValueError: a path that no file system takes
            self._problem = cannot_use(self._folder, error)
        finally:
            self.finished.set()

    def _is_past(self, share: float) -> bool:
        return self._over or time.monotonic() - self._began > share * self._budget

    def _look_at_all(self) -> None:
        self._order = _spread(len(self._listed))
        seconds = self._look_at_some(_FILES_TIMED)
        helpers = []
        if is_waiting(seconds):
            helpers = [threading.Thread(target=self._look_at_some, daemon=True) for _ in range(THREADS_WHEN_WAITING)]
        for helper in helpers:
            helper.start()
        self._look_at_some()
        for helper in helpers:
            helper.join()

    def _look_at_some(self, count: int | None = None) -> list[float]:
        """Look at the next pictures, `count` or as many as there is time for; gives the first ones' seconds."""
        seconds: list[float] = []
        while not self._is_past(_WORKING_SHARE) and len(seconds) != count:
            with self._lock:
                index = next(self._order, None)
            if index is None:
                break
            began = time.perf_counter()
            self._look_at(self._listed[index])
            if count is not None:
                seconds.append(time.perf_counter() - began)
        return seconds

    def _look_at(self, found: Found) -> None:
        file = found.look()
        header = file if isinstance(file, Rejected) else read_header(self._source, file)
        if isinstance(header, Rejected):
            with self._lock:
                self._tally.add_unreadable(found.name, header)
            return
        assert isinstance(file, ImageFile)  # as it has a header
        text, name = text_caption(file, self._source), name_caption(file)
        with self._lock:
            self._tally.add(header, text, name)

    def result(self) -> Survey:
        with self._lock:
            self._over = True
            tally = self._tally
            closed = tuple(self._walk.closed)
            for name, why in closed:
                tally.add_unreadable(name, why)
            problem, hint = self._problem or self._nothing_to_use() or (None, None)
            return Survey(
                folder=self._folder,
                pictures=len(self._listed) + len(closed),
                looked_at=tally.looked_at,
                listed_all=self._listed_all,
                seconds=time.monotonic() - self._began,
                sizes=dict(tally.sizes),
                unreadable=tuple(sorted(tally.unreadable)),
                reasons=dict(tally.reasons),
                with_text=tally.texts["with"],
                empty_text=tally.texts["empty"],
                missing_text=tally.texts["missing"],
                captions=_examples(tally.captions),
                distinct_captions=len(tally.captions),
                commonest=_commonest(tally.captions),
                name_captions=_examples(tally.names),
                likely_names=sum(tally.telling_names.values()),
                distinct_names=len(tally.telling_names),
                commonest_name=_commonest(tally.telling_names),
                words=frozenset(tally.words),
                notes=dict(tally.notes),
                other_files=dict(self._walk.others),
                problem=problem,
                hint=hint,
            )

    def _nothing_to_use(self) -> tuple[str, str] | None:
        listed, tally = len(self._listed), self._tally
        if not self._listed_all and not tally.looked_at:
            others = sum(self._walk.others.values())
            return none_so_far(self._folder, others) if others and not listed else no_reply(self._folder, self._budget)
        if self._listed_all and not listed:
            return no_pictures(self._folder, self._walk.others)
        if self._listed_all and tally.looked_at >= listed and not tally.sizes:
            return none_readable(self._folder, tally.reasons)
        return None


def _spread(count: int) -> Iterator[int]:
    """0 .. count - 1, each once, in steps of about the golden section: any first part is spread evenly over all."""
    step = max(1, round(count * 0.6180339887))
    while gcd(step, count) > 1:
        step += 1
    return (index * step % count for index in range(count))


def _examples(captions: Counter[str]) -> tuple[str, ...]:
    """Some of them, by a hash: the same whatever order they came in, and not all from one end of the alphabet."""
    return tuple(heapq.nsmallest(_EXAMPLES, captions, key=lambda caption: (_hash(caption), caption)))


def _commonest(captions: Counter[str]) -> tuple[str, int]:
    return min(captions.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
