"""`simpletune caption`: what it takes for its target, what it changes and what it leaves alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from caption_models import qwen
from PIL import Image

from simpletune.cli.main import run
from simpletune.config.load import load
from simpletune.data.captioning.target import captions_command, find_target
from simpletune.data.preflight import preflight

COLOURS = ("red", "green", "blue", "black", "white", "orange")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(qwen(tmp_path_factory.mktemp("models") / "qwen"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with both files and pictures without captions; the current folder."""
    draw(tmp_path / "pictures", 4)
    (tmp_path / "config.json").write_text('{"model_flavour": "tiny", "output_dir": "out"}')
    entries(tmp_path, '[\n  {"id": "pics", "instance_data_dir": "pictures", "probability": 1e0}\n]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(folder, count):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (64 + 32 * number, 64), COLOURS[number]).save(folder / f"{number}.png")


def entries(folder, text):
    (folder / "multidatabackend.json").write_text(text if isinstance(text, str) else json.dumps(text))


def entry(folder, number=0):
    return json.loads((folder / "multidatabackend.json").read_text())[number]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def caption(model, *arguments):
    return run(["caption", *arguments, "--model", model, "--device", "cpu", "--max-new-tokens", "8"])


def stamps(folder):
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def test_a_data_set_gets_captions_and_uses_them(project, model, capsys):
    before = stamps(project / "pictures")
    assert caption(model, "--yes", "--batch-size", "3") == 0
    told = capsys.readouterr()
    assert "4 of 4 pictures have captions in captions/pics.jsonl\n" in told.out
    assert "multidatabackend.json uses them now (the old one is multidatabackend.json.bak)" in told.out
    assert [line["file_name"] for line in lines(project / "captions" / "pics.jsonl")] == [f"{n}.png" for n in range(4)]
    assert entry(project)["metadata_path"] == "captions/pics.jsonl"
    assert '"probability": 1e0,' in (project / "multidatabackend.json").read_text()
    assert stamps(project / "pictures") == before
    settings, problems = load(project / "config.json")
    assert not problems
    looked = preflight(settings)
    texts = {sample.name: sample.captions for sample in looked.training}
    assert texts == {line["file_name"]: (line["text"],) for line in lines(project / "captions" / "pics.jsonl")}


def test_again_nothing_is_done_and_the_model_is_not_looked_for(project, model, capsys):
    assert caption(model, "--yes") == 0
    files = {path: path.stat().st_mtime_ns for path in project.rglob("*.json*")}
    capsys.readouterr()
    assert caption("nobody/nothing") == 0
    assert capsys.readouterr().out == "4 of 4 pictures have captions in captions/pics.jsonl, 0 of them new\n"
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*.json*")} == files


def test_nothing_is_changed_without_being_asked(project, model, capsys):
    before = sorted(project.rglob("*"))
    assert caption(model) == 2
    told = capsys.readouterr()
    assert '+    "caption_strategy": "jsonl",\n' in told.out
    assert "add --yes" in told.err
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_somebody_is_asked(project, model, monkeypatch, answer, code, capsys):
    monkeypatch.setattr("simpletune.cli.caption.may_prompt", lambda: True)
    monkeypatch.setattr("click.confirm", lambda text, default: answer == "y\n")
    assert caption(model, "config.json") == code
    assert (project / "captions").exists() == (code == 0)


def test_trying_out(project, model, capsys):
    before = sorted(project.rglob("*"))
    assert caption(model, "--limit", "2", "--trigger", "sks") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in shown] == ["0.png", "1.png"]
    assert all(": sks, " in line for line in shown)
    assert sorted(project.rglob("*")) == before


def test_a_folder_without_a_config(tmp_path, monkeypatch, model, capsys):
    draw(tmp_path / "my pictures", 2)
    monkeypatch.chdir(tmp_path)
    assert caption(model, "my pictures") == 0
    told = capsys.readouterr().out
    assert '"caption_strategy": "jsonl", "metadata_path": "' in told
    assert len(lines(tmp_path / "captions" / "my pictures.jsonl")) == 2
    assert caption(model, "my pictures", "--output", "there/mine.jsonl") == 0
    assert len(lines(tmp_path / "there" / "mine.jsonl")) == 2


