"""`simpletune bench`: one whole run on the tiny model, memory that runs out, and the table of a sweep."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from project import make_project

from simpletune.bench import phases, sweep
from simpletune.bench.report import Memory, Timing, Training
from simpletune.cli.main import run
from simpletune.machine import bench_results
from simpletune.machine.bench_results import load

QUICK = ["--device", "cpu", "--steps", "2"]
QUICK += [
    word for key in ("resolution=64", "vae_batch_size=1", "validation_num_inference_steps=1") for word in ("--set", key)
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and another one for the user's caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_every_phase_has_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On quantized weights, beside the eager loop, printed and written alike; nothing else is left behind."""
    assert run(["bench", *QUICK, "--against", "eager", "--json", "--output", "figures.json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((here / "figures.json").read_text())
    assert [path.name for path in here.iterdir()] == ["figures.json"]
    assert printed["settings"]["model_flavour"] == "tiny"
    assert printed["settings"]["base_model_precision"] == "int8-quanto"
    for name in ("text", "images"):
        assert printed[name]["per_second"] > 0
    for name in ("train", "eager"):
        figures = printed[name]
        assert figures["timing"]["calls"] == 2
        assert figures["timing"]["low"] <= figures["timing"]["median"] <= figures["timing"]["high"]
    assert 0 < printed["train"]["share"] < 1
    assert printed["speed_up"] == pytest.approx(printed["eager"]["ms_per_step"] / printed["train"]["ms_per_step"], 0.01)
    assert printed["sample"]["steps"] == 1
    assert printed["run"]["seconds"]["train"] == pytest.approx(printed["train"]["ms_per_step"], 0.01)  # 1000 steps
    assert ["sd3-medium at 1024x1024" in note for note in printed["notes"]] == [True]


def test_memory_that_runs_out_is_said_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: phases.Bench) -> Training:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore")

    monkeypatch.setattr(phases, "train", full)
    assert run(["bench", *QUICK, "--phases", "train,images"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "not measured: out of memory: CUDA out of memory. Tried to allocate 20 MiB." in printed
    assert "images/s" in printed
    assert "captions/s" not in printed


def test_what_a_processor_has_no_room_for_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--set", "model_flavour=sd3.5-large", "--set", "resolution=3072", "--set", "train_batch_size=64"]
    assert run(["bench", "--device", "cpu", *keys, "--set", "gradient_checkpointing=false"]) == 1
    assert "GiB of memory, and" in capsys.readouterr().out


def test_a_configuration_is_measured_without_its_pictures(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With them, the run's time counts them; without, its steps. What is wrong in config.json is an error."""
    taken = Training(Timing(0.5, 0.4, 0.6, 2), 2, Memory(None, None, 1.0))
    monkeypatch.setattr(phases, "train", lambda _: taken)
    project = make_project(here / "project", pictures=6, max_train_steps=10)
    assert run(["bench", str(project.config), "--phases", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["pictures"] == 6
    for picture in (project.folder / "pictures").iterdir():
        picture.unlink()
    (project.folder / "pictures").rmdir()
    assert run(["bench", str(project.folder), "--phases", "train"]) == 0
    printed = capsys.readouterr().out
    assert "5.0 s for 10 steps" in printed
    assert "Nothing is known of the pictures" in printed
    project.set(data_backend_config="gone.json")
    assert run(["bench", str(project.config), "--phases", "train"]) == 0
    project.set(lora_rank="many")
    assert run(["bench", str(project.config)]) == 2
    assert '"lora_rank" must be a whole number' in capsys.readouterr().err


def answer(arguments: Sequence[str], *_: Any) -> dict[str, Any]:
    """Faster with a larger batch; int4 crashes, and nothing of batch 4 fits without checkpointing."""
    said = dict(text.split("=") for text in arguments if "=" in text)
    batch = int(said["train_batch_size"])
    if said["base_model_precision"] == "int4-quanto":
        return {"error": "the process ended with -11", "stderr": ""}
    if batch == 2 and said["gradient_checkpointing"] == "false":
        return {"train": {"reason": "out of memory: no", "out_of_memory": True}}
    memory = {"allocated_gib": 1.0, "reserved_gib": 8.0 if said["base_model_precision"] == "no_change" else 4.0 + batch}
    return {"train": {"ms_per_step": 100.0 * batch - 10 * (batch - 1), "memory": memory, "execution": "eager"}}


def test_a_sweep_names_the_best_and_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(sweep, "run_bench", lambda arguments: (asked.append(arguments), answer(arguments))[1])
    assert run(["bench", *QUICK, "--sweep"]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "fastest: 92.5 ms/sample, 8.00 GiB reserved\n  --set base_model_precision=no_change\n" in printed
    assert "least memory: 100.0 ms/sample, 5.00 GiB reserved\n  --set base_model_precision=int8-quanto\n" in printed
    assert printed.count("doesn't fit") == 2 * 4  # batch 4 isn't tried where 2 was too much
    assert "failed: the process ended with -11" in printed
    assert len(asked) == 5 * 2 * 3 - 4
    card = printed.splitlines()[0].partition(" on ")[2]
    assert printed.splitlines()[1] == "steps as a run of 1,000 takes them: eager"
    assert all({"max_train_steps=1000", "num_train_epochs=null"} <= set(one) for one in asked)
    assert len(load(card)) == 5 * 2 * 3


def test_a_sweep_that_is_stopped_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Sequence[str]] = []

    def stopped_at_the_third(arguments: Sequence[str]) -> dict[str, Any]:
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(arguments)

    monkeypatch.setattr(sweep, "run_bench", stopped_at_the_third)
    assert run(["bench", *QUICK, "--sweep", "--output", "rows.json"]) == 130
    assert "fastest: 95.0 ms/sample" in capsys.readouterr().out
    assert len(json.loads(Path("rows.json").read_text())) == 2


def test_a_sweep_whose_rows_cannot_be_kept_goes_on_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "rows.json")

    monkeypatch.setattr(sweep, "run_bench", answer)
    monkeypatch.setattr(bench_results, "save", save)
    assert run(["bench", *QUICK, "--sweep"]) == 0
    printed = capsys.readouterr()
    assert "fastest: " in printed.out
    assert "the row isn't kept for estimates: permission denied" in printed.err
    assert "Errno" not in printed.err


def test_figures_that_cannot_be_written_are_printed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be known before minutes of measuring is said before; what happens later costs no figures."""

    def train(_: phases.Bench) -> Training:
        (here / "figures.json").mkdir()
        return Training(Timing(0.5, 0.4, 0.6, 2), 2, Memory(None, None, 1.0))

    monkeypatch.setattr(phases, "train", train)
    assert run(["bench", *QUICK, "--phases", "train", "--output", str(here)]) == 2
    printed = capsys.readouterr()
    assert "can't be written: it is a folder" in printed.err
    assert printed.out == ""
    assert run(["bench", *QUICK, "--phases", "train", "--output", "figures.json"]) == 2
    printed = capsys.readouterr()
    assert "500.0 ms/step" in printed.out
    assert "figures.json can't be written: " in printed.err


def test_wrong_words_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--phases", "training"]) == 2
    assert "no phase; there are text, images, train, sample" in capsys.readouterr().err
    assert run(["bench", "--sweep", "--against", "eager"]) == 2
    assert run(["bench", "--output", "nowhere/figures.json"]) == 2
    assert "is not a folder" in capsys.readouterr().err
