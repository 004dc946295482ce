"""How long the report of a large run takes, how large it is, and how soon a browser shows it.

    PYTHONPATH=tests python tests/results/measure_report.py [FOLDER]

Makes a run's folder as the trainer leaves it after 10,000 steps at batch 4, with 200 samples of 1024 x 1024 pixels (8
prompts, base and 24 validations) and 60 training pictures; builds the page three times, each time in a process of its
own; and asks headless Chromium for the first paint.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from browser import first_paint_ms
from made_run import make_run

from simpletune.results.report.write import PAGE_FILE

TIMES = 3


def main(folder: Path) -> None:
    run = make_run(folder, steps=10_000, validations=24, prompts=8, edge=1024, trained=60)
    built = []
    for _ in range(TIMES):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "simpletune", "report", str(run)], check=True, capture_output=True)
        built.append(time.perf_counter() - began)
    page = run / PAGE_FILE
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"built in {', '.join(f'{seconds:.1f}' for seconds in built)} s, the start of Python included")
    print(f"{(used.ru_utime + used.ru_stime) / TIMES:.1f} s of processor time each")
    print(f"{page.stat().st_size / 1e6:.1f} MB")
    paints = [first_paint_ms(page) for _ in range(TIMES)]
    print(f"first paint after {', '.join('not measured' if ms is None else f'{ms:.0f} ms' for ms in paints)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
