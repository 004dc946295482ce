"""How fast pictures are made ready for the VAE: `python tests/data/measure_prepare.py [FOLDER] [NUMBER] [ROUNDS]`.

Times, in turns, over the same JPEGs of three sizes (made in FOLDER once): a plain loop of Pillow (open, convert,
resize with Lanczos, crop, to an array); the same with Pillow's draft mode; our preparation in this process, in threads,
and in processes. Medians of ROUNDS, and how many times as fast as the plain loop each is.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from simpletune.data.caches import workers
from simpletune.data.caches.pipeline import read_ahead
from simpletune.data.caches.preparation import Job, make
from simpletune.data.geometry import Placement
from simpletune.data.sources.local import Folder

SIZES = {"2 MP": (1600, 1200), "6 MP": (3000, 2000), "12 MP": (4000, 3000)}
EDGE = 1024


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    print(f"{workers.processors()} cores, {number} pictures a round, {rounds} rounds, {EDGE} x {EDGE} pixels")
    print("| pictures | plain loop | with draft mode | prepared one by one | threads | processes |")
    print("|---|---:|---:|---:|---:|---:|")
    for label, size in SIZES.items():
        jobs = [job(folder, name, size) for name in made(folder / label.replace(" ", "-"), size, number)]
        print(f"| {label} | {' | '.join(row(folder, jobs, rounds))} |", flush=True)


def row(folder: Path, jobs: Sequence[Job], rounds: int) -> list[str]:
    """Pictures a second of each way, and how many times the plain loop's rate."""
    sources = {"a": Folder(str(folder))}
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: [plain(folder / job.name, job.placements[0], draft=False) for job in jobs],
        "draft": lambda: [plain(folder / job.name, job.placements[0], draft=True) for job in jobs],
        "alone": lambda: [make(job, sources) for job in jobs],
    }
    times: dict[str, list[float]] = {}
    with team(jobs, sources, False) as threads, team(jobs, sources, True) as processes:
        ways |= {"threads": threads, "processes": processes}
        processes()  # the first time they are started
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                times.setdefault(name, []).append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [f"{len(jobs) / seconds:.1f}/s ({medians['plain'] / seconds:.2f})" for seconds in medians.values()]


class team:  # noqa: N801 - a context manager
    """All jobs through `preparing`, in threads or processes that stay for the next round."""

    def __init__(self, jobs: Sequence[Job], sources: dict[str, Folder], in_processes: bool) -> None:
        self.jobs, self.in_processes = jobs, in_processes
        self.block = workers.preparing(jobs, sources)

    def __enter__(self) -> Callable[[], object]:
        workers.in_processes = lambda jobs: self.in_processes
        pool, prepare = self.block.__enter__()
        return lambda: [made for _, made in read_ahead(pool, prepare, self.jobs, 8)]

    def __exit__(self, *problem: object) -> None:
        self.block.__exit__(None, None, None)


def plain(path: Path, placement: Placement, draft: bool) -> np.ndarray:
    """What one writes first: the whole picture decoded, resized and cropped."""
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", placement.resized)
        resized = image.convert("RGB").resize(placement.resized, Image.Resampling.LANCZOS)
        return np.array(resized.crop(placement.crop))


def job(folder: Path, name: str, size: tuple[int, int]) -> Job:
    width, height = size
    resized = round(width * EDGE / min(size)), round(height * EDGE / min(size))
    left = (resized[0] - EDGE) // 2
    placement = Placement(resized, (left, 0, left + EDGE, EDGE), (EDGE, EDGE))
    return Job("a", name, size, (placement,), str(folder / "no-cache"), "vae")


def made(folder: Path, size: tuple[int, int], number: int) -> list[str]:
    """JPEGs with the detail of a photograph: noise of several sizes over each other; their names in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(number):
        if not (folder / f"{index}.jpg").exists():
            layers = [random.normal(0, 40, (size[1] // step, size[0] // step, 3)) for step in (100, 25, 6)]
            grown = [np.asarray(Image.fromarray(_bytes(layer)).resize(size), np.float32) - 128 for layer in layers]
            Image.fromarray(_bytes(sum(grown))).save(folder / f"{index}.jpg", quality=90)
    return [f"{folder.name}/{index}.jpg" for index in range(number)]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 128, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
