"""The page about a run: whole by itself, safe whatever the run's folder holds, and readable by everyone."""

from __future__ import annotations

import ast
import html
import json
import math
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from made_run import make_run, painting
from page_checks import Outline, colours, contrast, faults

from simpletune.errors import UsageError
from simpletune.results.pictures import save_picture
from simpletune.results.report import embed
from simpletune.results.report.comparison import comparison
from simpletune.results.report.embed import Embedder
from simpletune.results.report.measures import MeasureGroup, MeasureRow, Measures, Pair, Value
from simpletune.results.report.page import page
from simpletune.results.report.run import State, labels, read
from simpletune.results.report.samples import albums
from simpletune.results.report.usage import diffusers_code
from simpletune.results.report.write import Page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "project")
    described = (made / "run.json").read_text().replace(str(made.parent), str(tmp_path / "project"))
    (tmp_path / "project" / "output" / "run.json").write_text(described)
    return tmp_path / "project" / "output"


def shown(folder: Path, **more) -> str:
    return page(read(folder), Embedder(), **more)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def words(text: str) -> str:
    """The text of a page, its elements apart."""
    body = next(parts for tag, _, parts in Outline(text).elements if tag == "body")
    return " ".join(" ".join(body).split())


def test_the_page_has_every_part_and_needs_nothing_else(run):
    text = shown(run)
    assert faults(text) == []
    titles = [title for _, title in Outline(text).all("h2")]
    assert titles == ["Base against fine-tuned", "Samples over the steps", "Plots", "Metrics", "Data sets", "Settings",
                      "How to use the adapter"]  # fmt: skip
    assert "Finished after 60 steps." in text
    assert len(Outline(text).all("img")) == 2 * 2 + 2 * 4 + 3
    plots = [title for _, title in Outline(text).all("h3")]
    for title in ("Loss", "Loss by noise level, smoothed", "Learning rate", "Gradient norm before clipping",
                  "Throughput samples/s", "Memory in use, peak GiB", "Sampled noise levels (sigma)"):  # fmt: skip
        assert title in plots
    assert "least 0.4941 at step 60" in words(text)
    assert "max_sequence_length=154" in text


@pytest.mark.parametrize("place", ["prompt", "caption", "file", "key", "value", "set", "version", "folder"])
def test_whatever_comes_from_outside_is_text(run, place, tmp_path):
    bad = f"{EVIL} {TOKEN}"
    described, data = json.loads((run / "run.json").read_text()), json.loads((run / "data.json").read_text())
    if place == "prompt":
        described["validation_prompts"] = {"prompt0": bad}
        about = {"prompt": bad, "seed": EVIL, "size": EVIL}
        save_picture(run / "samples" / "base" / "prompt0-64x64-42.png", painting(np.random.default_rng(0), 64), about)
    elif place == "caption":
        data["trained"][0]["captions"] = [bad]
    elif place == "file":
        (tmp_path / "project" / "pictures" / "000.jpg").rename(tmp_path / "project" / "pictures" / "<b>x&.jpg")
        data["trained"][0]["name"] = "<b>x&.jpg"
        data["trained"][1]["name"] = "../\ud800" + bad
    elif place == "key":
        described["config"][bad] = {"value": bad, "origin": bad}
    elif place == "value":
        described["config"]["lora_rank"]["value"] = {bad: [bad, None]}
        described["config"]["train_batch_size"]["value"] = bad
    elif place == "set":
        described["datasets"][0]["id"]["value"] = bad
        data["data_sets"] = {bad: {"role": bad}}
    elif place == "version":
        described["versions"], described["device"] = {bad: bad}, bad
    else:
        run = run.rename(run.parent / "<i>&run")
    (run / "run.json").write_text(json.dumps(described))
    (run / "data.json").write_text(json.dumps(data))
    text = shown(run)
    text.encode("utf-8")
    assert faults(text) == []
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert TOKEN not in html.unescape(text)
    assert "<b>x" not in text
    assert "<i>&" not in text


ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("missing", ["samples", "run.json", "data.json", "metrics.jsonl", ADAPTER])
def test_what_is_missing_is_said(run, missing):
    if (run / missing).is_dir():
        shutil.rmtree(run / missing)
    else:
        (run / missing).unlink()
    text = shown(run)
    assert faults(text) == []
    said = {
        "samples": "This run has no sample pictures yet.",
        "run.json": "The run's folder doesn't say what it was set to.",
        "data.json": "paintings",
        "metrics.jsonl": "No step is done yet: the curves begin with the first.",
        ADAPTER: "There is no adapter yet: the first comes with the first checkpoint.",
    }[missing]
    assert said in words(text)


