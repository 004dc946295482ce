"""Whole runs with weights and activations in host memory, on the tiny model: the same numbers, continued either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from project import Project, make_project
from safetensors.torch import load_file

from simpletune.cli.main import run
from simpletune.errors import ConfigError
from simpletune.progress import SilentReporter
from simpletune.trainer.assemble import check_forward
from simpletune.trainer.launch import launch

Make = Callable[..., Project]
KEYS = {"lora_target": "blocks", "checkpoint_step_interval": 2, "lr_scheduler": "constant"}


def train(project: Project, *overrides: str) -> None:
    assert launch(project.config, overrides, SilentReporter()) is not None


def test_offloading_changes_no_number_and_may_change_when_a_run_goes_on(project: Make, tmp_path: Path) -> None:
    """Bit for bit, but between a plain eager step, which runs through the model's own modules, and the others."""
    whole = project(base_model_offload=3, **KEYS)
    train(whole)
    plain = make_project(tmp_path / "plain", **KEYS)
    train(plain, "max_train_steps=2")
    train(plain, "base_model_offload=3")
    assert whole.losses() == pytest.approx(plain.losses(), rel=1e-4)
    changed = make_project(tmp_path / "changed", base_model_offload=1000, activation_offload=True, **KEYS)
    train(changed, "max_train_steps=2")
    train(changed, "base_model_offload=1", "activation_offload=false", "gradient_checkpointing=true")
    assert changed.losses() == whole.losses()
    ours, theirs = (load_file(run.output / "pytorch_lora_weights.safetensors") for run in (changed, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_command_trains_validates_and_samples_offloaded(project: Make, tmp_path: Path) -> None:
    """A quantized base, whose pictures and held-out loss come through the same blocks."""
    made = project(base_model_precision="int8-quanto", validation_prompt="a red ball", num_eval_images=1)
    made.set(base_model_offload=2, activation_offload=True, gradient_checkpointing=True, max_train_steps=2)
    assert run(["train", str(made.config)]) == 0
    assert (made.output / "samples/step-000002/prompt-64x64-42.png").is_file()
    plain = make_project(tmp_path / "plain", base_model_precision="int8-quanto", num_eval_images=1, max_train_steps=2)
    train(plain)
    ours, theirs = ([line["validation_loss"] for line in run.metrics().validations] for run in (made, plain))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "target", "said"),
    [
        (
            {"base_model_offload": 2, "lora_dropout": 0.1},
            "transformer_blocks.0.attn.to_q",
            '"base_model_offload": lora_d',
        ),
        ({"activation_offload": True}, "proj_out", '"activation_offload": proj_out has an adapter'),
    ],
)
def test_a_lora_that_cannot_be_offloaded_is_refused_before_anything_loads(
    keys: dict[str, Any], target: str, said: str
) -> None:
    off = {"base_model_offload": 0, "activation_offload": False, "lora_dropout": 0.0}
    settings: Any = SimpleNamespace(model_family="sd3", execution="auto", **{**off, **keys})
    with pytest.raises(ConfigError, match=said):
        check_forward(settings, [target])
