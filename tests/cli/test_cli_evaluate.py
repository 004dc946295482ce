"""`simpletune evaluate` on a trained tiny model: what is measured, what is kept, and every mistake explained."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from project import Project, make_project
from safetensors.torch import load_file, save_file

from simpletune.cli.main import run
from simpletune.config.load import load as load_settings
from simpletune.errors import Interrupted
from simpletune.evaluate.request import Models, Request
from simpletune.evaluate.results import Evaluation, load
from simpletune.evaluate.run import evaluate, in_folder
from simpletune.progress import SilentReporter
from simpletune.results.run_folder import ADAPTER_FILE
from simpletune.trainer.launch import launch

sys.path.append(str(Path(__file__).parent.parent / "evaluate"))
import feature_models

QUICK = ["--seeds", "3", "--steps", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Four steps with a checkpoint after two; two of eight pictures held out. Feature models lie beside it."""
    keys = {"max_train_steps": 4, "checkpoint_step_interval": 2, "num_eval_images": 2, "validation_step_interval": 2}
    folder = tmp_path_factory.mktemp("evaluate")
    made = make_project(folder / "project", pictures=8, validation_prompt="a red ball", **keys)
    assert launch(made.config, [], SilentReporter()) is not None
    feature_models.clip(folder / "clip")
    feature_models.dino(folder / "dino")
    return made


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default feature models are out of reach, whatever this machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def networks(project: Project) -> list[str]:
    return ["--clip", str(project.folder.parent / "clip"), "--dino", str(project.folder.parent / "dino")]


def command(project: Project, folder: Path, *arguments: str) -> int:
    return run(["evaluate", str(project.config), "--output", str(folder), *QUICK, *arguments])


def counts(evaluation: Evaluation) -> dict[str, tuple[int, int]]:
    return {use.name: (use.computed, use.from_cache) for use in evaluation.features}


