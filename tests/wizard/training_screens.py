"""A training for the documents: its screen, with figures made up here, in a pseudo-terminal."""

from __future__ import annotations

import math
import sys
import time

STEPS = 640


def screens() -> dict[str, list[str]]:
    """The screen by its name."""
    from pty_screen import PtyScreen

    with PtyScreen([sys.executable, __file__], 80, 24) as terminal:
        lines = terminal.wait_for(f" {STEPS}/1,500", "samples output")
    return {"training": lines[next(i for i, line in enumerate(lines) if line.startswith("Training ")) :]}


def main() -> None:
    from simpletune.progress import StepNumbers, TrainingPlan, terminal_reporter

    plan = TrainingPlan(1500, asides={"Validating": 200, "Saving": 500}, usable_gib=10.8)
    with terminal_reporter().training(plan) as screen:
        for step in range(1, STEPS + 1):
            loss = 0.2 + 0.3 * math.exp(-step / 150) + 0.02 * math.sin(step)
            screen.step(StepNumbers(step, loss, 1e-4 * (1 - step / 1500), 0.2, 2, 1.25, 3.7))
        screen.sampled("output/paintings/samples/step-000600")
        time.sleep(60)


if __name__ == "__main__":
    main()
