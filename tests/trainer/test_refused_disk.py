"""A disk that takes no file, or has lost some, in each phase: what is saved stays, a sentence says so, and the same
command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import Project

from simpletune import files
from simpletune.cli.main import run as command
from simpletune.errors import DataError, EnvironmentNotReady, TrainingFailed
from simpletune.models.sd3 import SD3
from simpletune.progress import SilentReporter
from simpletune.results.run_folder import LOCK_FILE
from simpletune.trainer.launch import launch
from simpletune.trainer.metrics import MetricsWriter, read_metrics
from simpletune.trainer.run import Outcome
from simpletune.trainer.session import Session

Make = Callable[..., Project]
FULL = errno.ENOSPC
FAULT = pytest.mark.fault


def train(made: Project, *overrides: str) -> Outcome:
    outcome = launch(made.config, overrides, SilentReporter())
    assert outcome is not None
    return outcome


def refusing(patch: pytest.MonkeyPatch, part: str, number: int = FULL) -> None:
    """No file whose path holds `part` can be written by the package's writer."""
    write = files.write_with

    def refused(path: Path, fill: Callable[[Path], None], mode: int | None = None) -> None:
        if part in str(path):
            raise OSError(number, os.strerror(number), str(path))
        write(path, fill, mode)

    patch.setattr(files, "write_with", refused)


@pytest.mark.parametrize(
    ("part", "number", "said"),
    [
        ("cache/text", errno.EDQUOT, "a cache entry can't be written: Disk quota exceeded"),
        pytest.param("cache/vae", errno.EROFS, "a cache entry can't be written: Read-only file", marks=FAULT),
        pytest.param("run.json", FULL, "run.json: No space left on device", marks=FAULT),
    ],
)
def test_before_training(project: Make, capsys: pytest.CaptureFixture[str], part: str, number: int, said: str) -> None:
    made = project(max_train_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        refusing(patch, part, number)
        assert command(["train", str(made.config), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (made.output / LOCK_FILE).exists()
    assert not list(made.folder.rglob("*.tmp*"))


@pytest.mark.fault
def test_samples_that_cant_be_written_stop_no_training(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the results, when it is the last step's: they are written by the next start."""
    made = project(max_train_steps=3, validation_prompt="a red ball", validation_step_interval=2)
    with monkeypatch.context() as patch:
        refusing(patch, "output/samples")
        with pytest.raises(TrainingFailed, match=r"the results can't be written: .*prompt-64x64-42.png") as caught:
            train(made)
    assert "all 3 steps are saved" in (caught.value.hint or "")
    assert (made.output / "checkpoint-3").is_dir()
    assert (made.output / "pytorch_lora_weights.safetensors").is_file()
    assert train(made).trained == 0
    assert (made.output / "gallery.png").is_file()


@pytest.mark.fault
def test_results_that_cant_be_written(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(max_train_steps=2)
    with monkeypatch.context() as patch:
        refusing(patch, "output/pytorch_lora_weights", errno.EIO)
        with pytest.raises(
            TrainingFailed, match=r"the results can't be written: .*weights.safetensors: Input/output error"
        ):
            train(made)
    assert (made.output / "checkpoint-2").is_dir()
    train(made)
    assert (made.output / "pytorch_lora_weights.safetensors").is_file()


class Full:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(FULL, os.strerror(FULL))
        written = self.file.write(bytes(data[: self.room]))
        self.room -= written
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_lines_wait_for_room_and_none_is_torn(tmp_path: Path) -> None:
    path, said = tmp_path / "metrics.jsonl", []
    writer = MetricsWriter(path, warn=said.append)
    full = writer._file = Full(writer._file, 50)  # type: ignore[assignment]
    for step in (1, 2, 3):
        writer.write_step(step, {"loss": 0.5, "epoch": 0})
    assert len(said) == 1, "told once"
    assert "No space left on device" in said[0]
    with pytest.raises(TrainingFailed, match=r"metrics\.jsonl can't be written: No space left"):
        writer.flush()  # a checkpoint must not be newer than its lines
    full.room = 10**6
    writer.write_step(4, {"loss": 0.5, "epoch": 0})
    writer.flush()
    writer.close()
    assert [line["step"] for line in read_metrics(path).steps] == [1, 2, 3, 4]
    assert path.read_text().count("\n") == 4


@pytest.mark.fault
def test_a_data_set_that_is_gone_in_training_ends_it_saved(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache and its pictures: with one of them left the other is made again."""
    made = project(max_train_steps=40, lr_scheduler="constant")
    advance = Session.advance

    def pulled(self: Session, batch: Any) -> Any:
        if self.step == 1:
            shutil.rmtree(made.folder / "cache/vae")
            (made.folder / "pictures").rename(made.folder / "unplugged")
        return advance(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "advance", pulled)
        with pytest.raises(
            DataError, match="a cache entry is damaged or gone, and its picture can't be read"
        ) as caught:
            train(made)
    done = len(made.losses())
    assert f"stopped after step {done}; the state is saved" in caught.value.message
    assert (made.output / f"checkpoint-{done}").is_dir()
    (made.folder / "unplugged").rename(made.folder / "pictures")
    assert train(made, f"max_train_steps={done + 1}").trained == 1


@pytest.mark.fault
def test_pictures_that_are_gone_while_encoding(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(max_train_steps=1)
    load = SD3.load_text_encoders

    def pulled(self: SD3, *arguments: Any, **keys: Any) -> Any:
        (made.folder / "pictures").rename(made.folder / "unplugged")
        return load(self, *arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(SD3, "load_text_encoders", pulled)
        with pytest.raises(DataError, match=r"balls.*pictures can't be read") as caught:
            train(made)
    assert "No such file" in (caught.value.hint or "")
    (made.folder / "unplugged").rename(made.folder / "pictures")
    train(made)


def test_an_output_folder_that_cant_be_written_to(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(max_train_steps=1)
    made.output.mkdir()
    opened = Path.open

    def refused(self: Path, *arguments: Any, **keys: Any) -> Any:
        if self.name == LOCK_FILE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **keys)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(EnvironmentNotReady, match="can't be written to: permission denied") as caught:
        train(made)
    assert caught.value.hint == "let this user write there, or name another output_dir"
