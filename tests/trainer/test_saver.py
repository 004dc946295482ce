"""Checkpoints written beside the training: what was there when it paused, whole before the end, failures in words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import safetensors.torch
import torch
from project import Project
from safetensors import SafetensorError

from simpletune import files
from simpletune.errors import Interrupted, TrainingFailed
from simpletune.models.lora_file import read_adapter
from simpletune.progress import SilentReporter
from simpletune.results import run_folder
from simpletune.trainer import saver as subject
from simpletune.trainer.checkpoint import load_checkpoint
from simpletune.trainer.launch import launch
from simpletune.trainer.log import StepLog
from simpletune.trainer.metrics import read_metrics
from simpletune.trainer.saver import Saver
from simpletune.trainer.snapshot import Contents, Snapshots

CPU = torch.device("cpu")


def contents(step: int, value: float = 1.0, numbers: int = 6) -> Contents:
    weight = torch.full((numbers,), value)
    shared = torch.arange(4.0)
    return Contents(
        step=step,
        adapter={"a": weight, "b": torch.full((2, 3), value, dtype=torch.bfloat16).t()},
        metadata={"alpha": "1"},
        optimizer_tensors={"state.0.step": torch.tensor(float(step)), "state.0.map": shared, "state.1.map": shared},
        optimizer_json={"optimizer": "AdamW"},
        ema={"a": weight + 1, "b": torch.zeros(2, 3)},
        state={"n": step},
    )


def saver(folder: Path, limit: int = 3, **more: object) -> Saver:
    return Saver(folder, limit, CPU, pytest.fail, **more)  # type: ignore[arg-type]


def save(one: Saver, of: Contents) -> None:
    one.take(of)
    one.write()


def train(one: Saver, step: int, ends: Exception, before: Callable[[], None] = lambda: None) -> None:
    """A training that has begun to save when an error ends it."""
    with one:
        one.take(contents(step))
        one.write(before)
        raise ends


def resumable(folder: Path) -> list[int]:
    return [step for step, path in run_folder.list_checkpoints(folder) if run_folder.is_resumable(path)]


class Gate:
    """Holds the writer up until it is opened."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


def test_what_is_saved_is_what_was_there_when_training_paused(tmp_path: Path) -> None:
    one, of, gate = saver(tmp_path), contents(5), Gate()
    one.take(of)
    one.write(gate)
    assert gate.reached.wait(10)
    of.adapter["a"].fill_(7.0)  # training goes on meanwhile
    of.optimizer_tensors["state.0.step"].fill_(6.0)
    assert run_folder.list_checkpoints(tmp_path) == []
    assert one.saved is None
    gate.open()
    one.wait()
    loaded = load_checkpoint(tmp_path / "checkpoint-5")
    assert one.saved == 5
    assert torch.equal(loaded.adapter["a"], torch.ones(6))
    assert torch.equal(loaded.adapter["b"], torch.ones(3, 2, dtype=torch.bfloat16))
    assert torch.equal(loaded.ema["a"], torch.full((6,), 2.0))
    assert loaded.optimizer_tensors["state.0.step"] == 5
    assert torch.equal(loaded.optimizer_tensors["state.1.map"], torch.arange(4.0))
    assert (loaded.adapter_metadata, loaded.state) == ({"alpha": "1"}, {"n": 5})


def test_the_next_one_waits_for_the_last_and_the_memory_is_used_again(tmp_path: Path) -> None:
    one, gate = saver(tmp_path), Gate()
    one.take(contents(1, 1.0))
    one.write(gate)
    threading.Timer(0.05, gate.open).start()
    save(one, contents(2, 2.0))
    assert run_folder.verify(tmp_path / "checkpoint-1") == []
    one.wait()
    values = [load_checkpoint(tmp_path / f"checkpoint-{step}").adapter["a"][0].item() for step in (1, 2)]
    assert values == [1.0, 2.0]


def test_memory_is_taken_once_and_grows_when_there_is_more(tmp_path: Path) -> None:
    snapshots = Snapshots(CPU)
    snapshots.make_room(contents(1))
    first = snapshots.take(contents(1)).adapter["a"].data_ptr()
    assert snapshots.take(contents(2)).adapter["a"].data_ptr() == first
    assert torch.equal(snapshots.take(contents(3, 5.0, 10_000)).adapter["a"], torch.full((10_000,), 5.0))


