"""A loss or gradient that isn't finite: the weights stay, the pictures are named, and the run goes on from there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from project import Project
from test_processes import free_port
from torch import Tensor

from simpletune.data.plan import SampleRef, sample_id
from simpletune.errors import TrainingFailed
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch
from simpletune.trainer.nonfinite import Failure, Suspect
from simpletune.trainer.session import Session
from simpletune.trainer.step import TrainingStep

Make = Callable[..., Project]
BAD = "3-orange.png"
STEP = 3  # that fails; steps count from 1


def spoil(patch: pytest.MonkeyPatch, with_what: float = math.nan, name: str = BAD) -> None:
    """From the third step on the loss of one picture isn't finite."""
    losses, number = TrainingStep._losses, sample_id(SampleRef("balls", name))

    def spoiled(self: TrainingStep, inputs: Any) -> tuple[Tensor, Tensor]:
        loss_B, sigma_B = losses(self, inputs)
        bad_B = (inputs.sample_ids == number) & (self._step >= STEP - 1)
        return loss_B * torch.where(bad_B, with_what, 1.0), sigma_B

    patch.setattr(TrainingStep, "_losses", spoiled)


def weights_of(patch: pytest.MonkeyPatch) -> dict[int, list[Tensor]]:
    """The weights and averages after each step, by its number, filled as the run goes."""
    seen: dict[int, list[Tensor]] = {}
    advance = Session.advance

    def watched(self: Session, batch: Any) -> Any:
        result = advance(self, batch)
        kept = [*self.parameters.values(), *(self.ema.state_dict().values() if self.ema else ())]
        seen[self.step] = [tensor.detach().clone() for tensor in kept]
        return result

    patch.setattr(Session, "advance", watched)
    return seen


def failed(made: Project) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        launch(made.config, [], SilentReporter())
    return caught.value


def bucket_of(made: Project, name: str) -> list[int]:
    rows = json.loads((made.output / "data.json").read_text())["trained"]
    (bucket,) = [row["bucket"] for row in rows if row["name"] == name]
    return list(bucket)


@pytest.mark.parametrize("with_what", [math.nan, pytest.param(math.inf, marks=pytest.mark.fault)])
def test_the_picture_whose_loss_it_is_is_named(
    project: Make, monkeypatch: pytest.MonkeyPatch, with_what: float
) -> None:
    """The third step has it in the second of two accumulated batches, on the odd bucket."""
    keys = {"train_batch_size": 2, "gradient_accumulation_steps": 3, "checkpoint_step_interval": 2, "use_ema": True}
    made = project(**keys, max_train_steps=9, learning_rate=0.0123, lr_scheduler="constant")
    spoil(monkeypatch, with_what)
    weights = weights_of(monkeypatch)
    error = failed(made)
    number = max(weights)
    assert all(torch.equal(now, then) for now, then in zip(weights[number], weights[number - 1], strict=True))
    assert error.message.startswith(
        f"step {number}: the loss is {with_what} and the gradient norm nan, at learning_rate"
    )
    assert "0.0123" in error.message
    said = error.message.splitlines()
    assert said[1] == "the loss is not finite for:"
    assert len(said) == 3, "sound pictures are named too"
    assert said[2].startswith(f"  {made.folder / 'pictures' / BAD} (loss {with_what:.6g}, sigma 0.")
    bucket = bucket_of(made, BAD)
    assert said[2].endswith(f"{bucket[0]}x{bucket[1]}, caption 'a orange ball')")
    saved = (number - 1) // 2 * 2
    assert f"checkpoint-{saved} is intact" in (error.hint or "")
    assert "look at these files first" in (error.hint or "")

    line = made.metrics().steps[-1]
    assert line["step"] == number
    assert line["loss"] is None
    assert line["non_finite"]["loss"] == str(with_what)
    (bad,) = [one for one in line["failed"] if isinstance(one["loss"], str)]
    assert (Path(bad["picture"]).name, bad["loss"], bad["bucket"]) == (BAD, str(with_what), bucket)
    assert len(line["failed"]) == len(line["sample_loss"])
    monkeypatch.undo()
    made.set(max_train_steps=number)
    launch(made.config, [], SilentReporter())
    assert all(map(math.isfinite, made.losses())), "the failed step's line is still there"


@pytest.mark.fault
def test_of_a_gradient_alone_all_pictures_of_the_step_are_named(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(max_train_steps=5)
    norm, calls = torch.linalg.vector_norm, []

    def overflown(*arguments: Any, **keys: Any) -> Tensor:
        calls.append(1)
        return norm(*arguments, **keys) * (math.inf if len(calls) == 2 else 1)

    monkeypatch.setattr("simpletune.trainer.step.torch.linalg.vector_norm", overflown)
    weights = weights_of(monkeypatch)
    error = failed(made)
    assert max(weights) == 2
    assert all(torch.equal(now, then) for now, then in zip(weights[2], weights[1], strict=True))
    assert "each picture's own loss is finite; the step was of:" in error.message
    assert error.message.count(str(made.folder / "pictures")) == len(made.metrics().steps[-1]["sample_loss"])
    assert "there is no checkpoint yet" in (error.hint or "")


def test_a_large_step_names_some_and_says_how_many_more() -> None:
    suspects = tuple(Suspect(f"/p/{number}.png", "x" * 500, (64, 64), 0.5, math.nan) for number in range(20))
    error = Failure(7, math.nan, math.nan, 1e-4, 1, suspects).error("checkpoint-5 is intact")
    lines = error.message.splitlines()
    assert lines[-1] == "  and 12 more, which are in metrics.jsonl"
    assert max(map(len, lines)) < 200
    assert "lower learning_rate" in (error.hint or "")


_BOTH = """
import sys
import pytest
from test_nonfinite import spoil
from simpletune.trainer.__main__ import main
spoil(pytest.MonkeyPatch())
sys.argv[1:] = ["config.json"]
sys.exit(main())
"""


@pytest.mark.slow
def test_every_process_names_the_picture_of_any(project: Make) -> None:
    made = project(max_train_steps=9)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _BOTH],
            cwd=made.folder,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for port in [free_port()]
        for rank in (0, 1)
    ]
    said = [one.communicate(timeout=180)[0] for one in started]
    assert [one.returncode for one in started] == [1, 1], said
    for text in said:
        assert "Traceback" not in text
        assert BAD in text
    lines = [json.loads(line) for line in (made.output / "metrics.jsonl").read_text().splitlines()]
    assert [Path(one["picture"]).name for one in lines[-1]["failed"] if isinstance(one["loss"], str)] == [BAD]
