"""`simpletune data`: every exclusion with its reason, buckets, duplicates, tokens, JSON, and the page."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time

import numpy as np
import pytest
import torch
from page_checks import faults
from PIL import Image

from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.data.caches.cache import TensorCache
from simpletune.data.index import Index, index_path
from simpletune.data.sources.local import Folder


@pytest.fixture
def project(tmp_path):
    """Eight pictures, one of them twice and one nearly so, and three that can't be used."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        size = (96, 64) if number % 2 else (64, 64)
        coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((size[0] * 4, size[1] * 4), Image.Resampling.BICUBIC)
        picture.save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(
            f"picture {number} <b>&" + " of many words" * (60 if number == 5 else 0)
        )
        if number == 0:
            picture.resize((200, 200)).save(pictures / "smaller.png")
            (pictures / "smaller.txt").write_text("smaller")
    (pictures / "copy.png").write_bytes((pictures / "1.png").read_bytes())
    (pictures / "copy.txt").write_text("copy")
    (pictures / "empty.png").touch()
    (pictures / "web.jpg").write_text("<html>")
    (pictures / "mute <i>.png").write_bytes((pictures / "2.png").read_bytes())
    config = {"model_flavour": "tiny", "resolution": 64, "train_batch_size": 4, "max_train_steps": 6}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_unreadable_share": 0.5}))
    entries = [{"id": "set", "instance_data_dir": "pictures", "cache_dir_vae": "cache/vae", "crop": True}]
    (tmp_path / "multidatabackend.json").write_text(json.dumps(entries))
    return tmp_path