def test_a_run_does_not_end_before_its_checkpoint_is_whole(tmp_path: Path) -> None:
    gate = Gate()
    threading.Timer(0.1, gate.open).start()
    with pytest.raises(Interrupted):
        train(saver(tmp_path), 1, Interrupted("stopped"), gate)
    assert run_folder.verify(tmp_path / "checkpoint-1") == []


def test_a_pause_is_in_the_line_of_the_next_step(tmp_path: Path) -> None:
    log = StepLog(tmp_path, CPU, MagicMock(), pytest.fail, writes=True, loss_is_scaled=False)
    log.open(0)
    numbers = MagicMock(loss=torch.ones(()), grad_norm=torch.ones(()), sigma=torch.ones(1), sample_loss=torch.ones(1))
    batch = MagicMock(epoch=0, sample_count=1, waited=0.0, micro_batches=())
    log.push(1, batch, 0.1, numbers)
    time.sleep(0.02)
    log.restart_clock()
    log.push(2, batch, 0.1, numbers)
    log.push(3, batch, 0.1, numbers)
    log.close()
    paused = [line.get("paused") for line in read_metrics(tmp_path / "metrics.jsonl").steps]
    assert paused[0] is None
    assert paused[1] > 0.02
    assert paused[2] is None


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failure_is_the_trainings_own_at_its_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = saver(tmp_path)
    save(one, contents(1))
    one.wait()
    monkeypatch.setattr(files, "write_json", full)
    save(one, contents(2))
    one._join()
    with pytest.raises(TrainingFailed, match=r"checkpoint-2 could not be saved in .*: the disk is full") as caught:
        one.check()
    assert "the run continues from step 1" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    one.check()  # said once


def test_a_failure_at_a_stop_takes_the_place_of_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(TrainingFailed, match="could not be saved") as caught:
        train(saver(tmp_path), 2, Interrupted("stopped; the state is saved"))
    assert "nothing was saved so far" in (caught.value.hint or "")


def test_of_two_failures_the_first_ends_the_run_and_the_other_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "write_json", full)
    told: list[str] = []
    with pytest.raises(TrainingFailed, match="NaN"):
        train(Saver(tmp_path, 1, CPU, told.append), 2, TrainingFailed("NaN"))
    assert "could not be saved" in told[0]


def test_a_mistake_of_ours_in_the_thread_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "write_checkpoint", lambda *_: 1 / 0)
    one = saver(tmp_path)
    save(one, contents(1))
    with pytest.raises(ZeroDivisionError):
        one.wait()


def test_a_mistake_of_ours_after_the_checkpoint_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject.retention, "prune", MagicMock(side_effect=ValueError("a bug")))
    save(one := saver(tmp_path), contents(1))
    with pytest.raises(ValueError, match="a bug"):
        one.wait()
    assert one.saved == 1


