"""How long the training loop waits for its data, with warm caches, as a share of the time its steps take.

    python tests/trainer/measure_waiting.py [STEPS [BATCH [PICTURES]]]

Trains the tiny model twice on drawn pictures, on the CPU: the first run fills the caches, the second is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from project import make_project

from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch


def main(steps: int = 300, batch: int = 4, pictures: int = 30) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder, "project"), pictures=pictures, train_batch_size=batch)
        launch(project.config, ["max_train_steps=1"], SilentReporter())
        keys = [f"max_train_steps={steps}", f"output_dir={folder}/measured", "checkpoint_step_interval=1000000"]
        launch(project.config, keys, SilentReporter())
        text = Path(folder, "measured/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    waited = sum(line["data_wait"] for line in lines)
    took = sum(len(line["sigma"]) / line["samples_per_second"] for line in lines)
    rest = sum(line["data_wait"] for line in lines[1:])
    print(f"{steps} steps of {batch} pictures in {took:.2f} s, {took / steps * 1e3:.1f} ms each")
    print(f"waited {waited * 1e3:.1f} ms for data: {waited / took:.3%}; without the first step {rest / took:.3%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
