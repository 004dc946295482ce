"""Runs as processes of their own: interrupted, continued, and two at a time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, make_project

Make = Callable[..., Project]


def wait_for_steps(project: Project, count: int, process: subprocess.Popen[str]) -> None:
    path, end = project.output / "metrics.jsonl", time.monotonic() + 90
    while time.monotonic() < end:
        if path.exists() and path.read_text().count('"kind": "step"') >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("the run makes no steps")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_and_says_how_to_continue(project: Make, number: int, code: int) -> None:
    made = project(max_train_steps=2000)
    process = made.command("train")
    wait_for_steps(made, 3, process)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == code, text
    assert "the state is saved" in text
    assert "run the same command again" in text
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()


def test_a_run_continued_after_ctrl_c_equals_one_that_was_left_alone(project: Make, tmp_path: Path) -> None:
    keys = {"lr_scheduler": "constant", "caption_dropout_probability": 0.5, "lora_dropout": 0.1}
    made = project(max_train_steps=2000, **keys)
    process = made.command("train")
    wait_for_steps(made, 3, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    done = len(made.losses())
    whole = make_project(tmp_path / "whole", max_train_steps=done + 3, **keys)
    runs = [made.command("train", "--set", f"max_train_steps={done + 3}"), whole.command("train")]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert f"continuing from checkpoint-{done}: step {done} of {done + 3}" in said[0]
    assert made.losses() == whole.losses()


def test_two_processes_equal_one_with_twice_the_accumulation(project: Make, tmp_path: Path) -> None:
    """Seven pictures in two sizes: steps hold both, and the last of an epoch leaves one process without a batch."""
    keys = {"pictures": 7, "max_train_steps": 5, "lr_scheduler": "constant", "caption_dropout_probability": 0.5}
    one = project(gradient_accumulation_steps=2, **keys)
    process = one.command("train")
    two = make_project(tmp_path / "two", **keys)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    text = subprocess.run(
        [*launcher, "-m", "simpletune.trainer", "config.json"],
        cwd=two.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert text.returncode == 0, text.stderr
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert two.losses() == pytest.approx(one.losses(), rel=1e-5)
    norms = [[line["grad_norm"] for line in made.metrics().steps] for made in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_the_trainer_says_what_is_wrong_with_the_files(project: Make) -> None:
    made = project(lora_rnk=4)
    done = subprocess.run(
        [sys.executable, "-m", "simpletune.trainer", "config.json"], cwd=made.folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert 'did you mean "lora_rank"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_to_one_of_two_processes_stops_both_and_saves(project: Make) -> None:
    made = project(max_train_steps=3000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "simpletune.trainer", "config.json"],
            cwd=made.folder,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    wait_for_steps(made, 2, ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    said = [rank.communicate(timeout=90)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], said
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()
    assert not (made.output / "pytorch_lora_weights.safetensors").exists(), "an unfinished run has no final adapter"