def test_base_and_checkpoints_are_compared_and_a_new_one_costs_only_itself(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [*networks(trained), "--adapter", "2"]
    assert command(trained, tmp_path, *first) == 0
    capsys.readouterr()
    before = load(tmp_path)
    assert [variant.name for variant in before.variants] == ["base", "step-000002"]
    # three pictures of each variant, six to train on, two held out and through the VAE
    assert counts(before) == {"clip": (14, 0), "dino": (14, 0)}

    assert command(trained, tmp_path, *networks(trained)) == 0
    printed = capsys.readouterr()
    after = load(tmp_path)
    assert [variant.name for variant in after.variants] == ["base", "step-000002", "step-000004"]
    assert counts(after) == {"clip": (3, 14), "dino": (3, 14)}
    assert "Making pictures: 3 images" in printed.err
    assert "Held-out loss: 2 images" in printed.err
    assert all(len(line) <= 80 for line in printed.out.splitlines() if str(tmp_path) not in line), printed.out
    assert "3 computed, 14 from the cache" in printed.out
    for metric in before.metrics:
        for name, measured in metric.values.items():
            assert after.metric(metric.name).values[name] == measured

    # the loss is the trainer's own
    logged = {line["step"]: line["validation_loss"] for line in trained.metrics().validations}
    losses = after.metric("held_out_loss").values
    assert losses["base"].value == pytest.approx(logged[0], rel=1e-6)
    assert losses["step-000004"].value == pytest.approx(logged[4], rel=1e-6)
    assert losses["step-000004"].difference == pytest.approx(logged[4] - logged[0], rel=1e-5)
    by_sigma = [level.values["step-000004"].value for level in after.loss_by_sigma]
    assert sum(by_sigma) / len(by_sigma) == pytest.approx(logged[4], rel=1e-6)

    named = {metric.name for metric in after.metrics}
    assert named == {
        *("clip_t", "cmmd", "kid_dino", "centroid_dino", "pairwise_dino", "vendi_dino"),
        *("nearest_dino", "memorized_dino", "held_out_loss", "vae_psnr"),
    }
    assert after.metric("cmmd").values["step-000004"].n == 3
    assert after.best.variant in {"step-000002", "step-000004", None}
    assert any("below 30" in warning for warning in after.warnings)
    assert not list((trained.folder / "pictures").glob("*.json")), "the pictures' folder is only read"


def test_without_any_feature_model_there_is_still_much_to_say(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(trained, tmp_path, "--adapter", "4") == 0
    printed = capsys.readouterr()
    assert "left out: CLIP-T and CMMD: openai/clip-vit-large-patch14 isn't" in printed.err
    assert "--clip FOLDER" in " ".join(printed.err.split())
    found = load(tmp_path)
    assert {left.metric for left in found.left_out} == {"CLIP-T and CMMD", "all that DINO judges", "style"}
    assert found.metric("held_out_loss") is not None
    assert found.metric("kid_statistics") is not None
    assert found.metric("vae_psnr").ceiling.n == 2


def test_without_data_or_held_out_pictures(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--adapter", "4", "--set", "num_eval_images=0"]
    assert command(trained, tmp_path, *arguments) == 0
    found = load(tmp_path)
    assert found.metric("held_out_loss") is None
    assert any(left.metric == "held-out loss" for left in found.left_out)
    assert found.metric("kid_statistics").ceiling is None, "pictures that were trained on are no ceiling of that"

    pictures, away = trained.folder / "pictures", trained.folder / "away"
    pictures.rename(away)
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"no picture")
    try:
        assert command(trained, tmp_path, *arguments) == 0
    finally:
        shutil.rmtree(pictures)
        away.rename(pictures)
    assert "the training pictures can't be looked at" in capsys.readouterr().err
    found = load(tmp_path)
    assert {metric.name for metric in found.metrics} == {"pairwise_statistics", "vendi_statistics"}
    assert found.best.variant is None


@pytest.mark.parametrize("kind", ["unreadable", "other model", "not a number"])
def test_an_adapter_that_cant_be_used_is_named_before_anything_is_made(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    adapter = tmp_path / "odd.safetensors"
    tensors = load_file(trained.output / ADAPTER_FILE)
    first = next(name for name in tensors if "lora_A" in name)
    if kind == "unreadable":
        adapter.write_bytes(b"no adapter")
    else:
        changed = torch.full_like(tensors[first], float("nan")) if kind == "not a number" else torch.ones(4, 99)
        save_file({**tensors, first: changed}, adapter)
    folder = tmp_path / "out"
    assert command(trained, folder, "--adapter", "4", "--adapter", str(adapter)) == 2
    said = capsys.readouterr().err
    assert str(adapter) in said
    expected = {"unreadable": "can't be read", "other model": "trained on another model", "not a number": "NaN"}
    assert expected[kind] in said
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--clip", "no/such/folder"], 3, "neither a folder nor a hub name"),
        (["--dino", "owner/missing"], 3, "--dino FOLDER"),
        (["--csd", "missing.safetensors"], 3, "there is no file missing.safetensors"),
        (["--adapter", "3"], 2, "no checkpoint of step 3"),
        (["--adapter", "none", "--adapter", "4"], 2, "the base is drawn beside them in any case"),
        (["--captions", "3", "--prompt", "x"], 2, "give either one"),
        (["--size", "63"], 2, "multiples of"),
    ],
)
def test_mistakes(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    folder = tmp_path / "out"
    assert run(["evaluate", str(trained.config), "--output", str(folder), *arguments]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


def test_no_prompts_and_no_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project(tmp_path / "project")
    assert run(["evaluate", str(project.config), "--adapter", "none"]) == 2
    assert "there are no prompts" in capsys.readouterr().err
    assert run(["evaluate", str(project.config), "--prompt", "a ball"]) == 2
    assert "there is no trained adapter" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(trained: Project, tmp_path: Path) -> None:
    settings, _ = load_settings(trained.config, ())
    dino = str(trained.folder.parent / "dino")
    request = Request(seeds=range(2), steps=1, adapters=["none"], models=Models("none", dino))

    class Stopping(SilentReporter):
        @contextmanager
        def phase(self, title: str, *_: Any, **__: Any) -> Iterator[Any]:
            yield self

            if title.startswith("Describing"):
                raise KeyboardInterrupt

        def advance(self, *_: Any, **__: Any) -> None:
            pass

    with pytest.raises(Interrupted, match="kept"):
        evaluate(settings, request, tmp_path, Stopping())
    assert load(tmp_path) is None
    found = evaluate(settings, request, tmp_path, SilentReporter())
    assert counts(found)["dino"][0] == 0


def test_a_caption_of_the_data_set_as_prompt_and_one_picture(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(tmp_path), "--adapter", "4", "--captions", "1", "--steps", "1", "--seeds", "1"]
    assert run(["evaluate", str(trained.config), *arguments]) == 0
    found = load(tmp_path)
    assert found.sampling.prompts[0].endswith(" ball")
    assert found.pictures == 1
    assert found.metric("pairwise_statistics") is None
    assert found.metric("centroid_statistics").values["step-000004"].low is None
    assert any("one picture" in left.reason for left in found.left_out)
    assert in_folder(load_settings(trained.config, ())[0]) == trained.output / "evaluation"
    capsys.readouterr()
