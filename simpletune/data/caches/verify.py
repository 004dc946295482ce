"""Trust nothing that is known: every picture's bytes are hashed again, and every entry of the caches is read.

A run believes a file that has the same size, times and inode as when it was last read, and checks a cache's entry when
it reads it. A failing disk, or a tool that puts times back, can make the first wrong; this finds out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.data.caches.cache import TensorCache
from simpletune.data.caches.entries import listed
from simpletune.data.caches.workers import processors

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.index import Index
    from simpletune.data.preflight import Preflight
    from simpletune.data.scan import Sample
    from simpletune.progress import Reporter


@dataclass(frozen=True)
class Verified:
    """`changed` are pictures, (set_id, name), with other bytes than were noted, though nothing else of the file tells;
    `damaged` are files of cache entries that can't be read back."""

    pictures: int
    changed: tuple[tuple[str, str], ...]
    entries: int
    damaged: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs: every name, nothing shortened."""
        changed, damaged = [list(name) for name in self.changed], [str(path) for path in self.damaged]
        return {"pictures": self.pictures, "changed": changed, "entries": self.entries, "damaged": damaged}

    def lines(self) -> list[str]:
        """What was found, a line for each kind."""
        told = [f"verified: {self.pictures:,} pictures hashed, {self.entries:,} cache entries read"]
        if self.changed:
            names = ", ".join(name for _, name in self.changed[:3])
            more = f" and {len(self.changed) - 3:,} more" if len(self.changed) > 3 else ""
            told.append(f"  {len(self.changed):,} changed behind their times and size; encoded again: {names}{more}")
        if self.damaged:
            told.append(f"  {len(self.damaged):,} damaged cache entries, made again by the run that needs them:")
            told += [f"    {path}" for path in self.damaged[:3]]
            told += [f"    and {len(self.damaged) - 3:,} more"] * (len(self.damaged) > 3)
        if not self.changed and not self.damaged:
            told.append("  all as it was noted")
        return told


def verify(settings: Settings, looked: Preflight, known: Mapping[str, Index], reporter: Reporter) -> Verified:
    """Hash every usable picture and read every cache entry; `known` are the indexes as they were before.

    The digests found are noted in the preflight's own indexes, so that the next run encodes what has changed. Pictures
    that can't be read any more are left to the run, which names them.
    """
    samples = (*looked.training, *looked.held_out)
    changed = []
    with ThreadPoolExecutor(processors()) as pool, reporter.phase("Hashing pictures", len(samples), "image") as phase:
        for sample, digest in zip(samples, pool.map(lambda sample: _digest(looked, sample), samples), strict=True):
            if digest is not None:
                before = known[sample.set_id].digest(sample.name, sample.stamp) if sample.set_id in known else None
                if before not in {None, digest}:
                    changed.append(sample.id)
                looked.indexes[sample.set_id].note_digest(sample.name, sample.stamp, digest)
            phase.advance()
    entries, damaged = _check_entries(settings, reporter)
    return Verified(len(samples), tuple(changed), entries, damaged)


def _digest(looked: Preflight, sample: Sample) -> str | None:
    source = looked.sources[sample.set_id]
    try:
        digest = hashlib.sha256(source.read(sample.name)).hexdigest()
        return digest if source.stamp(sample.name) == sample.stamp else None
    except OSError:
        return None


def _check_entries(settings: Settings, reporter: Reporter) -> tuple[int, tuple[Path, ...]]:
    folders = {image_set.cache_dir_vae for image_set in settings.image_sets}
    folders |= {entry.cache_dir for entry in settings.text_embeds}
    entries = [(TensorCache(folder), key) for folder in sorted(folders) for key in sorted(listed(folder))]
    damaged = []
    with ThreadPoolExecutor(processors()) as pool, reporter.phase("Reading caches", len(entries), "entry") as phase:
        for (cache, key), sound in zip(entries, pool.map(lambda one: one[0].contains(one[1]), entries), strict=True):
            if not sound:
                damaged.append(cache.path(key))
            phase.advance()
    return len(entries), tuple(damaged)