def test_a_named_file_of_a_folder_leaves_the_config_alone(project, model):
    before = (project / "multidatabackend.json").read_bytes()
    assert caption(model, "pictures", "--output", "mine.jsonl") == 0
    assert len(lines(project / "mine.jsonl")) == 4
    assert (project / "multidatabackend.json").read_bytes() == before


def test_a_folder_that_a_config_has(project, monkeypatch):
    (project / "link").symlink_to("pictures", target_is_directory=True)
    for target in (find_target(Path("pictures")), find_target(Path("link/")), find_target(Path())):
        assert (target.set_id, target.captions) == ("pics", project / "captions" / "pics.jsonl")
    monkeypatch.chdir(project / "pictures")
    assert find_target(Path()).captions == project / "pictures" / "captions" / "pictures.jsonl"
    assert find_target(Path(), config=Path("../config.json")).set_id == "pics"
    assert find_target(Path(), config=Path("..")).set_id == "pics"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
        (["pictures/0.png"], "neither a folder of pictures nor a config.json"),
        (["config.json", "--dataset", "pigs"], 'config.json has no data set "pigs"'),
        (["empty", "--config", "config.json"], "no data set of config.json has empty"),
        (["empty"], "there are no pictures in"),
        (["empty", "--dataset", "pics"], "--dataset is for a config"),
        (["config.json", "--config", "config.json"], "--config is for a folder"),
        (["--sidecar", "--output", "x"], "--sidecar writes no file of captions"),
        (["--output", "config.json/x.jsonl", "--yes"], "can't be written"),
    ],
)
def test_targets_that_cannot_be(project, model, capsys, arguments, said):
    (project / "empty").mkdir()
    assert caption(model, *arguments) == 2
    assert said in capsys.readouterr().err


def test_errors_in_the_files_come_first(project, model, capsys):
    (project / "config.json").write_text('{"model_flavour": "tiny", "lora_rnk": 3}')
    assert caption(model, "--yes") == 2
    assert 'unknown key "lora_rnk"' in capsys.readouterr().err
    (project / "config.json").write_text('{"model_flavour": "tiny"}')
    entries(project, '[{"id": "pics", "instance_data_dir": "pictures",]')
    assert caption(model, "--yes") == 2
    assert not (project / "captions").exists()


def test_of_several_data_sets_one_is_named(project, model, capsys):
    draw(project / "more", 1)
    entries(project, [{"id": "pics", "instance_data_dir": "pictures"}, {"id": "more", "instance_data_dir": "more"}])
    assert caption(model, "--yes") == 2
    assert "name one with --dataset: pics, more" in capsys.readouterr().err
    assert caption(model, "--yes", "--dataset", "more") == 0
    assert "caption_strategy" not in entry(project)
    assert entry(project, 1)["metadata_path"] == "captions/more.jsonl"


@pytest.mark.parametrize(
    "others",
    [
        {"caption_strategy": "filename"},
        {"caption_strategy": "instanceprompt", "instance_prompt": "x"},
        {"caption_strategy": "csv", "metadata_path": "mine.csv", "caption_column": "words"},
        {"caption_strategy": "jsonl", "metadata_path": "mine.jsonl"},
        {"caption_strategy": "jsonl", "metadata_path": "captions/pics.jsonl", "caption_column": "words"},
        {"instance_prompt": "x", "only_instance_prompt": True},
        {},
    ],
)
def test_other_captions_are_kept_unless_told(project, model, capsys, others):
    (project / "captions").mkdir()
    for name in ("mine.csv", "mine.jsonl", "captions/pics.jsonl"):
        (project / name).touch()
    if not others:
        (project / "pictures" / "1.txt").write_text("mine")
    entries(project, [{"id": "pics", "instance_data_dir": "pictures", **others}])
    before = (project / "multidatabackend.json").read_bytes()
    assert caption(model, "--yes") == 2
    assert "--replace" in capsys.readouterr().err
    assert (project / "multidatabackend.json").read_bytes() == before
    assert caption(model, "--yes", "--replace") == 0
    changed = entry(project)
    assert (changed["caption_strategy"], changed["metadata_path"]) == ("jsonl", "captions/pics.jsonl")
    assert not {"caption_column", "only_instance_prompt"} & changed.keys()
    assert run(["validate"]) == 0


