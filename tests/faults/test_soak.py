"""A long run with validations and checkpoints takes no more memory, descriptors, threads and files than a short one.

1,000 steps; SOAK_STEPS chooses another number (`make soak`: 20,000).
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest
from harness import Zygote
from project import make_project
from soaking import EVERY, Sample, grown, growth, read
from tallies import Tally

from simpletune.results.run_folder import is_resumable, list_checkpoints

STEPS = int(os.environ.get("SOAK_STEPS", "1000"))
VALIDATIONS = 20
"""At most. Each loads the VAE, and safetensors 0.8.0 keeps two small numbers of each tensor it reads: 11 KiB in all."""
# The smallest of everything.
SMALL = {
    "pictures": 2,
    "lora_rank": 1,
    "train_batch_size": 1,
    "num_eval_images": 1,
    "validation_prompt": "a red ball",
    "validation_num_inference_steps": 1,
    "checkpoints_total_limit": 2,
    "use_ema": True,
}


@pytest.mark.fault
def test_nothing_grows(zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    often = {"checkpoint_step_interval": 50, "validation_step_interval": max(100, STEPS // VALIDATIONS)}
    brief = make_project(tmp_path / "brief", **SMALL, **often | {"validation_step_interval": 100}, max_train_steps=200)
    project = make_project(tmp_path / "project", **SMALL, **often, max_train_steps=STEPS)
    assert zygote.run(brief).code == 0
    began = time.monotonic()
    ended = zygote.run(project, soak=str(tmp_path / "samples.jsonl"))
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.said
    samples = read(tmp_path / "samples.jsonl")
    assert len(samples) == STEPS // EVERY
    found = growth(samples)
    print(
        f"\nsoak: {STEPS:,} steps in {seconds:.0f} s ({STEPS / seconds:.1f} a second), memory "
        f"{samples[0]['anonymous_kib'] / 1024:.1f} MiB at first and {samples[-1]['anonymous_kib'] / 1024:.1f} MiB at "
        f"last: {found.kib:+.0f} KiB over the last {found.steps:,} steps, with a noise of {found.noise_kib:.0f} KiB"
    )
    assert found.flat, found
    assert grown(samples, "descriptors") <= 0
    assert grown(samples, "threads") <= 0
    assert kinds(project.output) == kinds(brief.output)
    assert sum(is_resumable(path) for _, path in list_checkpoints(project.output)) == 2
    tally("steps of the soak", STEPS)
    tally.most("KiB grown in the soak", round(found.kib))


def kinds(folder: Path) -> set[str]:
    """The files of a run, numbers left out: what is made at every checkpoint or validation is of one kind."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"\d+", "N", path) for path in paths}


def made(leak_kib: float, count: int = 100) -> list[Sample]:
    """Samples of a run that warms up, has peaks, and leaks so much a sample."""
    noise = random.Random(1)
    values = [400_000 + 2_000 * min(at, 20) + leak_kib * at + noise.choice((0, 0, 300, 9_000)) for at in range(count)]
    return [{"step": at * EVERY, "anonymous_kib": round(value)} for at, value in enumerate(values)]


def test_a_leak_of_three_kib_a_step_is_found_among_peaks() -> None:
    assert growth(made(0)).flat
    assert not growth(made(3 * EVERY)).flat
