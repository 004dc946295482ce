"""Runs of the tiny model whose outcome is known, and what the metrics say of them. Minutes, by hand: `-m slow`."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanity

from simpletune.evaluate.results import Evaluation
from simpletune.progress import SilentReporter

pytestmark = pytest.mark.slow


def values(evaluation: Evaluation, name: str) -> list[float]:
    return [measured.value for measured in evaluation.metric(name).values.values()]


def test_more_training_moves_likeness_up(tmp_path: Path):
    found = sanity.trained_on(tmp_path / "run", SilentReporter())
    nearer = values(found, "centroid_statistics")
    assert nearer == sorted(nearer)
    assert found.metric("centroid_statistics").values["step-000400"].difference_low > 0
    further = values(found, "kid_statistics")
    assert further == sorted(further, reverse=True)
    losses = values(found, "held_out_loss")
    assert losses == sorted(losses, reverse=True)
    assert not found.flagged
    assert found.best.variant in {"step-000300", "step-000400"}


def test_a_memorizing_run_is_flagged(tmp_path: Path):
    found = sanity.memorizing(tmp_path / "run", SilentReporter())
    copies = found.metric("memorized_statistics").values
    assert copies["base"].value == 0
    assert copies["step-000800"].low > 0.5
    assert {pair.variant for pair in found.flagged} == {"step-000800"}
    assert found.best.variant is None
    assert (tmp_path / "run" / "output" / "evaluation" / found.memorization_sheet).is_file()


def test_a_collapsed_run_loses_diversity(tmp_path: Path):
    """More than the training pictures' own likeness to each other, which the first run gets to: 0.225 and 2.80."""
    found = sanity.collapsed(tmp_path / "run", SilentReporter())
    for name in ("pairwise_statistics", "vendi_statistics"):
        assert found.metric(name).values["step-000400"].difference_high < 0
    assert found.metric("pairwise_statistics").values["step-000400"].high < 0.19
    assert found.metric("vendi_statistics").values["step-000400"].high < 2.4
