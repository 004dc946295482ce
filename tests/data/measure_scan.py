"""How long folders of pictures take: `python tests/data/measure_scan.py FOLDER [NUMBER [CAPTIONS]]`.

Makes NUMBER small JPEGs of a few hundred kinds with captions (100,000 if not said: 1 GB of disk) in FOLDER, once, and a
tenth as many beside them. Times a scan that knows nothing (cold), one with the index of that (warm), the wizard's
survey, and a plain loop in which Pillow opens each picture's header; each in a process of its own, best of three.

"In memory" is with the pictures in the system's cache. "From the disk" is after the system was asked to drop each
file's content (posix_fadvise), which needs no rights; names and sizes stay in memory. "After a start" is with nothing
of any file in memory (drop_caches, on Linux as root), as when the computer was just switched on; a warm scan is the
second one then, too.

CAPTIONS is the data set's caption_strategy: textfile, a text file read beside each picture, or filename. The plain loop
reads none.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = 300
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
RUNS = 3

Times = tuple[float, float]
"""Seconds by the clock and of the processor."""


def main() -> None:
    base = Path(sys.argv[1])
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    captions = sys.argv[3] if len(sys.argv) > 3 else "textfile"
    folder, small = base / str(number), base / str(number // 10)
    for one in small, folder:
        make(one / "pictures", int(one.name))
        entry = {"id": "a", "instance_data_dir": "pictures", "caption_strategy": captions}
        (one / "multidatabackend.json").write_text(json.dumps([entry]))
    print(f"{number:,} pictures in memory, one process; microseconds a picture; captions: {captions}")
    report(number, rounds(folder, lambda _: None))
    if hasattr(os, "posix_fadvise"):
        print("from the disk, their content dropped from the system's cache (a scan then reads in threads)")
        report(number, rounds(folder, forget))
    if os.access(DROP_CACHES, os.W_OK):
        print("after a start, nothing of any file in memory")
        report(number, rounds(folder, forget_everything))
    for kind in "cold", "warm":
        peak = [min(measured(kind, one)["peak_kb"] for _ in range(2)) for one in (small, folder)]
        print(f"peak memory, {kind}: {(peak[1] - peak[0]) / (number * 0.9):.2f} KB a picture")
    print(f"survey: {measured('survey', folder)['said']}")


def rounds(folder: Path, drop: Callable[[Path], None]) -> dict[str, list[Times]]:
    """Times by kind, the kinds in turn, so that what else runs on the machine meets all alike."""
    found: dict[str, list[Times]] = {"plain": [], "cold": [], "warm": []}
    for _ in range(RUNS):
        for kind, times in found.items():
            if kind != "warm":
                drop(folder / "pictures")
            figures = measured(kind, folder)
            times.append((figures["seconds"], figures["processor"]))
    return found


def report(number: int, found: dict[str, list[Times]]) -> None:
    for place, what in enumerate(("by the clock", "processor's time")):
        plain, cold, warm = (min(times[place] for times in found[kind]) for kind in ("plain", "cold", "warm"))
        each = ", ".join(
            f"{kind} {seconds / number * 1e6:.1f}"
            for kind, seconds in (("plain loop", plain), ("cold", cold), ("warm", warm))
        )
        print(
            f"  {what}: {each}; cold is {cold / plain:.2f} times the plain loop, warm {cold / warm:.1f} times as fast"
        )


def make(folder: Path, number: int) -> None:
    from PIL import Image

    if folder.exists():
        return
    folder.mkdir(parents=True)
    chance = random.Random(0)
    contents = []
    for _ in range(KINDS):
        size = chance.choice((64, 80, 96, 128)), chance.choice((64, 80, 96, 128))
        Image.effect_noise(size, 60).convert("RGB").save(folder / "kind.jpg", quality=chance.choice((60, 75, 90)))
        contents.append((folder / "kind.jpg").read_bytes())
    (folder / "kind.jpg").unlink()
    for index in range(number):
        (folder / f"{index:06}.jpg").write_bytes(contents[index % KINDS])
        (folder / f"{index:06}.txt").write_text(f"a picture of the thing number {index} in a quiet room")
    (folder.parent / "config.json").write_text('{"model_flavour": "tiny", "device": "cpu"}')
    time.sleep(3)  # what has just been written isn't kept in an index


def forget(folder: Path) -> None:
    """Ask the system to drop what it keeps in memory of the files' content."""
    os.sync()
    for entry in os.scandir(folder):
        descriptor = os.open(entry.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def forget_everything(_: Path) -> None:
    """Make the system drop all that it keeps in memory of files, names and sizes included."""
    os.sync()
    DROP_CACHES.write_text("3")


def measured(kind: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, f"--{kind}", folder], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(kind: str, folder: Path) -> None:
    """What the processes do that `measured` starts."""
    import resource

    from PIL import Image

    from simpletune.config.load import load
    from simpletune.data.index import Index
    from simpletune.data.scan import scan
    from simpletune.data.sources import open_source
    from simpletune.data.survey import survey
    from simpletune.data.survey.wording import how_far

    settings, _ = load(folder / "config.json")
    (image_set,) = settings.image_sets
    source, index_path, said = open_source(image_set), folder / "index.bin", ""
    began, processor = time.perf_counter(), time.process_time()
    if kind == "plain":
        for entry in os.scandir(folder / "pictures"):
            if entry.name.endswith(".jpg"):
                with Image.open(entry.path) as image:
                    image.size  # noqa: B018
    elif kind == "survey":
        said = how_far(survey(folder / "pictures"))
    else:
        index = Index() if kind == "cold" else Index.load(index_path)
        result = scan(image_set, source, 16, 0, index)
        index.save(index_path)
        assert len(result.samples) == int(folder.name)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_kb": peak, "said": said}))


if __name__ == "__main__":
    if sys.argv[1].startswith("--"):
        measure(sys.argv[1][2:], Path(sys.argv[2]))
    else:
        main()