def test_the_report_names_every_picture_and_reason(project, capsys):
    pytest.importorskip("imagehash")
    assert run(["data", str(project / "config.json")]) == 0
    text = capsys.readouterr().out
    assert "11 pictures found, 8 used, 3 excluded" in text
    for line in (
        "    empty.png: there is nothing in it",
        "    web.jpg: its content is a web page",
        "    mute <i>.png: no cap",
    ):
        assert line in text
    assert re.search(r"  64 x 64 +8 +2 +4 +\d+% +0\n", text)
    assert "  1.png = copy.png\n" in text
    assert "  0.png = smaller.png\n" in text
    assert re.search(r"CLIP: .*1 of 8 captions is longer than its 32 tokens", text)
    assert "the run: 6 steps, 3 epochs" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_json_holds_everything(project, capsys):
    assert run(["data", str(project / "config.json"), "--json", "--no-duplicates"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["data_sets"]
    assert {entry["name"] for entry in found["excluded"]} == {"empty.png", "web.jpg", "mute <i>.png"}
    assert (found["found"], found["used"]) == (11, 8)
    assert told["duplicates"]["same_file"] == [[["set", "1.png"], ["set", "copy.png"]]]
    assert told["duplicates"]["look_alike"] is None
    assert told["buckets"][0]["pictures"] == 8
    assert sum(size["pictures"] for size in told["sizes"]) == 8


def test_the_page_is_whole_and_escaped(project, capsys):
    page = project / "out.html"
    assert run(["data", str(project / "config.json"), "--html", str(page), "--no-duplicates"]) == 0
    text = page.read_text()
    assert faults(text) == []
    assert text.count("<figure>") == 8 + 2
    assert text.count("data:image/jpeg;base64,") == 8 + 2
    assert "mute &lt;i&gt;.png" in text
    assert "picture 3 &lt;b&gt;&amp;" in text
    assert "<b>&" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    left, width = re.search(r'class="cut" style="left:([\d.]+)%;top:[\d.]+%;width:([\d.]+)%', text).groups()
    assert 0 <= float(left) <= 100 - float(width)


def test_pictures_that_cannot_be_trained_on_are_told_and_exit_2(project, capsys):
    for path in (project / "pictures").glob("*.txt"):
        path.unlink()
    assert run(["data", str(project / "config.json")]) == 2
    told = capsys.readouterr().out
    assert "nothing to train on" in told
    assert "none of the 11 pictures" in told


def test_an_index_spares_the_second_look(project, capsys, monkeypatch):
    now = time.time_ns  # files as new as these aren't trusted yet
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)
    assert run(["data", str(project / "config.json"), "--no-duplicates"]) == 0
    first = capsys.readouterr().out
    assert list((project / "cache" / "vae").glob("index-*"))
    assert run(["data", str(project / "config.json"), "--no-duplicates"]) == 0
    assert capsys.readouterr().out == first


def test_verify_finds_bytes_that_changed_behind_their_times_and_damaged_entries(project, capsys, monkeypatch):
    picture, command = (
        project / "pictures" / "3.png",
        ["data", str(project / "config.json"), "--no-duplicates", "--verify"],
    )
    image_set = load(project / "config.json")[0].image_sets[0]
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)
    assert run(command) == 0
    assert "verified: 8 pictures hashed, 0 cache entries read\n  all as it was noted" in capsys.readouterr().out
    index = Index.load(index_path(image_set))
    stamp = Folder(str(picture.parent)).stamp("3.png")
    assert index.digest("3.png", stamp) == hashlib.sha256(picture.read_bytes()).hexdigest()
    index.note_digest("3.png", stamp, "0" * 64)  # as if other bytes had been there, with the same times
    index.save(index_path(image_set))
    TensorCache(image_set.cache_dir_vae).put("ab" * 32, {"latents": torch.ones(3)})
    entry = next(image_set.cache_dir_vae.rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "1 changed behind their times and size; encoded again: 3.png" in told
    assert "8 pictures hashed, 1 cache entries read" in told
    assert f"damaged cache entries, made again by the run that needs them:\n    {entry}" in told
    assert Index.load(index_path(image_set)).digest("3.png", stamp) == hashlib.sha256(picture.read_bytes()).hexdigest()


def test_a_page_that_cannot_be_written_is_an_error_for_people(project, capsys):
    assert run(["data", str(project / "config.json"), "--no-duplicates", "--html", str(project / "no" / "x.html")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_copies_are_told_with_their_sets_and_a_shared_file_is_none(project, capsys):
    for number in range(8):
        (project / "pictures" / f"again-{number}.png").write_bytes((project / "pictures" / "1.png").read_bytes())
        (project / "pictures" / f"again-{number}.txt").write_text("again")
    (project / "other").mkdir()
    (project / "other" / "3.png").write_bytes((project / "pictures" / "3.png").read_bytes())
    entries = json.loads((project / "multidatabackend.json").read_text())
    named = {**entries[0], "id": "names", "caption_strategy": "filename", "cache_dir_vae": "cache/{id}"}
    entries += [named, {**named, "id": "other", "instance_data_dir": "other"}]
    (project / "multidatabackend.json").write_text(json.dumps(entries))
    command = ["data", str(project / "config.json"), "--no-duplicates"]
    assert run(command) == 0
    text = " ".join(line.strip() for line in capsys.readouterr().out.splitlines())
    assert "the same file more than once: 3 groups" in text
    assert "= names: 3.png" not in text
    assert "names: 3.png = other: 3.png" in text or "other: 3.png = set: 3.png" in text
    assert "names: again-3.png = names: again-4.png and 4 more (--all names them)" in text
    assert run([*command, "--html", str(project / "page.html")]) == 0
    assert "the same file, and 2 more" in (project / "page.html").read_text()


def test_verified_is_in_the_json(project, capsys):
    assert run(["data", str(project / "config.json"), "--no-duplicates", "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["verified"]
    assert told == {"pictures": 8, "changed": [], "entries": 0, "damaged": []}


def test_a_full_disk_is_no_reason_to_say_nothing(project, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Index, "save", full)
    assert run(["data", str(project / "config.json"), "--no-duplicates"]) == 0
    told = capsys.readouterr()
    assert "8 used" in told.out
    assert "No space left on device" in told.err
