"""Losses are the same every time: exactly on one machine, and nearly those of the machine that wrote the kept ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import golden_runs
import pytest
import safetensors.torch
import torch
from golden_runs import FILE, NAMES, losses, made, train_alone
from small_runs import Run

ANY_MACHINE = 1e-5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run's first training."""

    @cache
    def train(name: str) -> Path:
        run = made(name, tmp_path_factory.mktemp("golden") / "run")
        train_alone(run)
        return run.folder

    return train


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_kept_ones(trained: Callable[[str], Path], name: str) -> None:
    expected = json.loads(FILE.read_text())[name]
    found = losses(Run(trained(name)))
    assert len(found["train"]) == golden_runs.STEPS
    for kind, kept in expected.items():
        assert found[kind] == pytest.approx(kept, rel=ANY_MACHINE), kind


def test_a_run_again_has_the_same_losses_and_the_same_weights_bit_for_bit(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its caches are made anew, too."""
    name = "as by default"
    first, second = Run(trained(name)), made(name, tmp_path / "second")
    train_alone(second)
    assert losses(first) == losses(second)
    one, two = (safetensors.torch.load_file(run.output / "pytorch_lora_weights.safetensors") for run in (first, second))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
