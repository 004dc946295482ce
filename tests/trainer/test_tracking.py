"""What trackers are given of a run, read back from what they wrote; and that training goes on without them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from project import Project, make_project

from simpletune.config import rules_environment
from simpletune.config.load import load
from simpletune.config.trackers import wandb_login
from simpletune.errors import EnvironmentNotReady
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch
from simpletune.trainer.tracking import trackers
from simpletune.trainer.tracking.tracker import Picture, scalars_of
from simpletune.trainer.tracking.trackers import open_trackers
from simpletune.trainer.tracking.worker import Worker

TOKEN = "hf_" + "aB3dE5gH7j" * 3


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(autouse=True)
def _no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_SILENT", "true")


# --- reading back


def tensorboard_events(folder: Path) -> list[Any]:
    """Every event of a folder as TensorBoard shows them: a start mark drops what is there from its step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[Any] = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = [one for one in shown if one.step < event.step]
            shown.append(event)
    return shown


def tensorboard_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in tensorboard_events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def wandb_records(folder: Path) -> list[Any]:
    """All records of the offline runs of a folder, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [Record.FromString(data) for path in files for data in leveldb_log(path.read_bytes())]


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, of which seven bytes of its own are at the start."""
    block, whole, position = 32768, b"", 7
    while position + 7 <= len(data):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a record in one piece, or its last piece
            yield whole
            whole = b""


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(folder)
        if record.HasField("history")
    ]


# --- whole runs


def project(folder: Path, **keys: Any) -> Project:
    return make_project(
        folder, validation_prompt="a hut", validation_step_interval=2, num_eval_images=1, checkpoint_step_interval=2,
        **keys,
    )  # fmt: skip


def test_trackers_show_what_metrics_jsonl_has_also_after_steps_were_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["tensorboard", "wandb"]
    pytest.importorskip("wandb", reason="wandb is an extra: pip install 'simpletune[wandb]'")
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'simpletune[tensorboard]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:not-for-everyone@mirror.example")
    made = project(tmp_path / "a", report_to=wanted, lr_scheduler="constant")
    launch(made.config, (), SilentReporter())
    first = json.loads((made.output / "tracking.json").read_text())
    # Killed after step 4 and before its checkpoint: steps 3 and 4 are done again.
    for path in (made.output / "checkpoint-4").iterdir():
        path.unlink()
    (made.output / "checkpoint-4").rmdir()
    made.set(max_train_steps=6)
    launch(made.config, (), SilentReporter())
    again = json.loads((made.output / "tracking.json").read_text())
    assert [first[name]["id"] for name in wanted] == [again[name]["id"] for name in wanted]

    metrics = made.metrics()
    rows = wandb_rows(made.output / "wandb")
    curves = tensorboard_curves(made.output / "tensorboard")
    for kind, lines in (("step", metrics.steps), ("validation", metrics.validations)):
        for name in scalars_of(kind, {key: value for key, value in lines[0].items() if key not in ("step", "paused")}):
            key = next(key for key in (name.split("/")[1], f"validation_{name.split('/')[1]}") if key in lines[0])
            expected = [(line["step"], line[key]) for line in lines]
            steps = [step for step, _ in expected]
            assert curves[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
            seen = [(row["step"], row[name]) for row in rows if name in row]
            assert [step for step, _ in seen] == steps, "no step twice"
            if key in ("loss", "learning_rate", "grad_norm", "validation_loss"):
                assert seen == expected
    assert "train/loss" in curves
    assert "train/sigma" not in curves

    picture = (made.output / "samples/step-000004/prompt-64x64-42.png").read_bytes()
    images = [(e.step, v.image) for e in tensorboard_events(made.output / "tensorboard") for v in e.summary.value
              if v.tag == "samples/prompt-64x64-42"]  # fmt: skip
    assert [step for step, _ in images] == [2, 4, 6]
    assert images[1][1].encoded_image_string == picture
    captions = [(row["step"], row[key]) for row in rows for key in row if key == "samples/prompt-64x64-42/caption"]
    assert captions == [(2, "a hut"), (4, "a hut"), (6, "a hut")]
    written = b"".join(path.read_bytes() for path in made.output.rglob("*") if path.is_file() and "wandb" in path.parts)
    written += b"".join(path.read_bytes() for path in (made.output / "tensorboard").iterdir())
    assert b"a hut" in written
    assert b"mirror.example" in written
    assert b"not-for-everyone" not in written


def test_a_tracker_that_can_t_write_is_given_up_and_said_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'simpletune[tensorboard]'")
    made = make_project(tmp_path / "a", report_to=["tensorboard"], max_train_steps=1)
    made.output.mkdir()
    (made.output / "tensorboard").write_text("in the way")
    notes = Notes()
    outcome = launch(made.config, (), notes)
    assert outcome is not None
    assert outcome.steps == 1
    said = [line for line in notes.lines if "tensorboard" in line]
    assert len(said) == 1
    assert "training goes on without it: FileExistsError" in said[0]


# --- what is checked before anything is loaded


def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_project(tmp_path / "a", report_to=["trackio", "wandb"])
    monkeypatch.setattr(rules_environment, "is_installed", lambda name: name != "trackio")
    with pytest.raises(EnvironmentNotReady) as caught:
        load(made.config)
    assert caught.value.exit_code == 3
    assert caught.value.hint == "pip install 'simpletune[trackio]'"
    assert '"report_to" wandb: there is no login for https://api.wandb.ai' in caught.value.message


@pytest.mark.parametrize(
    ("environment", "netrc", "saved", "ready"),
    [
        ({}, "", "", False),
        ({"WANDB_MODE": "offline"}, "", "", True),
        ({"WANDB_API_KEY": "k" * 40}, "", "", True),
        ({}, "machine api.wandb.ai login user password secret", "", True),
        ({}, "machine api.wandb.ai login user", "", False),
        ({"WANDB_BASE_URL": "https://own.example"}, "machine api.wandb.ai login user password secret", "", False),
        ({}, "machine own.example login user password s", "[default]\nbase_url = https://own.example\n", True),
        ({}, "", "[default]\nmode = offline\n", True),
        ({"WANDB_IDENTITY_TOKEN_FILE": "/t"}, "", "", True),
        ({}, "not a netrc", "no settings", False),
    ],
)
def test_where_a_login_of_wandb_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], netrc: str, saved: str, ready: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "wandb-config").mkdir()
    (tmp_path / "wandb-config/settings").write_text(saved)
    assert wandb_login().ready is ready


