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
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path

from simpletune.data.captions import Caption, name_caption, text_caption
from simpletune.data.header import Header, read_header
from simpletune.data.pace import THREADS_WHEN_WAITING, is_waiting
from simpletune.data.sources import ImageFile, Rejected, Source, SourceError
from simpletune.data.sources.local import Folder, Found, Walk
from simpletune.data.sources.webdataset import Shards
from simpletune.data.survey import HubLook, Place, Survey, TableLook
from simpletune.data.survey.names import reads_like_a_caption, speaking_words
from simpletune.data.survey.places import Away, Known, open_bucket, open_hub, pictures_of
from simpletune.data.survey.problems import cannot_use, no_pictures, no_reply, none_readable, none_so_far
from simpletune.data.survey.tables import find_masks, find_tables

_EXAMPLES = 40
_UNREADABLE_NAMED = 20
_LISTING_SHARE = 0.5
_WORKING_SHARE = 0.95
_FILES_TIMED = 8
_LOADING = 6.0  # seconds that loading a library and reaching a server may take
_NAMES_COMPARED = 20_000
_LARGE = "a large set: its pictures are counted when training starts"
_SIGNS = ((".tar", "webdataset"), (".parquet", "huggingface"), (".arrow", "huggingface"))
_WORD = re.compile(r"[^\W\d_]{2,}")


def look(place: Place, budget_seconds: float) -> Survey:
    """What `survey` promises."""
    work = _Work(place, budget_seconds)
    threading.Thread(target=work.run, name="survey", daemon=True).start()
    if not work.finished.wait(budget_seconds) and work.is_loading:
        work.finished.wait(_LOADING + budget_seconds)
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

    def add(
        self, header: Header, own: tuple[str, ...], text: Caption | Rejected | None, name: Caption | Rejected
    ) -> None:
        """`own` are captions that the data set itself has, `text` is that of a text file."""
        self.looked_at += 1
        self.sizes[header.width, header.height] += 1
        if own:
            self.texts["own"] += 1
            self._add_captions(own)
        elif isinstance(text, Caption):
            self.texts["with"] += 1
            self._add_captions(text.texts)
            self.notes.update(text.notes)
        else:
            self.texts["missing" if text is None else "empty"] += 1
        if isinstance(name, Caption):
            self.names[name.text] += 1
            self.words.update(_WORD.findall(name.text.lower()))
            if reads_like_a_caption(name.text):
                self.telling_names[" ".join(speaking_words(name.text))] += 1

    def _add_captions(self, texts: tuple[str, ...]) -> None:
        self.captions.update(texts)
        self.words.update(*(_WORD.findall(line.lower()) for line in texts))


class _Work:
    """A survey under way. `run` is for a thread of its own; `result` is what has been found when it is asked for."""

    def __init__(self, place: Place, budget: float) -> None:
        self.finished = threading.Event()
        self.is_loading = place.type in ("s3", "huggingface")
        self._place, self._folder, self._budget = place, Path(place.where), budget
        self._began = time.monotonic()
        self._type = place.type or "local"
        self._source: Source = Folder(place.where)
        self._walk = Walk(self._folder, lambda: self._is_past(_LISTING_SHARE))
        self._listed: Sequence[Found | Known] = []
        self._listed_all = False
        self._order: Iterator[int] = iter(())
        self._tally = _Tally()
        self._beside: tuple[tuple[TableLook, ...], tuple[str, int] | None] = (), None
        self._hub: HubLook | None = None
        self._lock = threading.Lock()  # for _order and _tally, which several threads use; never held while reading
        self._over = False
        self._unseen: str | None = None
        self._problem: tuple[str, str] | None = None

    def run(self) -> None:
        try:
            self._list()
            self._look_at_all()
        except Away as reason:
            self._unseen = str(reason)
        except SourceError as error:
            self._problem = error.message, error.hint
        except (OSError, ValueError) as error:  # ValueError: a path that no file system takes
            self._problem = cannot_use(self._folder, error)
        finally:
            self.finished.set()

    def _list(self) -> None:
        """List the pictures; of a path that nobody said the type of, as what is found there."""
        if self._place.type in (None, "local") and not self._is_parquet():
            self._list_folder()
            others = self._walk.others
            if self._listed or not self._listed_all or self._place.type is not None:
                return
            self._type = next((kind for ending, kind in _SIGNS if others.get(ending)), "local")
        elif self._place.type is None:
            self._type = "huggingface"
        if self._type != "local":
            self._list_source()

    def _is_parquet(self) -> bool:
        return self._place.type is None and self._folder.suffix.lower() == ".parquet" and self._folder.is_file()

    def _list_folder(self) -> None:
        listed: list[Found] = []
        self._listed = listed
        for found in self._walk.pictures():
            listed.append(found)
        self._listed_all = not self._walk.stopped
        if listed:
            names = [found.name for found in listed[:_NAMES_COMPARED]]
            stop = lambda: self._is_past(_LISTING_SHARE)  # noqa: E731
            self._beside = find_tables(self._folder, names, self._walk.others), find_masks(self._folder, names, stop)

    def _list_source(self) -> None:
        """List through a source of another kind, which takes its libraries, and may take longer than there is time."""
        self.is_loading = self._type != "webdataset"
        if self._type == "s3":
            self._source = open_bucket(self._place)
        elif self._type == "huggingface":
            self._source, self._hub = open_hub(self._place)
        else:
            self._source = Shards(self._place.where)
        self._began = time.monotonic()
        self._unseen = _LARGE
        self._listed = pictures_of(self._source.list())
        self._unseen, self._listed_all = f"{len(self._listed):,} pictures, none of them looked at in the time", True
        self._began = time.monotonic()  # a look at some takes its own time, as each may be far away

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

    def _look_at(self, found: Found | Known) -> None:
        file = found.look()
        header = file if isinstance(file, Rejected) else read_header(self._source, file)
        if isinstance(header, Rejected):
            with self._lock:
                self._tally.add_unreadable(found.name, header)
            return
        assert isinstance(file, ImageFile)  # as it has a header
        own = self._source.captions(file)
        text, name = text_caption(file, self._source), name_caption(file)
        with self._lock:
            self._tally.add(header, own, text, name)

    def result(self) -> Survey:
        with self._lock:
            self._over = True
            tally = self._tally
            closed = tuple(self._walk.closed)
            for name, why in closed:
                tally.add_unreadable(name, why)
            problem, hint = self._problem or self._nothing_to_use() or (None, None)
            listed = len(self._listed)
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
                type=self._type,
                unseen=None if problem or tally.looked_at or (self._listed_all and not listed) else self._unseen,
                with_own=tally.texts["own"],
                tables=self._beside[0],
                masks=self._beside[1],
                hub=self._hub,
            )

    def _nothing_to_use(self) -> tuple[str, str] | None:
        listed, tally = len(self._listed), self._tally
        if self._unseen is not None and not tally.looked_at and (listed or not self._listed_all):
            return None
        if not self._listed_all and not tally.looked_at:
            others = sum(self._walk.others.values())
            if others and not listed:
                return none_so_far(self._folder, others)
            return no_reply(self._place, self._budget + (_LOADING if self.is_loading else 0))
        if self._listed_all and not listed:
            return no_pictures(self._place.where, self._walk.others)
        if self._listed_all and tally.looked_at >= listed and not tally.sizes:
            return none_readable(self._place.where, tally.reasons)
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
