"""The plots as values, and as paths of a page: nothing that is in the numbers may be lost on the way."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.results.charts import LINE, Chart, Line, compared_charts, run_charts, sigma_bands
from simpletune.results.curves import Curve, SigmaLosses, read_run
from simpletune.results.plots import chart_files
from simpletune.results.report.drawing import COLUMNS, draw, thinned


def numbers(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(path)


def step(number, **more):
    return {"kind": "step", "step": number, "loss": 0.5, **more}


def points(path):
    return [tuple(map(int, pair)) for pair in re.findall(r"(\d+) (\d+)", path)]


def test_samples_come_with_their_own_losses(tmp_path):
    lines = [
        step(1, sigma=[0.1, 0.9], sample_loss=[0.2, 0.8]),
        step(2, sigma=[0.4]),  # an older version's: the step's loss is its one sample's
        step(3, sigma=[0.5, 0.6]),  # of these it isn't known
        step(4, sigma=[0.7], sample_loss=[None]),
    ]
    found = numbers(tmp_path / "m.jsonl", lines).samples
    assert found.steps.tolist() == [1, 1, 2, 3, 3, 4]
    assert found.sigmas.tolist() == [0.1, 0.9, 0.4, 0.5, 0.6, 0.7]
    assert np.array_equal(found.losses, [0.2, 0.8, 0.5, np.nan, np.nan, np.nan], equal_nan=True)
    assert found.known


def test_noise_levels_are_quarters_of_the_samples():
    draw_from = np.random.default_rng(0)
    sigmas = draw_from.random(400)
    bands = sigma_bands(SigmaLosses(np.arange(400.0), sigmas, 2 * sigmas))
    assert [len(curve.steps) for _, _, curve in bands] == [100] * 4
    assert [high for _, high, _ in bands] == pytest.approx(np.quantile(sigmas, (0.25, 0.5, 0.75, 1)), abs=0.01)
    for low, high, curve in bands:
        assert (np.diff(curve.steps) > 0).all()
        assert 2 * low == curve.values.min()
        assert 2 * high == curve.values.max()


def test_a_thinned_curve_keeps_its_spikes_in_their_places():
    xs, ys = np.linspace(0, 1, 10_000), np.zeros(10_000)
    ys[[1234, 7777]] = 1.0, -1.0
    few_xs, few_ys = thinned(xs, ys)
    assert len(few_xs) <= 4 * COLUMNS
    assert few_xs[few_ys == 1].tolist() == [xs[1234]]
    assert few_xs[few_ys == -1].tolist() == [xs[7777]]
    assert (np.diff(few_xs) > 0).all()
    assert few_xs[0] == 0
    assert few_xs[-1] == 1


@given(st.lists(st.one_of(st.floats(-1e12, 1e12), st.just(float("nan"))), max_size=60), st.booleans())
@settings(max_examples=60)
def test_any_curve_is_drawn_within_its_field(values, log):
    curve = Curve(np.arange(1.0, len(values) + 1), np.array(values, dtype=np.float64))
    drawing = draw(Chart("x", "X", (Line("x", curve, LINE),), log=log))
    finite = sum(np.isfinite(values)) if values else 0
    found = [place for line in drawing.lines for place in points(line.path)]
    assert len(found) == finite
    assert all(0 <= x <= 1000 and 0 <= y <= 1000 for x, y in found)
    assert all(0 <= tick.at <= 100 for tick in (*drawing.xs, *drawing.ys))


def test_ticks_are_round_numbers_at_their_places():
    drawing = draw(Chart("x", "X", (Line("x", Curve(np.arange(1.0, 1001), np.linspace(0, 0.97, 1000))),)))
    assert [tick.text for tick in drawing.xs] == ["0", "200", "400", "600", "800", "1,000"]
    assert [(tick.text, tick.at) for tick in drawing.ys][:2] == [("0", 0.0), ("0.25", 24.78)]
    rates = draw(Chart("x", "X", (Line("x", Curve(np.arange(1.0, 3), np.array([1e-4, 5e-5]))),)))
    assert [tick.text for tick in rates.ys][-1] == "1e-4"


def test_outliers_do_not_flatten_the_loss(tmp_path):
    run = numbers(tmp_path / "m.jsonl", [step(n, loss=90.0 if n == 50 else 0.5) for n in range(1, 201)])
    loss = run_charts(run)[0]
    assert loss.top is not None
    assert loss.top < 1
    assert "highest: 90 at step 50" in loss.notes
    raw = draw(loss).lines[0]
    assert min(y for _, y in points(raw.path)) == 0
    assert points(raw.path)[0][1] > 300


def test_charts_of_a_run_without_numbers_are_empty_and_say_so(tmp_path):
    charts = run_charts(read_run(tmp_path / "none.jsonl"))
    assert all(chart.empty for chart in charts)
    assert {chart.said for chart in charts[:-1]} == {"no numbers yet"}
    assert all(draw(chart).lines == () for chart in charts)


def test_each_chart_becomes_two_files_the_same_each_time(tmp_path):
    lines = [step(n, sigma=[n / 50], learning_rate=1e-4, grad_norm=0.1 * n, memory_gib=1.0) for n in range(1, 41)]
    charts = run_charts(numbers(tmp_path / "m.jsonl", lines))
    written = chart_files([chart for chart in charts if chart.name in ("loss", "sigma", "throughput")], tmp_path)
    assert [path.name for path in written] == ["loss.png", "loss.svg", "sigma.png", "sigma.svg"]
    first = (tmp_path / "loss.svg").read_bytes()
    assert b"<svg" in first
    chart_files(charts[:1], tmp_path)
    assert (tmp_path / "loss.svg").read_bytes() == first


def test_runs_are_laid_over_each_other(tmp_path):
    long = numbers(tmp_path / "a.jsonl", [step(n) for n in range(1, 101)])
    short = numbers(tmp_path / "b.jsonl", [step(n, loss=None if n == 3 else 0.25) for n in range(1, 11)])
    loss = compared_charts({"a": long, "b": short})[0]
    assert [(line.label, line.colour) for line in loss.lines] == [("a", 0), ("b", 1)]
    assert loss.notes == ("b is not finite at 1 step: 3",)
    drawing = draw(loss)
    assert points(drawing.lines[0].path)[-1][0] == 1000
    assert points(drawing.lines[1].path)[-1][0] == 100
