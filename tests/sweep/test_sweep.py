"""`simpletune sweep`: what its file may say, which runs that makes, and real ones, stopped and continued."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from project import Project, make_project

from simpletune.cli.main import run
from simpletune.errors import ConfigError
from simpletune.machine import gpus
from simpletune.sweep import run as subject
from simpletune.sweep.file import read
from simpletune.sweep.plan import folder_name, plan
from simpletune.sweep.table import Row, lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", max_train_steps=2)


def sweep_file(project: Project, **content: Any) -> Path:
    path = project.folder / "ranks.json"
    path.write_text(json.dumps(content))
    return path


def problems_of(project: Project, **content: Any) -> list[tuple[str, str]]:
    """(key, message) of each problem of a file, or of its combinations."""
    with pytest.raises(ConfigError) as caught:
        plan(read(sweep_file(project, **content)))
    assert all(problem.file == str(project.folder / "ranks.json") for problem in caught.value.problems)
    assert all(problem.line == 1 and problem.column > 1 for problem in caught.value.problems)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def test_every_combination_is_a_run_with_a_folder_of_its_own(project: Project) -> None:
    axes = {"lora_rank": [2, 4], "rate": {"low": {"learning_rate": 1e-4}, "high": {"learning_rate": 0.01, "seed": 7}}}
    runs = plan(read(sweep_file(project, axes=axes, output_dir="out")))
    names = [f"lora_rank={rank},rate={rate}" for rank in (2, 4) for rate in ("low", "high")]
    assert [run.name for run in runs] == names
    assert [(run.settings.lora_rank, run.settings.learning_rate) for run in runs] == [
        (2, 1e-4), (2, 0.01), (4, 1e-4), (4, 0.01),
    ]  # fmt: skip
    assert [run.settings.seed for run in runs[:2]] == [42, 7]
    assert [run.folder for run in runs] == [project.folder / "out" / run.name for run in runs]
    assert len({run.digest for run in runs}) == 4


def test_a_changed_config_makes_other_runs_and_a_moved_line_does_not(project: Project) -> None:
    file = read(sweep_file(project, axes={"lora_rank": [2]}))
    before = plan(file)[0].digest
    project.config.write_text("\n\n" + project.config.read_text())
    assert plan(file)[0].digest == before
    project.set(learning_rate=0.02)
    assert plan(file)[0].digest != before


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ({"axes": {"lora_rnk": [2]}}, "axes.lora_rnk", 'did you mean "lora_rank"'),
        ({"axes": {"lora_rank": [2, 0]}}, "axes.lora_rank.1", "at least 1"),
        ({"axes": {"lora_rank": [2, "4"]}}, "axes.lora_rank.1", "whole number"),
        ({"axes": {"lora_rank": [2, 2]}}, "axes.lora_rank.1", "twice"),
        ({"axes": {"lora_rank": []}}, "axes.lora_rank", "no values"),
        ({"axes": {"lora_rank": 2}}, "axes.lora_rank", "list of values"),
        ({"axes": {"a": {"x": {"seeed": 1}}}}, "axes.a.x.seeed", "unknown key"),
        ({"axes": {"a": {"x": [1]}}}, "axes.a.x", "must be an object"),
        ({"axes": {"seed": [1], "a": {"x": {"seed": 1}}}}, "axes.a", "two axes"),
        ({"axes": {"output_dir": ["x"]}}, "axes.output_dir", "can't vary"),
        ({"axes": {"dataset.7.repeats": [1]}}, "axes.dataset.7.repeats.0", "no data set 7"),
        ({"axes": {"seed": list(range(101)), "lora_rank": list(range(1, 101))}}, "axes", "10,100 combinations"),
        ({"axes": {}}, "axes", "keys that vary"),
        ({"axes": {"seed": [1]}, "evaluate": "yes"}, "evaluate", "true, false"),
        ({"axes": {"seed": [1]}, "lora_rank": [2]}, "lora_rank", "unknown key"),
    ],
)
def test_what_is_wrong_is_said_in_its_place(project: Project, content: dict[str, Any], place: str, said: str) -> None:
    problems = problems_of(project, **content)
    assert [path for path, _ in problems] == [place]
    assert said in problems[0][1]


def test_all_combinations_are_judged_before_one_starts(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    axes = {"lora_rank": [2, 0], "learning_rate": [0.1, -1]}
    path = sweep_file(project, axes=axes)
    assert run(["sweep", str(path)]) == 2
    said = capsys.readouterr().err
    assert "2 errors in the 4 combinations" in said
    assert "(in 2 of 4 combinations)" in said
    assert not (project.folder / "ranks").exists()
    assert run(["sweep", str(sweep_file(project, axes={"lora_rank": [0]}))]) == 2
    assert "an error in the one combination of" in capsys.readouterr().err


def test_options_of_an_evaluation_are_judged_before_hours_of_training(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", str(sweep_file(project, axes={"seed": [1]}, evaluate=["--sedes", "2"]))]) == 2
    assert "--sedes" in capsys.readouterr().err
    assert not (project.folder / "ranks").exists()


class Process:
    """A run that fails when it is looked at for the second time."""

    at_work: ClassVar[list[str]] = []
    begun: ClassVar[list[str]] = []

    def __init__(self, *_: Any, env: dict[str, str], **__: Any) -> None:
        self.card, self.returncode, self.looks = env["CUDA_VISIBLE_DEVICES"], 1, 0
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert self.card not in self.at_work
        self.at_work.append(self.card)
        self.begun.append(self.card)

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            return None
        self.at_work.remove(self.card)
        return 1


def test_each_gpu_that_is_named_has_a_run_at_a_time(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With three cards that aren't there and processes that are none."""
    cards = tuple(gpus.Gpu(index, "a card", None, None, "", None) for index in range(3))
    monkeypatch.setattr(gpus, "nvidia_gpus", lambda: gpus.Found(cards))
    monkeypatch.setattr(subject, "subprocess", SimpleNamespace(Popen=Process, DEVNULL=None, STDOUT=None))
    path = sweep_file(project, axes={"seed": [1, 2, 3, 4]})
    for asked, said in (("0,3", "there is no GPU 3"), ("0,0", "isn't a list"), ("a", "isn't a list")):
        assert run(["sweep", str(path), "--devices", asked]) == 2
        assert said in capsys.readouterr().err
    assert Process.begun == []
    assert run(["sweep", str(path), "--devices", "0,2"]) == 1
    assert "4 of 4 runs failed" in capsys.readouterr().err
    assert Process.begun == ["0", "2", "0", "2"]


