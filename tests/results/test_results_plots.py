"""plots.png from whatever a metrics.jsonl may hold, and the numbers behind its curves."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpletune.results.curves import read_curves, smooth
from simpletune.results.plots import plots
from simpletune.trainer.metrics import MetricsWriter


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, losses, validations=()):
    with MetricsWriter(path) as writer:
        for step, loss in enumerate(losses, 1):
            writer.write_step(step, {"loss": loss, "learning_rate": 1e-4 / step, "grad_norm": 10.0 ** (step % 3)})
        for step, loss in validations:
            writer.write_validation(step, {"validation_loss": loss})


def ink(path, colour):
    """How many pixels of about that colour a picture has."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - np.array(colour)).max(-1) < 12).sum())


RAW, SMOOTH, VALIDATION, BAD = (0x9D, 0xB8, 0xD9), (0x1F, 0x4E, 0x8C), (0xD1, 0x66, 0x1B), (0xC0, 0x1F, 0x1F)


def test_a_run_shows_each_curve(metrics, tmp_path):
    write(metrics, [1 / s for s in range(1, 101)], [(0, 0.9), (50, 0.5), (100, 0.4)])
    plots(metrics, tmp_path / "plots.png", "a $run_1")
    with Image.open(tmp_path / "plots.png") as image:
        assert image.size == (1500, 1050)
        assert image.info["Title"] == "a $run_1"
    assert all(ink(tmp_path / "plots.png", colour) > 200 for colour in (RAW, SMOOTH, VALIDATION))
    assert ink(tmp_path / "plots.png", BAD) == 0


@pytest.mark.parametrize(
    "losses", [[], [0.5], [0.0, 0.0], [math.nan], [0.5, math.nan, 0.4, math.inf], [0.1] * 60 + [1e30]]
)
def test_odd_runs_are_drawn_too(metrics, tmp_path, losses):
    write(metrics, losses)
    plots(metrics, tmp_path / "plots.png")
    assert (ink(tmp_path / "plots.png", BAD) > 20) == any(not math.isfinite(loss) for loss in losses)


def test_an_absent_file_is_a_run_without_steps(tmp_path):
    plots(tmp_path / "absent.jsonl", tmp_path / "plots.png")
    with Image.open(tmp_path / "plots.png") as image:
        assert image.format == "PNG"


def test_curves_keep_steps_order_and_gaps(metrics):
    write(metrics, [0.5, math.nan, 0.25], [(2, 0.75)])
    with metrics.open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 4, "loss": 0.125}) + '\n{"kind": "step", "st')
    curves = read_curves(metrics)
    assert curves["loss"].steps.tolist() == [1, 2, 3, 4]
    assert curves["loss"].values[[0, 2, 3]].tolist() == [0.5, 0.25, 0.125]
    assert math.isnan(curves["loss"].values[1])
    assert curves["learning_rate"].steps.tolist() == [1, 2, 3]
    assert (curves["validation_loss"].steps.tolist(), curves["validation_loss"].values.tolist()) == ([2], [0.75])


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(-10, 10), st.just(math.nan)), min_size=1, max_size=40), span=st.integers(1, 30)
)
def test_smoothing_is_the_weighted_mean_of_what_came_before(values, span):
    keep = 1 - 2 / (span + 1)
    found = smooth(np.array(values), span)
    seen = []
    for value, smoothed in zip(values, found, strict=True):
        if math.isnan(value):
            assert math.isnan(smoothed)
            continue
        seen.append(value)
        weights = [keep ** (len(seen) - 1 - i) for i in range(len(seen))]
        expected = sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
        assert smoothed == pytest.approx(expected, rel=1e-9, abs=1e-9)
