"""How soon the first question is on the screen, against a bare Python: `python tests/wizard/measure_start.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pty_screen import PtyScreen

RUNS = 9


def main() -> None:
    pairs = [(first_question(), bare_python()) for _ in range(RUNS)]
    ratios = [question / bare for question, bare in pairs]
    question, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"first question {question:.3f} s, bare python {bare:.4f} s: {statistics.median(ratios):.1f} times")


def first_question() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "simpletune", "configure", "config.json"]
        began = time.perf_counter()
        with PtyScreen(command, 80, 24, {"SIMPLETUNE_STATE": folder}, Path(folder)) as terminal:
            while "How much do you want" not in terminal.text():
                terminal._read(0.005)
            return time.perf_counter() - began


def bare_python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
