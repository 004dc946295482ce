"""An evaluation on the report's page: intervals, what is better, what was flagged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_run import make_run

from simpletune.evaluate.for_page import measures_of
from simpletune.evaluate.results import (
    Best,
    Evaluation,
    FlaggedPair,
    Intervals,
    LeftOut,
    Measured,
    Metric,
    Sampling,
    SigmaLoss,
    Variant,
    save,
)
from simpletune.results.report.embed import Embedder
from simpletune.results.report.measures import Value
from simpletune.results.report.page import page
from simpletune.results.report.run import read

_CLIP = Metric(
    "clip_t", "CLIP-T", "adherence", "", "higher", "CLIP ViT-L/14", "How well a picture shows its prompt.", "", 3,
    {"base": Measured(0.31, 0.3, 0.32, 8), "step-000060": Measured(0.35, 0.34, 0.36, 8, 0.04, 0.02, 0.06)},
)  # fmt: skip
_NEAREST = Metric(
    "nearest", "Nearest training picture", "memorization", "", "higher", "DINOv2", "Distance.", "", 2,
    {"base": Measured(0.5, None, None, 1), "step-000060": Measured(0.4, 0.3, 0.5, 8, -0.1, -0.2, -0.05)},
    ceiling=Measured(0.9, None, None, 3),
)  # fmt: skip
EVALUATION = Evaluation(
    1, "0.1.0", "sd3-medium", Sampling(("a cat",), (1, 2), ((64, 64),), 28, 5.0, ""), 8, 3, 0,
    (Variant("base", "base", None, None, None, "base"),
     Variant("step-000060", "60 steps", 60, "x.safetensors", "0" * 64, "step-000060")),
    (_CLIP, _NEAREST),
    (SigmaLoss(0.25, {"base": Measured(0.4, None, None, 3), "step-000060": Measured(0.3, None, None, 3)}),
     SigmaLoss(0.75, {"base": Measured(0.6, None, None, 3)})),
    (FlaggedPair("step-000060", "step-000060/a.png", "paintings", "000.jpg", 0.012, 0.05),) * 30,
    None, (LeftOut("CSD", "no weights were given", "name them with --csd"),), ("only 8 pictures",),
    Best("step-000060", "highest CLIP-T", "it has 0.35."), Intervals(0.95, "bootstrap", 1000, 0), (),
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    made = make_run(tmp_path)
    (made / "evaluation").mkdir()
    save(made / "evaluation", EVALUATION)
    return read(made)


def test_numbers_come_with_intervals_and_with_what_they_mean(run):
    found = measures_of(run)
    assert [group.title for group in found.groups] == ["Adherence to the prompt", "Memorization"]
    row = found.groups[0].rows[0]
    assert row.values == (
        Value("0.310", "0.300 to 0.320, n = 8"),
        Value("0.350", "0.340 to 0.360, n = 8", "+0.040 to the base (+0.020 to +0.060)", True),
    )
    assert found.groups[1].rows[0].values[0] == Value("0.50", "n = 1")
    assert found.groups[1].rows[0].values[1].good is False
    assert "Through the VAE alone: 0.90." in found.groups[1].rows[0].about
    assert found.summary[0] == "Best: 60 steps. it has 0.35."
    assert "Left out: CSD, as no weights were given (name them with --csd)." in found.notes
    assert [line.curve.steps.tolist() for line in found.charts[0].lines] == [[0.25, 0.75], [0.25]]


def test_flagged_pictures_lie_where_the_run_says(run):
    found = measures_of(run)
    assert (len(found.flagged), found.flagged_more) == (24, 6)
    assert found.flagged[0].made == run.folder / "evaluation" / "step-000060" / "a.png"
    assert found.flagged[0].trained_on == run.folders["paintings"] / "000.jpg"
    elsewhere = replace(EVALUATION, flagged=(replace(EVALUATION.flagged[0], data_set="bucket"),))
    save(run.folder / "evaluation", elsewhere)
    assert measures_of(run).flagged[0].trained_on is None


def test_the_page_shows_all_of_it(run):
    text = page(run, Embedder(), measures_of(run))
    for said in ("CLIP-T", "+0.040 to the base", "Held-out loss by noise level", "paintings: 000.jpg", "and 6 more"):
        assert said in text
