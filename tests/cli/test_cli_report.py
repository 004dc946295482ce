"""`simpletune report`: which runs are meant, where the page goes, and what is said when there is none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_run import make_run

from simpletune.cli.main import run
from simpletune.results.charts import run_charts
from simpletune.results.report import write

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture
def made(tmp_path):
    """A project whose run is made up."""
    shutil.copytree(QUICKSTART, tmp_path / "p", ignore=shutil.ignore_patterns("output", "cache", "pictures"))
    return make_run(tmp_path / "p", validations=2, prompts=1, trained=1)


def told(capsys) -> str:
    """What was said, its lines joined."""
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("named", ["config.json", "output", ".", ""])
def test_a_run_is_named_by_its_config_or_folder(made, named, monkeypatch, capsys):
    monkeypatch.chdir(made.parent)
    assert run(["report", *([named] if named else [])]) == 0
    assert "Finished after 60 steps." in (made / "report.html").read_text()
    assert "report.html (0." in told(capsys)


def test_several_are_compared_and_one_named_twice_counts_once(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "q" / "output")
    assert run(["report", "p/output", "q/output", "p/config.json"]) == 0
    text = (tmp_path / "comparison.html").read_text()
    assert "2 runs compared" in text
    assert "p/output: Finished" in text
    assert "was named twice" in told(capsys)


def test_plots_are_drawn_as_files(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write, "run_charts", lambda numbers: run_charts(numbers)[1:2])  # of all, it would take seconds
    assert run(["report", str(made), "--output", str(tmp_path / "x.html"), "--plots", str(tmp_path / "plots")]) == 0
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"loss-by-sigma.png", "loss-by-sigma.svg"}
    assert "2 plots in" in told(capsys)


@pytest.mark.parametrize(
    ("named", "said", "remedy"),
    [
        ("nowhere", "there is no", "name a config.json that was trained"),
        ("empty", "is no run's folder: it has neither run.json nor metrics.jsonl", '"output_dir" names'),
        ("page.html", "is no config.json", "name the output folder"),
        ("p/untrained.json", "has not been trained", "simpletune train"),
    ],
)
def test_what_is_no_run_is_an_error_with_a_remedy(made, tmp_path, monkeypatch, capsys, named, said, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").touch()
    config = json.loads((made.parent / "config.json").read_text())
    (made.parent / "untrained.json").write_text(json.dumps({**config, "output_dir": "elsewhere"}))
    assert run(["report", named]) == 2
    message = told(capsys)
    assert said in message
    assert remedy in message


def test_only_a_page_is_replaced(made, capsys):
    config = made.parent / "config.json"
    before = config.read_bytes()
    assert run(["report", str(made), "--output", str(config)]) == 2
    assert "is there already" in told(capsys)
    assert config.read_bytes() == before


def test_a_damaged_evaluation_costs_only_itself(made, capsys):
    (made / "evaluation.json").write_text("{")
    assert run(["report", str(made)]) == 0
    assert "warning: " in told(capsys)
    assert "Held-out loss" in (made / "report.html").read_text()


def test_watching_writes_until_the_run_ends(made, monkeypatch, capsys):
    (made / "finished.json").unlink()
    lock = made / ".run.lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    seen = []

    def sleep(seconds):
        seen.append((made / "report.html").read_text())
        if len(seen) == 2:
            lock.unlink()

    monkeypatch.setattr("simpletune.results.report.write.time.sleep", sleep)
    assert run(["report", str(made), "--watch"]) == 0
    assert all('http-equiv="refresh"' in text for text in seen)
    last = (made / "report.html").read_text()
    assert "Stopped at step 60" in last
    assert 'http-equiv="refresh"' not in last
    assert "the run has ended" in told(capsys)


def test_it_imports_no_torch(made):
    code = (
        "import sys\nfrom simpletune.cli.main import run\n"
        f"assert run(['report', {str(made)!r}]) == 0\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'peft', 'accelerate') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
