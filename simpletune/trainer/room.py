"""Whether the disks have room for what a run will write, asked before it starts.

Estimated from counts (machine/forecast.py): checkpoints that are kept, adapters of those that are not, and the caches,
less what of them is there already. The saver asks again before each checkpoint, and knows its size then.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import Preflight
from simpletune.errors import EnvironmentNotReady
from simpletune.machine.forecast import forecast
from simpletune.machine.hardware import disk_free
from simpletune.progress.words import byte_size
from simpletune.results.run_folder import list_checkpoints

CHECKPOINTS, LATENTS, CAPTIONS = "checkpoints", "encoded pictures", "encoded captions"


@dataclass(frozen=True)
class Need:
    """What will lie below a folder in the end, in bytes, and below which folders some of it may lie already."""

    what: str
    folder: Path
    bytes: int
    there: tuple[Path, ...]

    def missing(self) -> int:
        """What is still to be written."""
        return max(0, self.bytes - sum(map(_size, self.there)))


def check_disks(settings: Settings, preflight: Preflight) -> None:
    """Raise EnvironmentNotReady where a disk has less room than the run will write to it."""
    by_disk: dict[int, list[Need]] = {}
    for need in needs(settings, preflight):
        by_disk.setdefault(_disk_of(need.folder), []).append(need)
    for on_one in by_disk.values():
        free = disk_free(on_one[0].folder)
        # What is there already is only counted where that decides.
        if free is not None and sum(need.bytes for need in on_one) > free:
            _check(on_one, free)


def needs(settings: Settings, preflight: Preflight) -> Iterator[Need]:
    """A row for the checkpoints, for each data set's pictures, and for the captions."""
    disk = forecast(plan_of(settings, preflight)).disk
    folder = settings.output_dir
    yield Need(CHECKPOINTS, folder, disk["checkpoints"], tuple(path for _, path in list_checkpoints(folder)))
    placed = Counter[str]()
    for sample in (*preflight.training, *preflight.held_out):
        placed[sample.set_id] += len(sample.placements)
    for entry in settings.image_sets:
        share = disk["latents"] * placed[entry.id] // max(1, placed.total())
        yield Need(LATENTS, entry.cache_dir_vae, share, (entry.cache_dir_vae,))
    captions = settings.text_embeds_of(settings.image_sets[0]).cache_dir
    yield Need(CAPTIONS, captions, disk["captions"], (captions,))


def _check(on_one: Iterable[Need], free: int) -> None:
    missing = Counter[str]()
    folders: dict[str, Path] = {}
    for need in on_one:
        missing[need.what] += need.missing()
        folders.setdefault(need.what, need.folder)
    total = missing.total()
    if total <= free:
        return
    listed = "\n".join(
        f"  {byte_size(size)} of {what} in {display(folders[what])}" for what, size in missing.items() if size
    )
    less = ", set a lower checkpoints_total_limit" if missing[CHECKPOINTS] else ""
    raise EnvironmentNotReady(
        f"the disk has {byte_size(free)} free, and this run will write about {byte_size(total)} to it:\n{listed}",
        f"free {byte_size(total - free)} or more{less}, or name folders on another disk; all that is there stays",
    )


def _disk_of(folder: Path) -> int:
    """A number that tells its disk from others, though the folder may not be there yet."""
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100
    return next(place for place in (absolute, *absolute.parents) if place.exists()).stat().st_dev


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118
            except OSError:
                continue
    return total
