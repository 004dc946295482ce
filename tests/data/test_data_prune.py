"""The cache commands tell needed entries from orphans, and remove nothing but orphans."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from data_helpers import colours
from fake_family import FakeFamily

from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.data.caches.cache import TensorCache
from simpletune.data.caches.encode import fill_latent_cache, fill_text_cache
from simpletune.data.caches.encode_text import captions_by_cache
from simpletune.data.caches.users import leave_note
from simpletune.data.preflight import preflight
from simpletune.progress import SilentReporter


class Located(FakeFamily):
    def locate(self, settings, reporter=None):
        return None


@pytest.fixture(autouse=True)
def family(monkeypatch):
    """The commands' family; nothing is asked of the hub."""
    made = Located()
    monkeypatch.setattr("simpletune.models.registry.get_family", lambda name: made)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made


@pytest.fixture
def project(save, folder, tmp_path):
    """Two pictures with captions, and a config that trains on them, encoded."""
    for name in ("a", "b"):
        save(f"{name}.png", colours(64, 64, 40 * ord(name)))
        (folder / f"{name}.txt").write_text(f"caption {name}")
    config = write_config(tmp_path / "one", folder, tmp_path)
    encode(config)
    return config


def write_config(place: Path, pictures: Path, caches: Path, **data) -> Path:
    place.mkdir()
    images = {"id": "a", "instance_data_dir": str(pictures), "caption_strategy": "textfile", "resolution": 64}
    images |= {"cache_dir_vae": str(caches / "vae"), **data}
    texts = {"id": "t", "dataset_type": "text_embeds", "default": True, "cache_dir": str(caches / "text")}
    (place / "multidatabackend.json").write_text(json.dumps([images, texts]))
    (place / "config.json").write_text(json.dumps({"model_flavour": "tiny", "device": "cpu"}))
    return place / "config.json"


def encode(config: Path) -> None:
    """What a run does before it trains."""
    settings, _ = load(config)
    looked, family, cpu = preflight(settings), FakeFamily(), torch.device("cpu")
    samples, more = [*looked.training, *looked.held_out], (family, None, settings, cpu, SilentReporter())
    folders = {entry.id: entry.cache_dir_vae for entry in settings.image_sets}
    fill_latent_cache(samples, looked.sources, folders, *more)
    for entry, captions in captions_by_cache(settings, samples).items():
        fill_text_cache(captions, entry.cache_dir, *more)


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.safetensors")}


def orphan(folder: Path, key: str = "ab" * 32) -> Path:
    TensorCache(folder).put(key, {"latents": torch.zeros(3)})
    return TensorCache(folder).path(key)


def test_list_says_what_is_needed_and_what_isnt(project, tmp_path, capsys):
    size = orphan(tmp_path / "vae").stat().st_size
    assert run(["cache", "list", str(project)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "vae") in lines
    assert "    needed by this config: 2 entries" in "\n".join(lines)
    assert f"    orphans: 1 entry, {size} bytes" in lines
    assert "    needed by this config: 3 entries" in "\n".join(lines)  # two captions and the empty one
    assert entries(tmp_path / "vae")


def test_prune_removes_orphans_and_nothing_else(project, tmp_path, capsys):
    needed = entries(tmp_path)
    lost = orphan(tmp_path / "vae")
    strange = {
        tmp_path / "vae" / "model.safetensors": b"mine",
        tmp_path / "vae" / "ab" / "notes.txt": b"mine",
        tmp_path / "vae" / "ab" / f"{'ab' * 31}cd.safetensors": b"an entry's name, but none of ours",
        tmp_path / "vae" / "abc" / f"{'ab' * 32}.safetensors": lost.read_bytes(),
    }
    for path, content in strange.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert "removed 1 file" in capsys.readouterr().out
    assert not lost.exists()
    assert {path: path.read_bytes() for path in strange} == strange
    assert entries(tmp_path) >= needed
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_what_changed_leaves_orphans(project, save, folder, tmp_path, capsys):
    save("b.png", colours(64, 64, 3))
    (folder / "a.txt").write_text("another caption")
    encode(project)
    assert (len(entries(tmp_path / "vae")), len(entries(tmp_path / "text"))) == (3, 4)
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert (len(entries(tmp_path / "vae")), len(entries(tmp_path / "text"))) == (2, 3)


def test_without_a_terminal_nothing_is_removed_unasked(project, tmp_path, capsys):
    lost = orphan(tmp_path / "vae")
    assert run(["cache", "prune", str(project)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert lost.exists()


@pytest.mark.parametrize(("answer", "kept"), [("n\n", True), ("\n", True), ("y\n", False)])
def test_on_a_terminal_it_asks(project, tmp_path, monkeypatch, answer, kept):
    lost = orphan(tmp_path / "vae")
    monkeypatch.setattr("simpletune.cli.cache._can_ask", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: answer.strip())
    assert run(["cache", "prune", str(project)]) == 0
    assert lost.exists() == kept


def test_another_config_keeps_what_its_last_run_needed(project, folder, tmp_path, capsys):
    other = write_config(tmp_path / "two", folder, tmp_path, resolution=32)
    encode(other)
    assert len(entries(tmp_path / "vae")) == 4
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    output = capsys.readouterr().out
    assert f"needed by {other}" in output
    assert len(entries(tmp_path / "vae")) == 4
    other.unlink()
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert len(entries(tmp_path / "vae")) == 2


def test_another_configs_unfinished_run_keeps_all(project, folder, tmp_path, capsys):
    lost = orphan(tmp_path / "vae")
    other = write_config(tmp_path / "two", folder, tmp_path)
    leave_note(tmp_path / "vae", "latents", other, [], complete=False)
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert "left alone" in capsys.readouterr().out
    assert lost.exists()


def test_a_note_that_cannot_be_read_keeps_all(project, tmp_path, capsys):
    lost = orphan(tmp_path / "vae")
    damaged = tmp_path / "vae" / "users" / f"latents-{'0' * 16}.json"
    damaged.write_text("{bad")
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    told = capsys.readouterr().out
    assert "a note of who uses it can't be read" in told
    assert str(damaged) in told
    assert lost.exists()


def test_what_killed_writers_left_goes_once_it_is_old(project, tmp_path):
    shelf = next(path for path in (tmp_path / "vae").iterdir() if len(path.name) == 2)
    name = f".{shelf.name * 32}.safetensors.x1y2_z.tmp.safetensors"
    old, new = shelf / name, shelf / name.replace("x1", "x2")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert run(["cache", "prune", str(project), "--yes"]) == 0
    assert not old.exists()
    assert new.exists()


def test_pictures_that_cant_be_found_keep_everything(project, folder, tmp_path, capsys):
    before = entries(tmp_path)
    folder.rename(folder.with_name("unmounted"))
    assert run(["cache", "prune", str(project), "--yes"]) == 2
    assert entries(tmp_path) == before


def test_the_users_pictures_stay_as_they_are(project, folder):
    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    before = state()
    run(["cache", "list", str(project)])
    run(["cache", "prune", str(project), "--yes"])
    assert state() == before
