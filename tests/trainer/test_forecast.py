"""The estimate of a configured run: what it depends on is taken from the settings and the pictures, without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from project import Project
from resuming import train

from simpletune.config.installed import TorchBuild
from simpletune.config.load import load
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import preflight
from simpletune.machine import hardware
from simpletune.machine.devices import GIB
from simpletune.machine.forecast import forecast
from simpletune.machine.gpus import Gpu
from simpletune.machine.hardware import Machine
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch

Make = Callable[..., Project]


def test_the_plan_is_that_of_the_settings_and_the_pictures(project: Make) -> None:
    made = project()
    made.set(
        lora_rank=7, train_batch_size=3, text_encoder_3_precision="int4-quanto", validation_prompt="a red bird",
        validation_resolution="128x64,64x64", max_train_steps=10, checkpoint_step_interval=4, num_eval_images=1,
    )  # fmt: skip
    settings, _ = load(made.config)
    pictures = preflight(settings)
    plan = plan_of(settings, pictures)
    assert (plan.flavour, plan.lora_rank, plan.train_batch_size) == ("tiny", 7, 3)
    assert plan.text_encoder_precisions[2] == "int4-quanto"
    assert plan.bucket in pictures.buckets
    assert plan.pictures == pictures.used
    assert plan.captions == len(
        {c for s in (*pictures.training, *pictures.held_out) for c in s.captions} | {"a red bird", ""}
    )
    assert plan.validation_sizes == ((128, 64), (64, 64))
    assert (plan.validation_prompts, plan.steps, plan.checkpoints) == (1, 10, 3)
    assert (plan.execution, plan.device) == (settings.execution, settings.device)
    assert all(phase.bytes > 0 for phase in forecast(plan).phases)


def test_a_dry_run_shows_the_plan_and_the_memory_and_writes_nothing(project: Make) -> None:
    said: list[str] = []

    class Listener(SilentReporter):
        def note(self, text: str) -> None:
            said.append(text)

    made = project()
    before = sorted(made.folder.rglob("*"))
    assert launch(made.config, [], Listener(), dry_run=True) is None
    text = "\n".join(said)
    assert "an epoch: 6 pictures" in text
    for phase in ("encode text", "encode images", "train", "validate"):
        assert f"  {phase}: about" in text
    assert sorted(made.folder.rglob("*")) == before


def test_a_picture_that_is_left_out_is_named_once(project: Make) -> None:
    said: list[str] = []

    class Listener(SilentReporter):
        def note(self, text: str) -> None:
            said.append(text)

        warn = note

    made = project()
    (made.folder / "pictures" / "broken.png").write_bytes(b"no picture")
    assert launch(made.config, [], Listener(), dry_run=True) is None
    assert "\n".join(said).count("broken.png") == 1


@pytest.mark.parametrize(
    ("keys", "driver", "said"),
    [
        ({}, "580.65", ["execution: graph over eager kernels, where the device allows it"]),
        ({}, None, ["execution: graph over eager kernels, but this machine has no CUDA card"]),
        (
            {},
            "470.9",
            ["execution: graph over eager kernels, but Card can't be used here: its driver 470.9 is too old"],
        ),
        ({"device": "cpu"}, None, ["execution: eager, where the device allows it"]),
        (
            {"execution": "graph"},
            None,
            ["but this machine has no CUDA card", 'a start here would be refused: "execution" graph needs a CUDA card'],
        ),
        (
            {"execution": "compile", "mixed_precision": "bf16", "base_model_matmul": "int8"},
            None,
            ["has no CUDA card", 'a start here would be refused: "base_model_matmul" int8 needs a CUDA card'],
        ),
        ({"execution": "graph"}, "580.65", ["execution: graph over compiled blocks, where the device allows it"]),
    ],
)
def test_a_dry_run_says_that_there_is_no_card(
    project: Make, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], driver: str | None, said: list[str]
) -> None:
    cards = () if driver is None else (Gpu(0, "Card", 8 * GIB, 8 * GIB, driver, (8, 9), "GPU-a"),)
    machine = Machine(cards, 32 * GIB, 30 * GIB, 100 * GIB, 8, TorchBuild("2.13.0+cu130", "13.0", None))
    monkeypatch.setattr(hardware, "look", lambda _folder: machine)
    found = train(project(**{"device": "auto", **keys}), dry_run=True)
    for part in said:
        assert found.has(part), part
    assert found.has("would be refused") == (len(said) > 1)


def test_a_dry_run_imports_no_torch(project: Make) -> None:
    code = (
        "import sys; from simpletune.cli.main import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code, done.code\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "train", str(project().config), "--dry-run"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "train: about" in ran.stdout + ran.stderr