@pytest.mark.parametrize("what", ["adapter", "ema", "optimizer_tensors"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_never_written(tmp_path: Path, what: str, bad: float) -> None:
    one, of = saver(tmp_path), contents(1)
    next(iter(getattr(of, what).values())).fill_(bad)
    save(one, of)
    with pytest.raises(TrainingFailed, match="holds NaN or infinity after step 1"):
        one.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(one := saver(tmp_path), contents(1))
    one.wait()
    need = subject.bytes_on_disk(contents(2))
    monkeypatch.setattr(subject, "disk_free", lambda folder: need - 1)
    monkeypatch.setattr(subject.checkpoint, "save_checkpoint", pytest.fail)
    save(one, contents(2))
    with pytest.raises(TrainingFailed, match=r"checkpoint-2 takes 1\.0 MiB, and the disk of .* has 1\.0 MiB") as caught:
        one.wait()
    assert "free 1 B or more" in (caught.value.hint or "")
    assert "continues from step 1" in (caught.value.hint or "")


def test_what_a_checkpoint_takes_is_known_from_the_state(tmp_path: Path) -> None:
    of = contents(1, numbers=100_000)
    save(one := saver(tmp_path), of)
    one.wait()
    taken = sum(file.stat().st_size for file in (tmp_path / "checkpoint-1").iterdir())
    assert taken <= subject.bytes_on_disk(of) <= taken + (1 << 20) + 4096


ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EIO: "the disk reports an error",
}


@pytest.mark.parametrize("call", ["mkdir", "tensors", "fsync", "replace", "chmod"])
@pytest.mark.parametrize("number", list(ERRORS), ids=errno.errorcode.get)
def test_whatever_the_disk_refuses_the_old_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    save(one := saver(tmp_path, limit=1), contents(1))
    one.wait()

    def refuse(*_: object, **__: object) -> None:
        if call == "tensors":
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        raise OSError(number, os.strerror(number))

    place = {"tensors": (safetensors.torch, "save_file"), "fsync": (os, "fsync")}
    monkeypatch.setattr(*place.get(call, (Path, call)), refuse)
    save(one, contents(2))
    with pytest.raises(TrainingFailed, match=rf"checkpoint-2 could not be saved in .*: {ERRORS[number]}") as caught:
        one.wait()
    monkeypatch.undo()
    assert "the run continues from step 1, whose checkpoint is intact" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert run_folder.verify(tmp_path / "checkpoint-1") == []
    assert run_folder.is_resumable(tmp_path / "checkpoint-1")


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_limit_of_file_sizes_is_named(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    try:
        with pytest.raises(TrainingFailed, match="the system allows no file of that size"):
            subject.write_checkpoint(tmp_path, contents(1, numbers=1 << 18), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`; the test is skipped where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 3 << 20):
        subject.write_checkpoint(disk, contents(1, numbers=1 << 16), None)
        with pytest.raises(TrainingFailed, match="it was not begun"):
            subject.write_checkpoint(disk, contents(2, numbers=3 << 17), 1)
        monkeypatch.setattr(subject, "check_room", lambda *_: None)  # another program takes the room meanwhile
        with pytest.raises(TrainingFailed, match="the disk is full"):
            subject.write_checkpoint(disk, contents(2, numbers=3 << 17), 1)
        assert [path.name for path in disk.iterdir()] == ["checkpoint-1"]
        assert run_folder.verify(disk / "checkpoint-1") == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such mode there")
def test_a_folder_that_may_not_be_written_to() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            with pytest.raises(TrainingFailed, match="permission denied"):
                subject.write_checkpoint(folder, contents(1), None)
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert list(folder.iterdir()) == []


def test_older_checkpoints_are_pruned_after_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = saver(tmp_path, limit=2)
    there: list[list[int]] = []
    real = subject.retention.prune

    def watched(*given: object, **named: object) -> object:
        there.append(resumable(tmp_path))
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(subject.retention, "prune", watched)
    for step in (1, 2, 3, 4):
        save(one, contents(step))
    one.wait()
    assert there == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]
    assert resumable(tmp_path) == [3, 4]
    assert [step for step, _ in run_folder.list_checkpoints(tmp_path)] == [1, 2, 3, 4]


def test_a_run_ends_at_the_step_after_a_save_that_failed_and_goes_on_from_the_one_before(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(max_train_steps=6, checkpoint_step_interval=2, checkpoints_total_limit=1, use_ema=True)
    real, write = subject.write_checkpoint, Saver.write

    def at_once(self: Saver, before: Callable[[], None]) -> None:
        write(self, before)
        self._join()

    def refusing(folder: Path, of: Contents, *more: object) -> Path:
        if of.step == 4:
            raise TrainingFailed("no room", "make some")
        return real(folder, of, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(subject, "write_checkpoint", refusing)
    monkeypatch.setattr(Saver, "write", at_once)
    with pytest.raises(TrainingFailed, match="no room"):
        launch(one.config, (), SilentReporter())
    assert resumable(one.output) == [2]
    assert len(one.losses()) == 4
    monkeypatch.undo()
    outcome = launch(one.config, (), SilentReporter())
    assert outcome is not None
    assert outcome.trained == 4
    assert resumable(one.output) == [6]
    for step in (2, 4):
        left = one.output / f"checkpoint-{step}"
        assert run_folder.holds_only_adapter(left)
        assert read_adapter(left / run_folder.EMA_FILE).keys() == read_adapter(left).keys()
    state = json.loads((one.output / "checkpoint-6" / "state.json").read_text())["run"]
    assert len(state["settings_sha256"]) == len(state["data"]) == 64


def test_what_cant_be_pruned_is_told_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    one = Saver(tmp_path, 1, CPU, told.append)
    save(one, contents(1))
    one.wait()
    monkeypatch.setattr(subject.retention, "keep_adapter", full)
    save(one, contents(2))
    one.wait()
    assert resumable(tmp_path) == [1, 2]
    assert told == ["older checkpoints than checkpoints_total_limit asks for are still there: No space left on device"]
