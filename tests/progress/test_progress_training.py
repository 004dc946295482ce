"""A training as it is shown: the curve, the time left, what fits which width, and the plain lines."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletune.progress import PlainReporter, QuietReporter, StepNumbers, TrainingPlan, WarningsKept
from simpletune.progress.rows import ASCII, UNICODE, columns, signs_for, training_rows
from simpletune.progress.sparkline import ASCII_MARKS, BLOCKS, History, sparkline
from simpletune.progress.training import TrainingMeter

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def numbers(step, loss=0.5, seconds=0.5):
    return StepNumbers(step, loss, 1e-4, 0.25, 4, seconds, 1.25)


def text(rows):
    return ["  ".join(cell.text for cell in row) for row in rows]


@given(st.lists(NUMBERS, max_size=300), st.integers(1, 120), st.sampled_from([BLOCKS, ASCII_MARKS]))
def test_a_sparkline_has_a_mark_a_value_or_fills_its_width(values, width, marks):
    line = sparkline(values, width, marks)
    assert len(line) == min(len(values), width)
    assert set(line) <= {*marks, " "}
    if len(values) <= width:
        assert [mark == " " for mark in line] == [not math.isfinite(value) for value in values]


@given(st.lists(FINITE, min_size=2, max_size=100))
def test_a_sparkline_rises_where_its_values_do(values):
    heights = [BLOCKS.index(mark) for mark in sparkline(values, 100)]
    assert sorted(zip(values, heights, strict=True)) == sorted(zip(sorted(values), sorted(heights), strict=True))
    if max(values) / 2 > min(values) / 2:
        assert (min(heights), max(heights)) == (0, 7)


def test_sparklines_worked_out_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, 0, 4, math.nan], 8, ASCII_MARKS) == "#_= "
    assert sparkline([1, 3, 9, 11, 100, math.inf], 3) == "▁▁█"  # means: 2, 10, 100
    assert sparkline([2, 2], 8) == "▅▅"
    assert sparkline([], 8) == ""


@given(st.lists(st.floats(0, 1), max_size=400))
def test_a_history_is_bounded_and_keeps_the_mean(values):
    history = History(capacity=8)
    for value in values:
        history.add(value)
    points = history.points()
    assert len(points) <= 8
    if values:
        assert min(values) - 1e-9 <= min(points) <= max(points) <= max(values) + 1e-9
        assert len(values) >= 8 or points == values


def test_every_point_of_a_history_stands_for_as_many_values():
    history = History(capacity=8)
    for value in range(64):
        history.add(float(value))
    assert history.points() == [7.5, 23.5, 39.5, 55.5]


def test_the_time_left_counts_what_interrupts_the_steps():
    clock = Clock()
    meter = TrainingMeter(TrainingPlan(100, asides={"Validating": 20, "Saving": 50}), clock)
    assert meter.facts().seconds_left is None
    with meter.aside("Validating"):
        clock.now += 10
    for step in range(1, 21):
        meter.take(numbers(step))
    # 80 steps of half a second; validations at 40, 60, 80 and 100, after the one that is due now; no idea of saving.
    with meter.aside("Validating"):
        assert meter.facts().seconds_left == pytest.approx(40 + 10 + 4 * 10)
        clock.now += 4
        assert meter.facts().seconds_left == pytest.approx(40 + 6 + 4 * 10)
        assert meter.facts().doing == "Validating"
        clock.now += 2
    assert meter.facts().seconds_left == pytest.approx(40 + 4 * 6)
    meter.take(numbers(100))
    with meter.aside("Saving"):
        clock.now += 3
    assert meter.facts().seconds_left == pytest.approx(6)  # the last validation
    with meter.aside("Validating"):
        clock.now += 6
    assert meter.facts().seconds_left == 0


def test_a_slow_first_step_is_no_measure_of_the_others():
    meter = TrainingMeter(TrainingPlan(100))
    for step in range(1, 5):
        meter.take(numbers(step, seconds=60 if step == 1 else 0.5))
    assert (meter.facts().steps_a_second, meter.facts().images_a_second) == (2, 8)


def test_a_continued_run_shows_the_curve_from_its_beginning():
    meter = TrainingMeter(TrainingPlan(100, done=3, earlier_losses=[0.9, 0.8, 0.7]))
    assert (meter.facts().step, len(meter.facts().losses)) == (3, 3)


def running(step=200, total=1000, **changes):
    meter = TrainingMeter(TrainingPlan(total, usable_gib=10.75, **changes))
    for at in range(1, step + 1):
        meter.take(numbers(at, 1 / at))
    return meter


def test_what_is_on_the_screen():
    meter = running()
    meter.sampled("output/samples/step-000200")
    assert text(training_rows(meter.facts(), 79, UNICODE)) == [
        "Training    ━━━━━───────────────────────  step   200/1,000   20%      6:40 left",
        "  loss   0.0059  █▄▃▂▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  learning rate  1.0e-4",
        "  images/s 8.00  steps/s  2.00  memory   1.2/10.8 GiB  grad norm   0.250",
        "  samples output/samples/step-000200",
    ]
    ascii_only = text(training_rows(meter.facts(), 79, ASCII))
    assert ascii_only[0].startswith("Training    #####-----")
    assert all(line.isascii() for line in ascii_only)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e-12, 1e12, -5.0])
def test_columns_stay_where_they_are(loss):
    places = set()
    for step in (0, 1, 9, 200, 1000):
        meter = running(step)
        if step:
            meter.take(StepNumbers(step, loss, 1e-12, 1 / step, 4, 0.001 * step, 0.1))
        rows = text(training_rows(meter.facts(), 79, UNICODE))
        places.add(tuple(row.find(word) for row in rows for word in ("step", "left", "learning", "steps/s", "memory")))
        assert all(columns(row) <= 79 for row in rows)
    assert len(places) == 1


@given(st.integers(1, 200), st.text(max_size=60))
def test_every_line_fits_every_width(width, path):
    meter = running(30, 10**7)
    meter.sampled(path)
    meter.stopping = True
    for signs in (UNICODE, ASCII):
        assert all(columns(row) <= width for row in text(training_rows(meter.facts(), width, signs)))


def test_a_narrow_screen_loses_what_matters_least():
    meter = running()
    meter.stopping = True
    at = {width: text(training_rows(meter.facts(), width, UNICODE)) for width in (60, 50, 40, 25, 10)}
    assert at[60][2] == "  images/s 8.00  memory   1.2/10.8 GiB  grad norm   0.250"
    assert at[50] == [
        "Training    step   200/1,000      6:40 left",
        "  loss   0.0059  █▃▂▁▁▁▁▁▁▁  learning rate  1.0e-4",
        "  images/s 8.00  memory   1.2/10.8 GiB",
        "stopping: the step is finished and saved; Ctrl-C …",
    ]
    assert at[40][0] == "step   200/1,000      6:40 left"
    assert at[25][:3] == ["step   200/1,000", "  loss   0.0059  █▂▁▁▁▁▁▁", "  images/s 8.00"]
    assert at[10][0] == "step   20…"


def test_signs_follow_the_encoding():
    assert (signs_for("utf-8"), signs_for("cp437"), signs_for("ascii"), signs_for("?")) == (
        UNICODE,
        ASCII,
        ASCII,
        ASCII,
    )


def told(reporter, clock, total=40, done=0):
    with reporter.training(TrainingPlan(total, done, {"Validating": 20}, 22.4)) as screen:
        for step in range(done + 1, total + 1):
            clock.now += 0.5
            screen.step(StepNumbers(step, 1 / step, 1e-4, 0.25, 4, 0.5, 0.53))
            if step == 20:
                with screen.aside("Validating"):
                    clock.now += 3
                screen.sampled("output/samples/step-000020")


def test_plain_lines():
    stream, clock = io.StringIO(), Clock()
    told(PlainReporter(stream, clock), clock, 40, 10)
    assert stream.getvalue() == PLAIN


PLAIN = """\
Training: 40 steps, 10 already done, 22.4 GiB of memory usable
step 12/40, loss 0.0867, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 14 s left
step 16/40, loss 0.0721, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 12 s left
step 20/40, loss 0.0603, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 10 s left
samples: output/samples/step-000020
step 24/40, loss 0.0508, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 11 s left
step 28/40, loss 0.0432, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 9 s left
step 32/40, loss 0.0373, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 7 s left
step 36/40, loss 0.0326, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 5 s left
step 40/40, loss 0.0288, lr 1.0e-4, norm 0.25, 8 images/s, 0.5 GiB, 3 s left
"""


def test_quiet_says_warnings_only():
    stream, clock = io.StringIO(), Clock()
    reporter = QuietReporter(stream)
    told(reporter, clock)
    reporter.note("a note")
    with reporter.phase("Caching", 2, "image") as phase:
        phase.advance(2)
    reporter.warn("look out")
    assert stream.getvalue() == "warning: look out\n"


def test_warnings_are_kept_once_each():
    stream = io.StringIO()
    kept = WarningsKept(QuietReporter(stream))
    for warning in ("a", "b", "a"):
        kept.warn(warning)
    kept.note("c")
    assert kept.warnings == ["a", "b"]
    assert stream.getvalue().count("warning") == 3
