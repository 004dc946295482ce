"""The estimate of a configured run: what it depends on is taken from the settings and the pictures, without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from project import Project

from simpletune.config.load import load
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import preflight
from simpletune.machine.forecast import forecast
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