@pytest.mark.parametrize("damage", ["{half", "[]", '{"config": 3, "datasets": [1], "versions": []}', "\xff", "null"])
def test_damaged_files_cost_only_what_they_say(run, damage):
    for name in ("run.json", "data.json", "phases.json", "finished.json"):
        (run / name).write_text(damage, encoding="latin-1")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 61, "loss": "x", "sigma": 3, "learning_rate": [], "memory_gib": {}}\n{"ki')
    text = shown(run)
    assert faults(text) == []
    assert ("can't be read" in words(text)) == (damage in ("{half", "\xff"))


def test_one_picture_and_the_base_alone(run):
    for folder in (run / "samples").iterdir():
        if folder.name != "base":
            shutil.rmtree(folder)
    (run / "samples" / "base" / "prompt1-64x64-42.png").unlink()
    text = shown(run)
    assert faults(text) == []
    assert "the base only, nothing fine-tuned was drawn yet" in text
    assert 'type="range"' not in text
    (run / "samples" / "base" / "prompt0-64x64-42.png").write_bytes(b"no picture")
    assert faults(shown(run)) == []


def test_a_run_without_a_step(run):
    (run / "metrics.jsonl").write_text("")
    (run / "finished.json").unlink()
    assert "Stopped before its first step: not finished" in words(shown(run))


def test_values_that_are_not_finite_are_a_gap_a_mark_and_words(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] in (20, 21) and line["kind"] == "step":
            line["loss"] = line["grad_norm"] = None
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = shown(run)
    assert words(text).count("not finite at 2 steps: 20, 21") == 2
    loss = text[text.index("<h3>Loss") : text.index("<h3>Loss by")]
    assert 'class="broken"' in loss
    raw = loss[loss.index('<path class="raw') :].split('"')[3]
    assert raw.count("M") == 2


def test_a_prompt_of_5000_letters_is_folded(run):
    long = "a very long prompt, " * 250
    about = {"prompt": long, "seed": "42", "size": "64x64"}
    for folder in (run / "samples").iterdir():
        save_picture(folder / "prompt0-64x64-42.png", painting(np.random.default_rng(0), 64), about)
    text = shown(run)
    assert faults(text) == []
    assert max(len(about["alt"]) for about, _ in Outline(text).all("img")) < 220
    assert '<details class="prompt">' in text


def test_a_run_that_goes_on_says_so_and_loads_itself_again_only_when_watched(run):
    (run / "finished.json").unlink()
    (run / ".run.lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    change(run / "run.json", total_steps=600)
    assert read(run).state is State.GOING
    assert "This run is still going: step 60 of 600" in shown(run)
    assert 'http-equiv="refresh"' not in shown(run)
    watched = shown(run, refresh=5)
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in watched
    assert faults(watched) == []
    (run / ".run.lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    assert read(run).state is State.STOPPED
    assert "Stopped at step 60 of 600" in shown(run, refresh=5)
    assert 'http-equiv="refresh"' not in shown(run, refresh=5)


def test_a_step_that_was_not_finite_is_told_with_its_pictures(run):
    assert "not finite" not in shown(run)
    (run / "finished.json").unlink()
    suspects = [{"picture": f"/data/{EVIL}{TOKEN}.png", "caption": "a\x1b[2J ball", "sigma": 0.5, "loss": "nan"},
                {"picture": "/data/sound.png", "caption": "a cat", "sigma": 0.5, "loss": 0.25}, 7]  # fmt: skip
    line = {"kind": "step", "step": 61, "loss": None, "failed": suspects}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = shown(run)
    assert faults(text) == []
    assert "Step 61: the loss was not finite for these pictures, and training stopped there." in words(text)
    assert "[redacted].png (loss nan, sigma 0.5, caption a\\x1b[2J ball)" in words(text)
    assert "<script>alert" not in text
    assert TOKEN not in text
    assert "sound.png" not in text
    everyone = [{"picture": f"{index}.png", "loss": 0.25} for index in range(10)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line | {"step": 62, "loss": 0.25, "failed": everyone}) + "\n")
    assert "Step 62: the gradient was not finite" in words(shown(run))
    assert "and 2 more, which are in metrics.jsonl" in words(shown(run))


def test_several_runs_are_compared(run, tmp_path):
    other = make_run(tmp_path / "other", steps=40, validations=2, trained=1)
    change(other / "run.json", versions={"simpletune": "0.2.0"})
    described = json.loads((other / "run.json").read_text())
    described["config"]["learning_rate"]["value"] = 3e-4
    (other / "run.json").write_text(json.dumps(described))
    runs = [read(folder, name) for folder, name in zip((run, other), labels((run, other)), strict=True)]
    text = comparison(runs, Embedder(), {})
    assert faults(text) == []
    assert [run.label for run in runs] == ["project/output", "other/output"]
    said = words(text)
    assert "learning_rate Learning rate 0.0001 0.0003" in said
    assert "pictures trained on 3 1" in said
    assert "version of simpletune 0.1.0 0.2.0" in said
    assert "output_dir" not in said
    assert len(Outline(text).all("img")) == 4


def test_runs_of_the_same_name_are_told_apart():
    folders = [Path(part) for part in ("/a/x/output", "/b/x/output", "/b/y/output", "/c/run")]
    assert labels(folders) == ["a/x/output", "b/x/output", "y/output", "run"]


def test_an_evaluation_is_shown_with_its_flagged_pairs(run):
    picture = run / "samples" / "base" / "prompt0-64x64-42.png"
    row = MeasureRow("CLIP-T", "higher is better", (Value("0.31", "0.30 to 0.32, n = 8"), Value("0.35", good=True)))
    measures = Measures(
        ("base", "step 60"), (MeasureGroup("Adherence", (row,)),), ("Best: step 60.",), (EVIL,),
        flagged=(Pair(picture, "step 60", None, "paintings: 000.jpg", "distance 0.02"),), flagged_more=2,
    )  # fmt: skip
    text = shown(run, measures=measures)
    assert faults(text) == []
    assert "Best: step 60. Adherence Metric base step 60 CLIP-T higher is better 0.31 0.30 to 0.32, n = 8" in words(
        text
    )
    assert "distance 0.02 and 2 more" in words(text)
    assert "simpletune evaluate" not in text


def test_no_run_is_an_error_that_says_what_to_name(tmp_path):
    with pytest.raises(UsageError, match="is no run's folder: it has neither"):
        read(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match="can't be written"):
        Page([tmp_path], tmp_path / "no" / "x.html", lambda run: None).write()


def test_the_code_is_python_that_samples_as_validation_did(run):
    config = json.loads((run / "run.json").read_text())["config"]
    config |= {"validation_guidance_skip_layers": {"value": [7, 8], "origin": "config.json:9"},
               "use_t5": {"value": False, "origin": "config.json:10"},
               "validation_negative_prompt": {"value": 'a "b"\n', "origin": "config.json:11"}}  # fmt: skip
    change(run / "run.json", config=config)
    code = diffusers_code(read(run), run / ADAPTER)
    calls = {node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id: node
             for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)}  # fmt: skip
    asked = {word.arg: word.value for word in calls["pipeline"].keywords}
    assert ast.literal_eval(asked["max_sequence_length"]) == 154
    assert ast.literal_eval(asked["negative_prompt"]) == 'a "b"\n'
    assert ast.literal_eval(asked["skip_guidance_layers"]) == [7, 8]
    assert {word.arg for word in calls["from_pretrained"].keywords} == {"dtype", "text_encoder_3", "tokenizer_3"}


@pytest.mark.parametrize("index", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_contrast(made, index):
    found = colours(shown(made))[index]
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
        for line in ("edge", "bar", *(f"c{number}" for number in range(8))):
            assert contrast(found[line], found[ground]) >= 3, (line, ground)


def test_pictures_shrink_until_they_fit(made):
    paths = sorted((made / "samples").rglob("*.png"))
    embedder = Embedder()
    whole = embedder.embed(paths, 64, 10**9)
    budget = sum(len(one.uri) for one in whole.values()) * 3 // 4
    fitted = embedder.embed(paths, 64, budget)
    assert sum(len(one.uri) for one in fitted.values()) <= budget
    assert 48 <= max(one.width for one in fitted.values()) < 64
    assert math.isclose(len(fitted), len(paths))


def test_what_a_page_no_longer_shows_is_forgotten(made, monkeypatch):
    paths, drawn = sorted((made / "samples").rglob("*.png")), []
    monkeypatch.setattr(embed, "_small", lambda key: drawn.append(key) or embed.Embedded("", 1, 1))
    embedder = Embedder()
    for shown_now in (paths, paths, paths[:1], paths):  # the third page shows one, so the fourth makes the others anew
        embedder.embed(shown_now, 64, 10**9)
        embedder.forget_unused()
    assert len(drawn) == 2 * len(paths) - 1


def test_the_fine_tuned_side_is_the_run_after_most_steps(run):
    for name in ("step-000060-ema", "step-000060-scale-0.7", "paintings"):
        shutil.copytree(run / "samples" / "step-000060", run / "samples" / name)
    (album,) = albums(run)
    assert [column.title for column in album.columns] == [
        "base", "step 20", "step 40", "step 60", "step 60, averaged", "paintings", "step-000060-scale-0.7"
    ]  # fmt: skip
    assert album.tuned.name == "step-000060"
