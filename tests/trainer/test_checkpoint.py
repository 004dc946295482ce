"""Checkpoints: complete or absent, checked to the last byte, never lost to a newer one's failure."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from simpletune.errors import TrainingFailed
from simpletune.models.lora_file import read_adapter
from simpletune.results import run_folder
from simpletune.results.adapter_choice import adapter_in
from simpletune.trainer import checkpoint as subject
from simpletune.trainer import optimizers, retention

STATE = {"epoch": 2, "config_sha256": "ab", "data_sha256": "cd", "versions": {"torch": "2"}}


def save(folder, step, value=1.0, ema=True, total_limit=None, **more):
    adapter = {"layer.lora_A.weight": torch.full((2, 3), value), "layer.lora_B.weight": torch.zeros(3, 2)}
    shared = torch.arange(4.0)
    tensors = {"state.0.exp_avg": torch.full((2, 3), value + 1), "state.0.map": shared, "state.1.map": shared}
    made = subject.save_checkpoint(
        folder,
        step,
        adapter=adapter,
        adapter_metadata={"lora_alpha": "16"},
        optimizer=(tensors, {"optimizer": "AdamW", "state": {"0": {"step": 3}}}),
        ema={**adapter, "layer.lora_A.weight": torch.full((2, 3), value + 2)} if ema else None,
        state=STATE,
        **more,
    )
    if total_limit is not None:
        retention.prune(folder, total_limit, keep=made)
    return made


def steps(folder):
    return [step for step, _ in run_folder.list_checkpoints(folder)]


def resumable(folder):
    return [step for step, path in run_folder.list_checkpoints(folder) if run_folder.is_resumable(path)]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path, 7, value=0.1)
    loaded = subject.load_checkpoint(path)
    assert path.name == "checkpoint-7"
    assert loaded.step == 7
    assert torch.equal(loaded.adapter["layer.lora_A.weight"], torch.full((2, 3), 0.1))
    assert loaded.adapter_metadata == {"lora_alpha": "16"}
    assert torch.equal(loaded.optimizer_tensors["state.1.map"], torch.arange(4.0))
    assert loaded.optimizer_json == {"optimizer": "AdamW", "state": {"0": {"step": 3}}}
    assert torch.equal(loaded.ema["layer.lora_A.weight"], torch.full((2, 3), 2.1))
    assert loaded.state == STATE
    assert subject.load_checkpoint(save(tmp_path, 8, ema=False)).ema is None


def test_the_folder_holds_safetensors_and_json_alone_and_ordinary_modes(tmp_path):
    path = save(tmp_path, 1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]
    with safe_open(path / subject.ADAPTER_FILE, "pt") as file:
        assert file.metadata() == {"lora_alpha": "16"}


def test_an_optimizers_real_state_survives(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    state = optimizers.optimizer_state(optimizer)
    path = subject.save_checkpoint(
        tmp_path, 1, adapter={"w": weight}, adapter_metadata={}, optimizer=state, ema=None, state={}
    )
    loaded = subject.load_checkpoint(path)
    fresh = torch.optim.AdamW([weight], lr=0.1)
    optimizers.load_optimizer_state(fresh, loaded.optimizer_tensors, loaded.optimizer_json)
    assert torch.equal(fresh.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])
    assert torch.equal(fresh.state[weight]["step"], optimizer.state[weight]["step"])


FILES = [
    subject.ADAPTER_FILE,
    subject.EMA_FILE,
    subject.OPTIMIZER_FILE,
    subject.STATE_FILE,
    subject.MANIFEST_FILE,
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_latest_passes_over_a_damaged_checkpoint_and_says_so(tmp_path, name, damage):
    save(tmp_path, 5)
    path = save(tmp_path, 10) / name
    if damage == "flip":
        flip_a_bit(path)
        if name == subject.MANIFEST_FILE:
            path.write_text(path.read_text()[:-1].replace('"sha256": "', '"sha256": "0', 1))
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    warnings = []
    assert run_folder.latest(tmp_path, warnings.append) == tmp_path / "checkpoint-5"
    assert len(warnings) == 1
    assert "checkpoint-10 is damaged" in warnings[0]
    with pytest.raises(TrainingFailed, match="checkpoint-10 can't be used") as caught:
        subject.load_checkpoint(tmp_path / "checkpoint-10")
    assert "latest" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", '{"format": 1, "files": {}}', '{"format": 2, "files": {}}', "\x00", "null"])
def test_a_strange_manifest_is_a_damaged_checkpoint(tmp_path, text):
    path = save(tmp_path, 1)
    (path / subject.MANIFEST_FILE).write_text(text)
    assert len(run_folder.verify(path)) == 1


def test_a_manifest_can_not_reach_outside_its_folder(tmp_path):
    path = save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((path / subject.MANIFEST_FILE).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0"}
    (path / subject.MANIFEST_FILE).write_text(json.dumps(manifest))
    assert run_folder.verify(path) == ["secret is missing"]


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert run_folder.latest(tmp_path, pytest.fail) is None
    assert run_folder.latest(tmp_path / "absent", pytest.fail) is None
    assert run_folder.verify(tmp_path / "checkpoint-3") == ["there is no such folder"]


def test_the_oldest_go_and_the_order_is_by_number(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step, total_limit=2)
    assert resumable(tmp_path) == [10, 100]


def test_of_a_pruned_checkpoint_the_adapters_stay_and_nothing_can_be_resumed_from_it(tmp_path):
    for step in (9, 10):
        save(tmp_path, step, value=float(step), total_limit=1)
    left = tmp_path / "checkpoint-9"
    assert {file.name for file in left.iterdir()} == {subject.ADAPTER_FILE, subject.EMA_FILE, subject.MANIFEST_FILE}
    assert run_folder.verify(left) == []
    assert run_folder.holds_only_adapter(left)
    assert load_file(left / subject.ADAPTER_FILE)["layer.lora_A.weight"][0, 0] == 9.0
    with pytest.raises(TrainingFailed, match="checkpoint-9 holds only the adapter"):
        subject.load_checkpoint(left)
    shutil.rmtree(tmp_path / "checkpoint-10")
    assert run_folder.latest(tmp_path, pytest.fail) is None  # it isn't damaged, so nothing is said


def test_an_adapter_that_is_left_is_chosen_by_the_names_it_had(tmp_path, monkeypatch):
    for step in (9, 10):
        save(tmp_path, step, value=float(step), total_limit=1)
    left = tmp_path / "checkpoint-9"
    for wish in ("9", "checkpoint-9"):
        choice = adapter_in(tmp_path, wish, pytest.fail)
        assert (choice.path, choice.name, choice.steps) == (left / subject.ADAPTER_FILE, "step-000009", 9)
    assert adapter_in(tmp_path, str(left), pytest.fail).path == left / subject.ADAPTER_FILE
    averaged = adapter_in(tmp_path, left / subject.EMA_FILE, pytest.fail)
    assert (averaged.name, averaged.title) == ("step-000009-ema", "tuned, 9 steps, averaged")
    assert read_adapter(averaged.path)["layer"].a[0, 0] == 11.0
    assert adapter_in(tmp_path, "latest", pytest.fail).steps == 10
    shutil.rmtree(tmp_path / "checkpoint-10")
    assert adapter_in(tmp_path, "latest", pytest.fail).steps == 9


def test_an_adapter_that_is_left_is_checked_to_its_last_byte(tmp_path):
    for step in (9, 10):
        save(tmp_path, step, total_limit=1)
    flip_a_bit(tmp_path / "checkpoint-9" / subject.EMA_FILE)
    assert run_folder.verify(tmp_path / "checkpoint-9") == [
        f"{subject.EMA_FILE} does not have the SHA-256 it was saved with"
    ]


@pytest.mark.parametrize("calls", range(8))
def test_pruning_that_is_killed_leaves_the_whole_or_the_adapter(tmp_path, monkeypatch, calls):
    """Killed before each call that changes the folder, one after the other."""
    save(tmp_path, 1)
    left = calls

    def killed(real):
        def call(*given, **named):
            nonlocal left
            left -= 1
            if left < 0:
                raise SystemExit
            return real(*given, **named)

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, killed(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", killed(os.fsync))
    with contextlib.suppress(SystemExit):
        retention.keep_adapter(tmp_path / "checkpoint-1")
    monkeypatch.undo()
    path = tmp_path / "checkpoint-1"
    assert run_folder.verify(path) == []
    if not run_folder.holds_only_adapter(path):
        assert subject.load_checkpoint(path).step == 1
        return
    subject.remove_leftovers(tmp_path)
    assert sorted(file.name for file in path.iterdir()) == sorted([*run_folder.ADAPTER_FILES, subject.MANIFEST_FILE])
    assert run_folder.verify(path) == []


def test_a_checkpoint_whose_manifest_is_damaged_is_not_pruned_and_not_counted(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoint-1" / subject.MANIFEST_FILE).write_text("?")
    save(tmp_path, 3, total_limit=2)
    assert resumable(tmp_path) == [2, 3]
    assert len(list((tmp_path / "checkpoint-1").iterdir())) == 5


def test_the_hashes_are_of_what_was_meant_not_of_what_the_disk_kept(tmp_path, monkeypatch):
    """A disk that flips a bit while it writes is found out when the checkpoint is read."""
    real = safetensors.torch.save_file

    def flipping(tensors, path, metadata=None):
        real(tensors, path, metadata=metadata)
        flip_a_bit(path)

    monkeypatch.setattr(safetensors.torch, "save_file", flipping)
    path = save(tmp_path, 1)
    assert len(run_folder.verify(path)) == 3


def test_the_one_just_saved_is_never_pruned(tmp_path):
    save(tmp_path, 500)
    save(tmp_path, 20, total_limit=1)
    assert resumable(tmp_path) == [20]


def test_a_failed_save_leaves_the_old_ones_and_no_trace(tmp_path, monkeypatch):
    save(tmp_path, 1, total_limit=1)

    def disk_full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subject.files, "write_json", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, total_limit=1)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]
    assert run_folder.latest(tmp_path, pytest.fail) == tmp_path / "checkpoint-1"


def test_one_that_is_there_is_never_written_over(tmp_path):
    save(tmp_path, 3, value=1.0)
    with pytest.raises(FileExistsError, match=r"File exists: .*checkpoint-3"):
        save(tmp_path, 3, value=2.0)
    assert subject.load_checkpoint(tmp_path / "checkpoint-3").adapter["layer.lora_A.weight"][0, 0] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-3"]


def test_those_that_are_not_gone_on_from_are_set_aside_by_name(tmp_path):
    for _ in range(2):
        save(tmp_path, 3)
        save(tmp_path, 4)
        subject.set_aside_later(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"abandoned-{number}-checkpoint-{step}" for number in (1, 2) for step in (3, 4)
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, bad):
    save(tmp_path, 1, total_limit=1)
    with pytest.raises(TrainingFailed, match=r"after step 2 \(layer.lora_A.weight\)"):
        save(tmp_path, 2, value=bad, total_limit=1)
    assert steps(tmp_path) == [1]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".checkpoint-2.abc.tmp").mkdir()
    (tmp_path / ".checkpoint-1.removed").mkdir()
    assert steps(tmp_path) == [1]
    subject.remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]


SAVE_FOREVER = """
import sys, torch
from pathlib import Path
from simpletune.trainer.checkpoint import save_checkpoint
from simpletune.trainer.retention import prune
print("ready", flush=True)
folder = Path(sys.argv[1])
for step in range(1, 100000):
    made = save_checkpoint(folder, step, adapter={"w": torch.full((200, 1000), float(step))}, adapter_metadata={},
                           optimizer=({}, {}), ema=None, state={"n": step})
    prune(folder, 2, keep=made)
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_loses_at_most_the_save_under_way(tmp_path):
    """Three kills at different moments; what was announced as saved is there and intact."""
    for kill in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            for _ in range(2 + kill):
                acknowledged = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        newest = run_folder.latest(tmp_path, pytest.fail)
        loaded = subject.load_checkpoint(Path(newest))
        assert loaded.step >= acknowledged
        assert loaded.adapter["w"][0, 0] == loaded.step
        subject.remove_leftovers(tmp_path)
        for _, path in run_folder.list_checkpoints(tmp_path):
            shutil.rmtree(path)
