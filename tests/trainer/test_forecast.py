"""The dry run's memory against what an H100 showed: SD3-Medium, 1024 px, batch 1, rank 16, checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import Project

from simpletune.config.load import load
from simpletune.data.preflight import preflight
from simpletune.progress import SilentReporter
from simpletune.trainer.forecast import forecast
from simpletune.trainer.launch import launch

Make = Callable[..., Project]
REAL = {
    "model_flavour": "sd3-medium",
    "mixed_precision": "bf16",
    "resolution": None,
    "validation_resolution": None,
    "lora_rank": 16,
    "tokenizer_max_length": 154,
    "train_batch_size": 1,
    "gradient_checkpointing": True,
}
# GiB allocated at the peak of training and of validation, by precision of the base; docs/performance.md has the run.
BASE = {
    "no_change": (4.647, 6.654),
    "int8-quanto": (2.815, 4.802),
    "fp8-quanto": (2.816, 4.805),
    "int4-quanto": (1.909, 3.889),
    "int2-quanto": (1.418, 3.396),
}
TEXT = {"no_change": 10.688, "int8-quanto": 5.727, "fp8-quanto": 5.727, "int4-quanto": 3.431, "int2-quanto": 2.184}
ENCODE_IMAGES = 6.231


def gib(project: Project, phase: str, **keys: object) -> float:
    project.set(**REAL, **keys)
    settings, _ = load(project.config)
    return {part.phase: part.bytes / 2**30 for part in forecast(settings, preflight(settings))}[phase]


@pytest.mark.parametrize("precision", BASE)
def test_training_and_validation_are_near_what_was_measured(project: Make, precision: str) -> None:
    made = project()
    train, validate = BASE[precision]
    assert gib(made, "train", base_model_precision=precision) == pytest.approx(train, rel=0.06)
    assert gib(made, "validate", base_model_precision=precision) == pytest.approx(validate, rel=0.06)


@pytest.mark.parametrize("precision", TEXT)
def test_encoding_is_near_what_was_measured(project: Make, precision: str) -> None:
    made = project()
    encoders = {f"text_encoder_{number}_precision": precision for number in (1, 2, 3)}
    assert gib(made, "encode text", **encoders) == pytest.approx(TEXT[precision], rel=0.06)
    assert gib(made, "encode images") == pytest.approx(ENCODE_IMAGES, rel=0.06)


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