@pytest.mark.parametrize(
    "values", [{"a": "x/../../y"}, {"a": ""}, {"a": "nul\0"}, {"a": "ü" * 300}, {"lora_target": '["to_q", "to_k"]'}]
)
def test_a_name_stays_one_folder(values: dict[str, str]) -> None:
    name = folder_name(values)
    assert len(name.encode()) <= 200
    assert Path(name).name == name
    assert name not in {folder_name({"a": "x-..-..-y"}), folder_name({"a": "other"})}


def test_the_table_fits_a_terminal_and_shows_intervals() -> None:
    figures = {"loss": 0.51234, "seconds": 65.0, "adapter_bytes": 2048, "kid": 1.5, "kid_low": 1.25, "kid_high": None}
    figures |= {"clip": 0.3, "clip_low": 0.2, "clip_high": 0.4}
    row = Row("rank=4", {"rank": "4", "type": "lora"}, figures, {"clip": "CLIP-T", "kid": "KID"})
    assert lines([row, row]) == [
        "rank  type    loss  adapter  time",
        "4     lora  0.5123  2.0 KiB  1:05",
        "4     lora  0.5123  2.0 KiB  1:05",
        "",
        "rank  type                       a      b",
        "4     lora  0.300 (0.200 to 0.400)  1.500",
        "4     lora  0.300 (0.200 to 0.400)  1.500",
        "a: CLIP-T",
        "b: KID",
    ]


def test_runs_side_by_side_are_trained_once_and_compared(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(project, axes={"lora_rank": [2, 4]})
    assert run(["sweep", str(path), "--jobs", "2"]) == 0
    first = capsys.readouterr()
    with (project.folder / "ranks" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lora_rank"], row["steps"]) for row in rows] == [("2", "2"), ("4", "2")]
    assert float(rows[0]["adapter_bytes"]) < float(rows[1]["adapter_bytes"])
    assert all(float(row["loss"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    assert "2 runs compared" in (project.folder / "ranks" / "comparison.html").read_text()
    assert "comparison.html" in first.out
    began = time.monotonic()
    assert run(["sweep", str(path), "--jobs", "2"]) == 0
    assert time.monotonic() - began < 5
    assert "2 of 2 runs are done already" in capsys.readouterr().err


@pytest.mark.fault
def test_a_stopped_sweep_goes_on_and_a_failed_run_ends_no_other(project: Project) -> None:
    project.set(max_train_steps=4000, checkpoint_step_interval=2000)
    path = sweep_file(project, axes={"lora_rank": [2, 4]})
    process = project.command("sweep", str(path))
    log = project.folder / "ranks" / "logs" / "lora_rank=2.log"
    deadline = time.monotonic() + 90
    while "Training" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.2)
    busy = project.command("sweep", str(path))
    said, _ = busy.communicate(timeout=60)
    assert busy.returncode == 2
    assert "in use by another sweep" in said
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "0 of 2 runs are done" in said
    saved = [one.name for one in (project.folder / "ranks" / "lora_rank=2").glob("checkpoint-*")]
    assert len(saved) == 1
    steps = int(saved[0].partition("-")[2]) + 2
    project.set(max_train_steps=steps)
    wrong = project.folder / "ranks" / "lora_rank=4" / "metrics.jsonl"
    wrong.mkdir(parents=True)
    process = project.command("sweep", str(path))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "1 of 2 runs failed: lora_rank=4" in said
    assert "lora_rank=2" in (project.folder / "ranks" / "sweep.csv").read_text()
    wrong.rmdir()
    process = project.command("sweep", str(path))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    with (project.folder / "ranks" / "sweep.csv").open() as file:
        assert [int(row["steps"]) for row in csv.DictReader(file)] == [steps, steps]
    assert subprocess.run(["pgrep", "-f", str(path)], capture_output=True, check=False).stdout == b""