def test_without_a_tracker_no_tracker_is_imported() -> None:
    code = (
        "import simpletune.trainer.tracking.trackers, sys; "
        "assert not {'wandb', 'tensorboardX', 'trackio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- trackers that fail, hang, and start again


class Recorded:
    """A tracker that writes down what it is told."""

    where = "nowhere"

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def scalars(self, step: int, values: Any) -> None:
        self.told.append(step)

    def pictures(self, step: int, pictures: Any) -> None:
        self.told.append(("pictures", step))

    def finish(self, exit_code: int) -> None:
        self.told.append(("finish", exit_code))


def test_a_tracker_that_hangs_costs_no_step_and_ends_with_the_run() -> None:
    hanging, told = threading.Event(), []

    class Hanging(Recorded):
        def scalars(self, step: int, values: Any) -> None:
            hanging.wait(20)
            super().scalars(step, values)

    worker = Worker("slow", lambda: Hanging(told), waiting=5)
    began = time.perf_counter()
    for step in range(1000):
        worker.scalars(step, {})
    worker.finish(0, seconds=0.2)
    assert time.perf_counter() - began < 2
    news = worker.news()
    assert news[-2:] == [
        "slow did not finish within 0 s and is left behind",
        f"slow could not keep up: {news[-1].split()[5]} entries are missing there, not in metrics.jsonl",
    ]
    assert int(news[-1].split()[5]) >= 990
    assert sum("can't keep up" in line for line in news) == 1
    hanging.set()


def test_tokens_in_a_failure_are_not_shown() -> None:
    def opening() -> Any:
        raise SystemExit(f"bad key {TOKEN}\nmore")

    worker = Worker("it", opening)
    worker.wait_opened(5)
    worker.finish(0, 1)
    assert worker.news() == ["it failed, and training goes on without it: SystemExit: bad key [redacted]"]


def test_what_is_reported_again_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_project(tmp_path / "a", report_to=["tensorboard", "wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings, _ = load(made.config)
    made.output.mkdir()
    metrics = made.output / "metrics.jsonl"
    runs: list[tuple[str, Any, list[Any]]] = []

    def kind(name: str) -> Any:
        def opening(run: Any) -> Recorded:
            told: list[Any] = []
            runs.append((name, run, told))
            return Recorded(told)

        return opening

    monkeypatch.setattr(trackers, "TRACKERS", {name: kind(name) for name in settings.report_to})

    def started(resumed: int, steps: range, changed: Any = settings) -> dict[str, tuple[Any, list[Any]]]:
        runs.clear()
        with open_trackers(changed, metrics, resumed, SilentReporter()) as opened:
            for step in steps:
                opened.row("step", step, {"loss": 1.0})
            opened.pictures(steps[-1], [Picture("a", metrics, "a")])
        metrics.write_text("".join(json.dumps({"kind": "step", "step": n}) + "\n" for n in range(1, steps[-1] + 1)))
        return {name: (run, told) for name, run, told in runs}

    first = started(0, range(1, 7))
    assert first["wandb"][1] == [1, 2, 3, 4, 5, 6, ("pictures", 6), ("finish", 0)]
    assert first["tensorboard"][0].first_step == 0
    crashed = started(4, range(5, 9))
    assert crashed["wandb"][0].id == first["wandb"][0].id
    assert crashed["wandb"][1] == [7, 8, ("pictures", 8), ("finish", 0)], "it has 5 and 6 already"
    assert crashed["tensorboard"][1] == [5, 6, 7, 8, ("pictures", 8), ("finish", 0)], "it drops its own 5 and 6"
    assert crashed["tensorboard"][0].first_step == 5
    slower = replace(settings, learning_rate=0.001)
    other = started(8, range(9, 13), slower)
    assert other["wandb"][0].id == first["wandb"][0].id, "no step is taken again"
    same = started(10, range(11, 13), slower)
    assert same["wandb"][0].id == first["wandb"][0].id, "they are the same steps"
    different = started(10, range(11, 13), replace(slower, learning_rate=0.002))
    assert different["wandb"][0].name == "output-from-10"
    assert different["wandb"][1] == [11, 12, ("pictures", 12), ("finish", 0)]
    back = replace(settings, resume_from_checkpoint=str(made.output / "checkpoint-2"))
    chosen = started(2, range(3, 5), back)
    assert chosen["wandb"][0].id != first["wandb"][0].id, "another curve from there on"
    assert chosen["wandb"][0].name == "output-from-2"
    assert chosen["wandb"][1] == [3, 4, ("pictures", 4), ("finish", 0)]
    afresh = started(0, range(1, 3))
    assert afresh["wandb"][0].id not in (first["wandb"][0].id, chosen["wandb"][0].id)


def test_a_disk_that_takes_no_record_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = load(make_project(tmp_path / "a", report_to=["tensorboard"]).config)
    told: list[Any] = []
    monkeypatch.setattr(trackers, "TRACKERS", {"tensorboard": lambda run: Recorded(told)})
    notes = Notes()
    with open_trackers(settings, tmp_path / "metrics.jsonl", 0, notes) as opened:  # there is no output folder
        opened.pictures(1, [Picture("a", tmp_path, "a")])
    assert told == [("pictures", 1), ("finish", 0)]
    assert all("tracking.json can't be written (No such file or directory)" in line for line in notes.warnings)
    assert notes.warnings


def test_trackio_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is an extra, and wants another Pillow than the tested set")
    import trackio.sqlite_storage as storage

    made = project(tmp_path / "a", report_to=["trackio"])
    launch(made.config, (), SilentReporter())
    made.set(max_train_steps=6)
    launch(made.config, (), SilentReporter())
    record = json.loads((made.output / "tracking.json").read_text())["trackio"]
    rows = storage.SQLiteStorage.get_logs("simpletune", f"output-{record['id'][:6]}")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == made.losses()
    assert {row["samples/prompt-64x64-42"]["caption"] for row in rows if "samples/prompt-64x64-42" in row} == {"a hut"}