def test_sidecars_go_beside_the_pictures_that_have_none(project, model, capsys):
    (project / "pictures" / "1.txt").write_text("mine")
    assert caption(model, "--sidecar") == 0
    assert "4 of 4 pictures have captions in .txt files beside them, 3 of them new" in capsys.readouterr().out
    assert (project / "pictures" / "1.txt").read_text() == "mine"
    assert {path.name for path in (project / "pictures").iterdir()} == {
        f"{n}.{e}" for n in range(4) for e in ("png", "txt")
    }
    assert not (project / "captions").exists()
    assert run(["validate"]) == 0
    assert caption(model, "--sidecar", "--overwrite") == 0
    assert (project / "pictures" / "1.txt").read_text() != "mine"


def test_overwriting_asks_for_all_again(project, model):
    assert caption(model, "--yes") == 0
    path = project / "captions" / "pics.jsonl"
    first = path.read_bytes()
    path.write_text(path.read_text().replace(lines(path)[0]["text"], "mine"))
    assert caption(model) == 0
    assert "mine" in path.read_text()
    assert caption(model, "--overwrite") == 0
    assert path.read_bytes() == first


def test_a_change_by_somebody_else_meanwhile_stays(project, model, monkeypatch):
    from simpletune.data.captioning import captioner

    real = captioner.caption

    def meanwhile(*arguments):
        entries(project, [{"id": "pics", "instance_data_dir": "pictures", "repeats": 3}])
        return real(*arguments)

    monkeypatch.setattr(captioner, "caption", meanwhile)
    assert caption(model, "--yes") == 0
    assert entry(project)["repeats"] == 3
    assert entry(project)["caption_strategy"] == "jsonl"


def test_a_model_that_is_not_there(project, capsys):
    assert run(["caption", "--model", "./no-model", "--yes"]) == 3
    assert "neither a folder nor a hub name" in capsys.readouterr().err
    assert "caption_strategy" not in entry(project)


def test_help_names_the_size_and_licence_of_the_default(capsys):
    assert run(["caption", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4.3 GB" in shown
    assert "Apache-2.0" in shown


def test_nothing_heavy_is_loaded_before_it_is_needed(project):
    code = "import sys; from simpletune.cli.main import run; run(['caption', '--help']); run(['caption', 'nowhere'])\n"
    code += "assert not {'torch', 'transformers', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def started(project, model, *arguments):
    command = captions_command(project / "config.json", set_id="pics")
    more = ["--model", model, "--device", "cpu", "--max-new-tokens", "400", *arguments]
    return subprocess.Popen(
        [*command, *more],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_lines(path, count):
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_killed_and_interrupted_it_goes_on_to_the_same_captions(project, model):
    path = project / "captions" / "pics.jsonl"
    whole = started(project, model, "--output", "whole.jsonl", "--replace")
    assert whole.communicate()
    assert whole.returncode == 0
    entries(project, [{"id": "pics", "instance_data_dir": "pictures"}])
    for count, number in ((1, signal.SIGKILL), (2, signal.SIGINT), (3, signal.SIGKILL)):
        process = started(project, model)
        wait_for_lines(path, count)
        process.send_signal(number)
        told = process.communicate()[0]
        assert "caption_strategy" not in entry(project)
        if number == signal.SIGINT and process.returncode:  # 0: it was done before
            assert process.returncode == 130
            assert "pictures have captions, and they are kept" in told
            assert "Traceback" not in told
    with path.open("a") as file:
        file.write('{"file_name": "0.p')
    last = started(project, model)
    assert last.communicate()
    assert last.returncode == 0
    assert path.read_bytes() == (project / "whole.jsonl").read_bytes()
    assert entry(project)["metadata_path"] == "captions/pics.jsonl"


@pytest.mark.slow
def test_training_uses_the_captions(project, model):
    assert caption(model, "--yes") == 0
    quick = {
        "max_train_steps": 1,
        "resolution": 64,
        "device": "cpu",
        "mixed_precision": "no",
    }
    config = {"model_flavour": "tiny", "output_dir": "out", "tokenizer_max_length": 77, **quick}
    (project / "config.json").write_text(json.dumps(config))
    assert run(["train"]) == 0
    rows = json.loads((project / "out" / "data.json").read_text())
    used = {row["name"]: row for rows in rows.values() if isinstance(rows, list) for row in rows}
    for line in lines(project / "captions" / "pics.jsonl"):
        assert line["text"] in json.dumps(used[line["file_name"]])
