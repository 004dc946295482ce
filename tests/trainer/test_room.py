"""Room on the disks, asked before a run starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from project import Project
from resuming import train

from simpletune.config.load import load
from simpletune.data.preflight import preflight
from simpletune.errors import EnvironmentNotReady
from simpletune.trainer import room as subject

MANY = {"max_train_steps": 100, "checkpoint_step_interval": 10, "checkpoints_total_limit": 2}


def needed(project: Project) -> list[subject.Need]:
    settings, _ = load(project.config, ())
    return list(subject.needs(settings, preflight(settings)))


def check(project: Project, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = load(project.config, ())
    monkeypatch.setattr(subject, "disk_free", lambda folder: free)
    subject.check_disks(settings, preflight(settings))


def test_a_run_that_would_fill_the_disk_is_refused_with_what_it_needs(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(**MANY)
    total = sum(need.bytes for need in needed(one))
    check(one, total, monkeypatch)
    with pytest.raises(EnvironmentNotReady) as caught:
        check(one, total - 1, monkeypatch)
    assert caught.value.exit_code == 3
    for words in ("this run will write about", "of checkpoints in", "of encoded pictures in", "of encoded captions in"):
        assert words in caught.value.message
    assert "free 1 B or more, set a lower checkpoints_total_limit" in (caught.value.hint or "")


def test_a_start_asks_before_anything_is_encoded(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(**MANY)
    free = sum(need.bytes for need in needed(one)) - 1
    monkeypatch.setattr(subject, "disk_free", lambda folder: free)
    with pytest.raises(EnvironmentNotReady, match="this run will write about"):
        train(one)
    assert not list(one.folder.rglob("*.safetensors"))
    assert list(one.output.iterdir()) == []


def test_a_dry_run_tells_it_too(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    one = project(**MANY)
    free = sum(need.bytes for need in needed(one))
    monkeypatch.setattr(subject, "disk_free", lambda folder: free)
    assert not train(one, dry_run=True).has("would be refused")
    monkeypatch.setattr(subject, "disk_free", lambda folder: free - 1)
    said = train(one, dry_run=True)
    assert said.has("warning: a start would be refused: the disk has")
    assert said.has("of checkpoints in")


def test_what_is_there_already_needs_no_room(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    one = project(**MANY)
    found = {need.what: need for need in needed(one)}
    for what, folder in ((subject.CHECKPOINTS, "checkpoint-10"), (subject.LATENTS, "")):
        place = found[what].folder / folder
        place.mkdir(parents=True)
        (place / "file").write_bytes(bytes(found[what].bytes))
    check(one, found[subject.CAPTIONS].bytes, monkeypatch)
    with pytest.raises(EnvironmentNotReady, match="encoded captions") as caught:
        check(one, found[subject.CAPTIONS].bytes - 1, monkeypatch)
    assert "of checkpoints" not in caught.value.message


def test_each_disk_has_its_own_room(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    """The output on one disk, the caches on another."""
    one = project(**MANY)
    found = {need.what: need for need in needed(one)}
    monkeypatch.setattr(subject, "_disk_of", lambda folder: folder.name == "output")
    room = {True: found[subject.CHECKPOINTS].bytes, False: 1 << 40}
    settings, _ = load(one.config, ())
    monkeypatch.setattr(subject, "disk_free", lambda folder: room[folder.name == "output"])
    subject.check_disks(settings, preflight(settings))
    room[True] -= 1
    with pytest.raises(EnvironmentNotReady, match="of checkpoints in"):
        subject.check_disks(settings, preflight(settings))


def test_more_checkpoints_than_are_kept_whole_leave_their_adapters(project: Callable[..., Project]) -> None:
    one = project(**MANY)
    few = next(need.bytes for need in needed(one) if need.what == subject.CHECKPOINTS)
    more = next(need.bytes for need in needed(one.set(max_train_steps=200)) if need.what == subject.CHECKPOINTS)
    assert few < more < 2 * few


def test_where_the_system_says_nothing_nothing_is_refused(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "disk_free", lambda folder: None)
    settings, _ = load(project(**MANY).config, ())
    subject.check_disks(replace(settings, output_dir=Path("/nowhere/at/all")), preflight(settings))
