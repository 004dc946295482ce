"""What a data set's entry asks of the hub, and the marker that says what of it is on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune import files, outside
from simpletune.data.sources import SourceError, shown
from simpletune.data.sources.hub.library import HUB
from simpletune.data.sources.hub.row_filter import Filter, filter_of
from simpletune.data.sources.hub.split import Span, parse
from simpletune.errors import EnvironmentNotReady
from simpletune.locks import hold

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.progress import Reporter

MARKER = "fetched.json"
_FORMAT = 1
_LONGEST_WAIT = 30 * 86_400.0


@dataclass(frozen=True)
class Wanted:
    """A data set of the hub, as its entry names it. `limit` is how many pictures of a streamed set are fetched."""

    data_set: str
    config: str | None
    revision: str | None
    split: str
    image: str | None
    captions: tuple[str, ...] | None  # columns; None takes the first known one, () none
    streaming: bool
    limit: int | None
    cache: Path
    endpoint: str
    filter: Filter = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        return parse(self.split)

    @property
    def home(self) -> Path:
        """The folder for what is fetched: one for each revision, configuration, column and split that is asked for.

        Rows of a split that is here whole are taken from it without fetching anything; a stream stops at their last,
        and holds only those that fit its filter.
        """
        split = self.split if self.streaming else "+".join(span.split for span in self.spans)
        asked: list[object] = [self.data_set, self.config, self.revision, self.image, split, self.streaming]
        if self.streaming and self.filter:
            asked.append(self.filter)
        digest = hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / f"{re.sub(r'[^A-Za-z0-9]+', '-', split).strip('-')[:40]}-{digest[:12]}"

    def marker(self) -> dict[str, Any] | None:
        """What `mark` wrote; None where nothing has been fetched, or not to its end."""
        try:
            found = outside.read_json(self.home / MARKER)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("format") == _FORMAT else None

    def mark(self, **found: Any) -> None:
        """Say what is in the folder now. Raises OSError."""
        asked = {"data_set": self.data_set, "config": self.config, "revision": self.revision, "split": self.split}
        files.write_json(self.home / MARKER, {"format": _FORMAT, **asked, **found})

    def others(self) -> list[str]:
        """What else has been fetched into the cache folder, in words."""
        found = []
        for path in sorted(self.cache.glob(f"*/{MARKER}")):
            if path.parent != self.home:
                try:
                    there = outside.read_json(path)
                    revision = there["revision"] or str(there["commit"])[:12]
                    found.append(shown(f"{there['data_set']} {there['split']} at {revision} in {path.parent}"))
                except (OSError, ValueError, KeyError, TypeError):
                    continue
        return found


@contextmanager
def alone(home: Path, reporter: Reporter) -> Iterator[None]:
    """Be the only process that fetches into `home` while the block runs; others are waited for. Raises SourceError."""
    lock = home.parent / f".{home.name}.lock"
    with ExitStack() as held:
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(hold(lock, EnvironmentNotReady))
            except EnvironmentNotReady as error:
                reporter.note(f"{home}: {error.message} is fetching into it, and is waited for")
                held.enter_context(hold(lock, EnvironmentNotReady, _LONGEST_WAIT))
        except OSError as error:
            message = f"{home.parent} can't be written: {error.strerror}"
            raise SourceError(message, 'check its permissions, or set "cache_dir_pictures"') from error
        yield


def wanted(image_set: ImageSet, endpoint: str | None) -> Wanted:
    """`endpoint` is the address of a mirror, which HF_ENDPOINT wins over."""
    return Wanted(
        data_set=str(image_set.dataset_name),
        config=image_set.dataset_config,
        revision=image_set.dataset_revision,
        split=image_set.dataset_split,
        image=image_set.image_column,
        captions=caption_columns(image_set),
        streaming=image_set.streaming,
        limit=image_set.max_num_samples,
        cache=image_set.cache_dir_pictures,
        endpoint=(os.environ.get("HF_ENDPOINT") or endpoint or HUB).rstrip("/"),
        filter=filter_of(image_set),
    )


def caption_columns(image_set: ImageSet) -> tuple[str, ...] | None:
    """The columns that captions are read of; None takes the first known one."""
    if image_set.caption_strategy != "huggingface" or image_set.only_instance_prompt:
        return ()
    named = image_set.caption_column
    return (named,) if isinstance(named, str) else named
