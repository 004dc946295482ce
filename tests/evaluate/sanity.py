"""What the metrics say of runs whose outcome is known: the tiny model trained on, made to memorize, and collapsed.

    python tests/evaluate/sanity.py FOLDER

trains and evaluates three runs in FOLDER (some 10 minutes on two cores) and prints their figures. The slow test does
the same and checks them. Pictures are described by colours and edges, as no feature model comes with the package.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpletune.config.load import load as load_settings
from simpletune.evaluate.request import Models, Request
from simpletune.evaluate.results import Evaluation
from simpletune.evaluate.run import evaluate, in_folder
from simpletune.evaluate.table import lines
from simpletune.progress import Reporter, terminal_reporter
from simpletune.trainer.launch import launch

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
PROMPTS = tuple((QUICKSTART / "prompts.txt").read_text(encoding="utf-8").split("\n"))
OFFLINE = Models("none", "none")
SEEDS = range(5)
SAMPLING_STEPS = 12


def make_run(folder: Path, pictures: Sequence[str] | None = None, **keys: Any) -> Path:
    """A copy of the quickstart, on some of its pictures, with `keys` changed; its config.json."""
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("output", "cache"))
    for path in (folder / "pictures").iterdir():
        if pictures is not None and path.stem not in pictures:
            path.unlink()
    config = folder / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("$schema")
    values |= {"checkpoints_total_limit": 100, "validation_step_interval": 100_000, **keys}
    config.write_text(json.dumps(values), encoding="utf-8")
    return config


def measured(config: Path, reporter: Reporter, prompts: Sequence[str] = PROMPTS, seeds: range = SEEDS) -> Evaluation:
    """Train, and evaluate every checkpoint against the base."""
    launch(config, [], reporter)
    settings, _ = load_settings(config, ())
    request = Request(prompts=[one for one in prompts if one], seeds=seeds, steps=SAMPLING_STEPS, models=OFFLINE)
    return evaluate(settings, request, in_folder(settings), reporter)


def trained_on(folder: Path, reporter: Reporter) -> Evaluation:
    """The quickstart as it is, looked at on its way."""
    return measured(make_run(folder, checkpoint_step_interval=100), reporter)


def memorizing(folder: Path, reporter: Reporter) -> Evaluation:
    """Eight pictures, drawn again from their own captions after far too many steps."""
    names = ["car", "bus", "iron", "medicine", "money", "envelope", "computer", "cyclist"]
    captions = [(QUICKSTART / "pictures" / f"{name}.txt").read_text(encoding="utf-8").strip() for name in names]
    keys = {"max_train_steps": 800, "checkpoint_step_interval": 800, "num_eval_images": 0, "lora_rank": 64}
    config = make_run(folder, names, lora_target="blocks", **keys)
    return measured(config, reporter, captions, range(3))


def collapsed(folder: Path, reporter: Reporter) -> Evaluation:
    """One picture alone, mostly without its caption, so that it comes whatever is asked for."""
    keys = {"max_train_steps": 400, "checkpoint_step_interval": 400, "num_eval_images": 0, "lora_rank": 64}
    config = make_run(folder, ["car"], lora_target="blocks", caption_dropout_probability=0.8, **keys)
    return measured(config, reporter)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for run in (trained_on, memorizing, collapsed):
        evaluation = run(folder / run.__name__, terminal_reporter())
        print(f"\n=== {run.__name__}\n" + "\n".join(lines(evaluation)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
