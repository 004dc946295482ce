"""How long folders of pictures take: `python tests/data/measure_scan.py FOLDER [NUMBER]`.

Makes NUMBER small JPEGs with captions (10,000 if not said) in FOLDER/NUMBER, once, and times the wizard's survey, the
scan of a run, and a plain loop of Pillow over the same pictures. Best of three, warm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from simpletune.config.load import load
from simpletune.data.scan import scan
from simpletune.data.survey import survey
from simpletune.data.survey_lines import how_far


def main() -> None:
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    folder = Path(sys.argv[1]) / str(number)
    make(folder / "pictures", number)
    (folder / "config.json").write_text('{"model_flavour": "tiny", "device": "cpu"}')
    (folder / "multidatabackend.json").write_text('[{"id": "a", "instance_data_dir": "pictures"}]')
    settings, _ = load(folder / "config.json")
    found = [survey(folder / "pictures") for _ in range(3)]
    best = min(found, key=lambda one: one.seconds)
    print(f"survey: {how_far(best)}, {best.seconds:.2f} s (of {', '.join(f'{one.looked_at:,}' for one in found)})")
    plain = timed(lambda: [Image.open(path).size for path in (folder / "pictures").glob("*.jpg")])
    ours = timed(lambda: scan(settings.image_sets[0], 16, 0))
    print(f"scan: {ours:.2f} s, a plain loop of Pillow {plain:.2f} s: {ours / plain:.2f} times")


def make(folder: Path, number: int) -> None:
    if folder.exists():
        return
    folder.mkdir(parents=True)
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    picture.save(folder / "0.jpg")
    content = (folder / "0.jpg").read_bytes()
    for index in range(number):
        (folder / f"{index}.jpg").write_bytes(content)
        (folder / f"{index}.txt").write_text(f"a picture of the thing {index}")


def timed(work: Callable[[], Any]) -> float:
    """The best of three, in seconds."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
