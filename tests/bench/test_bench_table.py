"""The report for people: 80 columns, whatever was measured."""

from __future__ import annotations

from dataclasses import replace

from simpletune.bench.duration import Extent, run_time, validation_pictures
from simpletune.bench.report import Failure, Machine, Memory, Rate, Report, Sampling, Timing, Training
from simpletune.bench.settings import default_settings
from simpletune.bench.table import BLOCKS, lines, name_of

ON_CARD = Memory(3.05, 3.51, None)
STEP = Timing(0.0612, 0.0609, 0.0731, 20)
SETTINGS = {
    "model_flavour": "sd3-medium", "base_model_precision": "no_change", "mixed_precision": "bf16", "lora_rank": 16,
    "optimizer": "adamw", "train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": True,
    "gradient_checkpointing_interval": 2,
}  # fmt: skip
REPORT = Report(
    Machine("cuda", "NVIDIA H100 80GB HBM3", 79.1, "2.11.0+cu130", "0.1.0", 745.0),
    SETTINGS,
    (1024, 1024),
    231,
    text=Rate(123.4, 8, STEP, ON_CARD),
    images=Failure(
        "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    ),
    train=Training(STEP, 4, ON_CARD, 41.0, 412.0, 0.55, "graph over eager kernels: the optimizer can't be captured"),
    eager=Training(Timing(0.541, 0.54, 0.6, 20), 4, replace(ON_CARD, reserved_gib=4.34)),
    sample=Sampling(3.21, 28, (1024, 1024), ON_CARD),
    notes=("A note that is longer than a line of eighty characters, and is therefore broken into two of them.",),
)


def test_eighty_columns_and_every_block() -> None:
    settings = replace(default_settings("cuda", "bf16"), validation_prompts={"a": "b"})
    measured = {"text": REPORT.text, "images": REPORT.images, "train": REPORT.train, "sample": REPORT.sample}
    run = run_time(settings, Extent(1000, 20, 30), **measured)
    text = list(lines(replace(REPORT, run=run)))
    assert max(map(len, text)) <= 80
    assert [name for name in map(name_of, text) if name] == list(BLOCKS)
    whole = "\n".join(text)
    assert "8.84 times as fast with 0.81 times the memory" in whole
    assert "55% of a large matrix product's" in " ".join(whole.split())
    assert "not counted: starting, loading, encode images" in whole


def test_steps_of_minutes_and_a_single_one() -> None:
    slow = Training(Timing(191.773, 191.773, 191.773, 1), 1, Memory(None, None, 3.96), 120.0, execution="compile")
    text = "\n".join(lines(replace(REPORT, train=slow, eager=None)))
    assert "train           191.8 s/step, 1 step\n" in text
    assert "                3 min/sample\n" in text
    assert "compiling, capturing, first steps: 2 min, not counted\n" in text
    eager = replace(slow, execution="eager: the device is a CPU")
    assert "capturing" not in "\n".join(lines(replace(REPORT, train=eager, eager=None)))


def test_validation_pictures_are_counted_as_a_run_takes_them() -> None:
    """The base once; then at steps 100, 200 and at the end, and twice where there is an average."""
    settings = replace(
        default_settings("cpu", "no"),
        validation_prompts={"a": "b"},
        num_validation_images=2,
        validation_step_interval=100,
    )
    assert validation_pictures(settings, 300) == 2 * (1 + 3)
    assert validation_pictures(replace(settings, use_ema=True), 301) == 2 * (1 + 2 * 4)
    assert validation_pictures(replace(settings, validation_prompts={}), 300) == 0
