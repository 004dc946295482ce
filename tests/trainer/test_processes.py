"""Runs as processes of their own: interrupted, continued, and two at a time."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from project import Project, make_project

from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch

Make = Callable[..., Project]


def wait_for_steps(project: Project, count: int, process: subprocess.Popen[str]) -> None:
    path, end = project.output / "metrics.jsonl", time.monotonic() + 180
    while time.monotonic() < end:
        if path.exists() and path.read_text().count('"kind": "step"') >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("the run makes no steps")


def free_port() -> int:
    """A port for processes to meet at, below those that systems hand out to whoever asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def interrupted(made: Project, number: int) -> str:
    """Start the run and send it a signal after a few steps; what it said."""
    process = made.command("train")
    wait_for_steps(made, 3, process)
    process.send_signal(number)
    text, _ = process.communicate(timeout=180)
    assert process.returncode == 128 + number, text
    return text


def test_a_terminated_run_saves_and_says_how_to_continue(project: Make) -> None:
    made = project(max_train_steps=2000)
    text = interrupted(made, signal.SIGTERM)
    assert "the state is saved" in text
    assert "run the same command again" in text
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()


def test_a_run_continued_after_ctrl_c_equals_one_that_was_left_alone(project: Make, tmp_path: Path) -> None:
    keys = {"lr_scheduler": "constant", "caption_dropout_probability": 0.5, "lora_dropout": 0.1}
    made = project(max_train_steps=2000, **keys)
    text = interrupted(made, signal.SIGINT)
    done = len(made.losses())
    assert "the state is saved" in text
    assert "run the same command again" in text
    whole = make_project(tmp_path / "whole", max_train_steps=done + 3, **keys)
    process = made.command("train", "--set", f"max_train_steps={done + 3}")
    launch(whole.config, [], SilentReporter())
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert f"continuing from checkpoint-{done}: step {done} of {done + 3}" in said
    assert made.losses() == whole.losses()


def test_two_processes_equal_one_with_twice_the_accumulation(project: Make, tmp_path: Path) -> None:
    """Seven pictures in two sizes: steps hold both, and the last of an epoch leaves one process without a batch."""
    keys = {"pictures": 7, "max_train_steps": 5, "lr_scheduler": "constant", "caption_dropout_probability": 0.5}
    one = project(gradient_accumulation_steps=2, **keys)
    two = make_project(tmp_path / "two", **keys)
    port = free_port()
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
    launch(one.config, [], SilentReporter())
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
    port = free_port()
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
    said = [rank.communicate(timeout=180)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], said
    assert (made.output / f"checkpoint-{len(made.losses())}").is_dir()
    assert not (made.output / "pytorch_lora_weights.safetensors").exists(), "an unfinished run has no final adapter"
