"""A training that only seems to be one, for a terminal to show: python training_run.py ends|fails [FOLDER].

With FOLDER it waits after steps 15 and 30, until a file of that number is there.
"""

import sys
import time
import warnings
from pathlib import Path

from simpletune.errors import TrainingFailed
from simpletune.progress import StepNumbers, TrainingPlan, terminal_reporter


def main():
    what, *folder = sys.argv[1:]
    reporter = terminal_reporter()
    reporter.note("before")
    try:
        with reporter.training(TrainingPlan(40, asides={"Validating": 10}, usable_gib=22.4)) as screen:
            for step in range(1, 41):
                screen.step(StepNumbers(step, 1 / step, 1e-4, 0.25, 4, 0.5, 0.53))
                if step == 5:
                    reporter.warn("the first of two lines\nand the second")
                    print("from somebody else")
                    warnings.warn("a library warns", stacklevel=1)
                if step == 10:
                    with screen.aside("Validating"), reporter.phase("Sampling step-000010", 2, "image") as phase:
                        phase.advance(2)
                    screen.sampled("output/samples/step-000010")
                while folder and step in (15, 30) and not (Path(folder[0]) / str(step)).exists():
                    time.sleep(0.01)
                if step == 20 and what == "fails":
                    raise TrainingFailed("step 20: the loss is nan")
    except (KeyboardInterrupt, TrainingFailed) as error:
        print(f"ended by {type(error).__name__}", file=sys.stderr)
    reporter.note("after")


if __name__ == "__main__":
    main()
