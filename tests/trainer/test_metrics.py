"""metrics.jsonl: ordered, unique, strict JSON, and readable whatever happened to its writer."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.trainer.metrics import MetricsWriter, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write_steps(path, numbers, resumed_step=0):
    with MetricsWriter(path, resumed_step) as writer:
        for step in numbers:
            writer.write_step(step, {"epoch": 0, "loss": 1 / step, "sigma": [0.5, 0.25]})


def test_a_line_is_there_as_soon_as_it_is_written(path):
    with MetricsWriter(path) as writer:
        writer.write_step(1, {"epoch": 0, "loss": 0.5, "sigma": [0.1]})
        assert json.loads(path.read_text()) == {"kind": "step", "step": 1, "epoch": 0, "loss": 0.5, "sigma": [0.1]}
        writer.sync()


def test_resuming_drops_the_steps_that_will_be_taken_again(path):
    write_steps(path, range(1, 11))
    with MetricsWriter(path, resumed_step=6) as writer:
        writer.write_validation(6, {"validation_loss": 0.5})
        writer.write_step(7, {"loss": 7.0})
    metrics = read_metrics(path)
    assert [line["step"] for line in metrics.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert metrics.steps[-1]["loss"] == 7.0
    assert metrics.steps[2]["loss"] == 1 / 3
    assert [line["validation_loss"] for line in metrics.validations] == [0.5]


def test_a_new_run_starts_empty(path):
    write_steps(path, range(1, 4))
    write_steps(path, [1])
    assert [line["step"] for line in read_metrics(path).steps] == [1]


@given(cut=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    write_steps(path, range(1, 6))
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert len(read_metrics(path).steps) in (whole, whole + 1)  # + 1: cut right before a newline
    write_steps(path, [6], resumed_step=5)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, len(lines)), 6]


def test_steps_must_rise(path):
    write_steps(path, [1, 2])
    with MetricsWriter(path, resumed_step=2) as writer:
        for step in (1, 2):
            with pytest.raises(ValueError, match="after those of 2"):
                writer.write_step(step, {})


def test_numbers_that_are_not_finite_become_null_with_a_note(path):
    with MetricsWriter(path) as writer:
        writer.write_step(1, {"loss": math.nan, "grad_norm": -math.inf, "sigma": [0.5, math.nan], "epoch": 0})

    def refuse(text):
        raise AssertionError(text)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["loss"] is line["grad_norm"] is None
    assert line["sigma"] == [0.5, None]
    assert line["non_finite"] == {"loss": "nan", "grad_norm": "-inf"}
    assert read_metrics(path).steps == (line,)


def test_foreign_lines_are_passed_over(path):
    write_steps(path, [1])
    with path.open("a") as file:
        file.write('[]\n{"step": 3}\n\n{"kind": "step", "step": "four"}\n{"kind": "step", "step": 5}\n')
    assert [line["step"] for line in read_metrics(path).steps] == [1, 5]
