"""From features to metrics and to the best adapter, on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from simpletune.evaluate import measure
from simpletune.evaluate.choose import choose
from simpletune.evaluate.measure import View
from simpletune.evaluate.results import Measured, Metric

RANDOM = np.random.default_rng(11)
TRAINING = RANDOM.normal(size=(40, 12)) + 2
VARIANTS = {
    "base": RANDOM.normal(size=(30, 12)),
    "liker": RANDOM.normal(size=(30, 12)) + 2,
    "collapsed": TRAINING[:1] + RANDOM.normal(size=(30, 12)) * 0.2,
    "copies": TRAINING[RANDOM.integers(0, 40, 30)] + RANDOM.normal(size=(30, 12)) * 0.01,
}
VIEW = View("dino", "a model", VARIANTS, TRAINING)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def test_likeness_rises_diversity_falls_and_copies_are_seen():
    likeness, diversity = by_name(measure.likeness(VIEW)), by_name(measure.diversity(VIEW))
    assert likeness["centroid_dino"].values["liker"].difference_low > 0.3
    assert likeness["kid_dino"].values["liker"].difference_high < 0
    assert diversity["pairwise_dino"].values["collapsed"].difference_high < 0
    assert diversity["vendi_dino"].values["collapsed"].value < 1.3 < diversity["vendi_dino"].values["liker"].value
    memorized = measure.memorization(VIEW)
    copies = by_name(memorized.metrics)["memorized_dino"].values
    assert copies["copies"].value == 1
    assert copies["base"].value == 0
    assert copies["liker"].low <= memorized.threshold.chance
    every = memorized.flagged("copies")
    assert [memorized.distances["copies"][place] for place in every] == sorted(memorized.distances["copies"])


def metric(name: str, better: str, **values: Measured) -> Metric:
    return Metric(name, name, "group", "", better, "a model", "about", "source", 3, values)


def at(value: float, difference: float = 0.0, spread: float = 0.001, low: float | None = None) -> Measured:
    low = value - spread if low is None else low
    return Measured(value, low, value + spread, 30, difference, difference - spread, difference + spread)


def test_the_best_is_the_likest_that_keeps_its_prompts_and_copies_nothing():
    likeness = metric("cmmd", "lower", base=at(2), early=at(1.5, -0.5), late=at(1, -1), last=at(0.5, -1.5))
    adherence = metric("clip_t", "higher", base=at(0.3), early=at(0.3), late=at(0.295, -0.005), last=at(0.2, -0.1))
    copies = metric("memorized_dino", "lower", base=at(0), early=at(0), late=at(0), last=at(0))
    names = ["base", "early", "late", "last"]
    best = choose([likeness, adherence, copies], names, 0.02)
    assert best.variant == "late"
    assert "last has lost its prompts" in best.reason
    assert "clearly better" in best.reason
    assert "CLIP-T" in best.rule

    assert choose([likeness], names).variant == "last"
    copying = metric("memorized_dino", "lower", base=at(0), early=at(0.5), late=at(0.03, low=0.01), last=at(0))
    assert choose([likeness, copying], ["base", "early", "late"], 0.02).variant == "late", "no more than chance"
    found = choose([likeness, copying], ["base", "early"], 0.02)
    assert found.variant is None
    assert "draws possible copies (50% of its pictures)" in found.reason


@pytest.mark.parametrize("names", [["base"], ["base", "early"]])
def test_nothing_to_choose_by_or_among(names: list[str]):
    metrics = [] if len(names) > 1 else [metric("cmmd", "lower", base=at(2))]
    assert choose(metrics, names).variant is None
