"""evaluation.json: written and read back the same; damaged or of another format, an error people understand."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from simpletune import outside
from simpletune.errors import UsageError
from simpletune.evaluate.results import (
    Best,
    Evaluation,
    FeatureUse,
    FlaggedPair,
    Intervals,
    LeftOut,
    Measured,
    Metric,
    Sampling,
    SigmaLoss,
    Variant,
    load,
    save,
)


def example() -> Evaluation:
    values = {"base": Measured(0.2, 0.1, 0.3, 8), "step-000150": Measured(0.25, 0.2, 0.3, 8, 0.05, 0.01, 0.09)}
    return Evaluation(
        format=1,
        simpletune="0.0.0",
        model="the built-in tiny model",
        sampling=Sampling(("a red parrot",), (1, 2), ((128, 128),), 20, 5.0, ""),
        pictures=8,
        training_pictures=16,
        held_out_pictures=2,
        variants=(
            Variant("base", "base", None, None, None, "pictures/base"),
            Variant("step-000150", "tuned, 150 steps", 150, "a.safetensors", "ab" * 32, "pictures/step-000150"),
        ),
        metrics=(Metric("clip_t", "CLIP-T", "adherence", "", "higher", "CLIP", "It says.", "A paper", 3, values),),
        loss_by_sigma=(SigmaLoss(0.0625, {"base": Measured(1.0, None, None, 1)}),),
        flagged=(FlaggedPair("step-000150", "pictures/step-000150/a.png", "set", "a.jpg", 0.01, 0.02),),
        memorization_sheet=None,
        left_out=(LeftOut("style_csd", "no weights were given", "--csd FOLDER"),),
        warnings=("few pictures",),
        best=Best("step-000150", "a rule", "a reason"),
        intervals=Intervals(0.95, "percentile bootstrap", 1000, 0),
        features=(FeatureUse("clip", "folder", "336 pixels", 3, 5),),
    )


def test_an_evaluation_is_read_back_as_it_was_written(tmp_path: Path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    save(folder, example())
    assert load(folder) == load(tmp_path) == example()
    assert load(folder).metric("clip_t").values["step-000150"].differs
    assert load(folder).metric("kid") is None


def test_odd_file_names_and_tokens(tmp_path: Path):
    token = "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH"
    pair = replace(example().flagged[0], training="caf\udce9.jpg", picture=token)
    save(tmp_path, replace(example(), flagged=(pair,)))
    assert load(tmp_path).flagged[0].training == "caf\\udce9.jpg"
    assert token not in (tmp_path / "evaluation.json").read_text(encoding="utf-8")


def test_no_evaluation_is_none(tmp_path: Path):
    assert load(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found | {"format": 99}, "format 99"),
        (lambda found: found | {"metrics": 3}, "can't be read"),
        (lambda found: found | {"pictures": "8"}, "can't be read"),
        (lambda found: {name: found[name] for name in found if name != "best"}, "can't be read"),
        (lambda found: [found], "can't be read"),
    ],
)
def test_what_is_damaged_is_said(tmp_path: Path, change, said: str):
    path = save(tmp_path, example())
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UsageError, match=said):
        load(tmp_path)


def test_a_file_that_is_withheld_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def withheld(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = save(tmp_path, example())
    monkeypatch.setattr(outside, "read_json", withheld)
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert caught.value.message == f"{path} can't be read: permission denied"
