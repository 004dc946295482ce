"""`simpletune configure` without anybody to ask: what it writes, what it says, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script import MACHINES, always, draw, facts, visit
from walks import World

from simpletune.cli.main import run
from simpletune.config.validate import check
from simpletune.errors import SimpletuneError
from simpletune.machine import hardware
from simpletune.wizard.compose import checked, contents
from simpletune.wizard.facts import Facts
from simpletune.wizard.question import Question
from simpletune.wizard.questions import questions
from simpletune.wizard.state import Answer, Base
from simpletune.wizard.unattended import PRESETS, answer_all, refuse_problems
from simpletune.wizard.walk import Terms, walk


class Said:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err + out
        assert "this is a bug" not in err


Configure = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures in it, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMPLETUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(hardware, "look", lambda _folder: MACHINES["none"])
    draw(tmp_path / "pictures", 6)
    return tmp_path


@pytest.fixture
def configure(here: Path, capsys: pytest.CaptureFixture[str]) -> Configure:
    def call(*arguments: str) -> Said:
        code = run(["configure", *arguments])
        return Said(code, *capsys.readouterr())

    return call


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and "pictures" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def config_errors(config: Path) -> list[str]:
    return [found.message for found in check(config).problems if found.kind == "config"]


def test_no_terminal_and_no_mode_names_the_flags(here: Path) -> None:
    """In a process of its own, as a script would call it."""
    command = [sys.executable, "-m", "simpletune", "configure"]
    done = subprocess.run(command, cwd=here, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(flag in done.stderr for flag in ("--defaults", "--answers", "--dataset", "--yes"))
    assert not (here / "config.json").exists()


def test_without_a_gpu_the_model_is_not_swapped_silently(configure: Configure, here: Path) -> None:
    said = configure("--defaults", "--dataset", "pictures", "--yes")
    assert said.code == 3
    assert "--preset cpu" in said.err
    assert "--preset 8gb" in said.err
    assert not (here / "config.json").exists()


def test_a_card_that_torch_cannot_use_is_named(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "look", lambda _folder: MACHINES["unusable"])
    said = configure("--defaults", "--dataset", "pictures", "--yes")
    assert said.code == 3
    assert "RTX 4060" in said.err
    assert "has no CUDA" in said.err


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_the_interview_makes_of_its_answers(configure: Configure, here: Path, preset: str) -> None:
    said = configure("--defaults", "--preset", preset, "--dataset", "pictures", "--yes", "project/config.json")
    assert said.code == 0, said.err
    config = here / "project" / "config.json"
    assert config_errors(config) == []
    answers = {**PRESETS[preset], "data.0.folder": str(here / "pictures")}
    asked = visit(config, always(answers), base=Base(config))
    assert {path: path.read_bytes() for path in contents(asked.state)} == contents(asked.state)
    listed = here / "answers.json"
    listed.write_text(json.dumps(answers))
    again = configure("--answers", str(listed), "--yes", "project/config.json")
    assert (again.code, again.out) == (0, "the files are as they are already: nothing to write\n")


def test_the_files_train(configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert configure("--defaults", "--preset", "cpu", "--dataset", "pictures", "--yes").code == 0
    sets = ("max_train_steps=2", "validation_num_inference_steps=1", "dataset.0.resolution=64")
    assert run(["train", *(part for one in sets for part in ("--set", one))]) == 0
    assert "done: 2 steps" in "".join(capsys.readouterr())


def test_a_dry_run_shows_and_writes_nothing(configure: Configure, here: Path) -> None:
    before = files_in(here)
    said = configure("--defaults", "--preset", "8gb", "--dataset", "pictures", "--dry-run", "new/folder/config.json")
    assert said.code == 0
    assert '+  "device_memory_gb": 8,' in said.out
    assert files_in(here) == before
    assert not (here / "new").exists()


def test_print_gives_json_and_writes_nothing(configure: Configure, here: Path) -> None:
    before = files_in(here)
    said = configure("--print", "--preset", "8gb", "--dataset", "pictures", "p/config.json")
    printed = json.loads(said.out)
    assert printed["config.json"]["device_memory_gb"] == 8
    assert printed["multidatabackend.json"][0]["instance_data_dir"] == "../pictures"
    assert len(printed["validation_prompts.json"]) == 3
    assert files_in(here) == before


def test_without_yes_nothing_is_written(configure: Configure, here: Path) -> None:
    said = configure("--defaults", "--preset", "8gb", "--dataset", "pictures")
    assert said.code == 2
    assert "--yes" in said.err
    assert '+  "lora_rank"' in said.out
    assert not (here / "config.json").exists()


def test_a_folder_as_config_holds_the_files(configure: Configure, here: Path) -> None:
    (here / "project").mkdir()
    assert configure("--defaults", "--preset", "cpu", "--dataset", "pictures", "--yes", "project").code == 0
    assert config_errors(here / "project" / "config.json") == []


def test_relative_folders_are_meant_from_the_current_one(configure: Configure, here: Path) -> None:
    draw(here / "a b [c] 🐶", 3)
    (here / "elsewhere").mkdir()
    flags = ("--dataset", "./pictures/", "--dataset", "a b [c] 🐶", "--yes", "elsewhere/far/config.json")
    assert configure("--defaults", "--preset", "cpu", *flags).code == 0
    data = json.loads((here / "elsewhere" / "far" / "multidatabackend.json").read_text())
    folders = [(here / "elsewhere" / "far" / entry["instance_data_dir"]).resolve() for entry in data]
    assert folders == [here / "pictures", here / "a b [c] 🐶"]
    assert config_errors(here / "elsewhere" / "far" / "config.json") == []


def test_a_data_set_is_added_to_files_that_are_there(configure: Configure, here: Path) -> None:
    draw(here / "more", 3)
    assert configure("--defaults", "--preset", "cpu", "--dataset", "pictures", "--yes").code == 0
    before = (here / "config.json").read_text()
    assert configure("--defaults", "--dataset", "more", "--dataset", "pictures", "--yes").code == 0
    data = json.loads((here / "multidatabackend.json").read_text())
    assert [entry["instance_data_dir"] for entry in data] == ["pictures", "more"]
    assert (here / "config.json").read_text() == before


SETS = {
    "an unknown key": ("lora_ranks=3", 'did you mean "lora_rank"'),
    "another program's key": ("lr=1e-4", "learning_rate"),
    "no value": ("lora_rank", "not of the form"),
    "a word for a number": ("lora_rank=abc", '"lora_rank" must be a whole number'),
    "out of range": ("lora_rank=0", '"lora_rank" must be'),
    "no such choice": ("optimizer=sgd", '"optimizer" can\'t be "sgd"'),
    "a data key that there isn't": ("dataset.0.repeat=3", 'did you mean "repeats"'),
    "a data set that there isn't": ("dataset.4.repeats=3", "there is no data set 4"),
    "a negative data set": ("dataset.-1.repeats=3", "no such key"),
    "switching a data set off": ("dataset.0.disabled=true", "edit the data file"),
    "a token": ("tracker=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "access token"),
    "what doesn't fit": ("base_model_precision=no_change", "too large"),
    "not for this model": ("validation_guidance_skip_layers=[90]", "has no block 90"),
}


@pytest.mark.parametrize(("text", "expected"), SETS.values(), ids=SETS.keys())
def test_a_set_that_cannot_be_is_refused(configure: Configure, here: Path, text: str, expected: str) -> None:
    said = configure("--defaults", "--preset", "6gb", "--dataset", "pictures", "--yes", "--set", text)
    assert said.code == 2
    assert expected in said.err
    assert "hf_abc" not in said.err
    assert not (here / "config.json").exists()


def test_a_set_is_written_and_wins_over_what_is_recommended(configure: Configure, here: Path) -> None:
    flags = ("--set", "lora_rank=5", "--set", "dataset.0.repeats=2", "--set", "seed=7", "--set", "num_train_epochs=3")
    assert configure("--defaults", "--preset", "8gb", "--dataset", "pictures", "--yes", *flags).code == 0
    config = json.loads((here / "config.json").read_text())
    assert (config["lora_rank"], config["seed"], config["num_train_epochs"]) == (5, 7, 3)
    assert "max_train_steps" not in config
    assert json.loads((here / "multidatabackend.json").read_text())[0]["repeats"] == 2
    assert configure("--defaults", "--yes", "--set", "max_train_steps=50").code == 0
    config = json.loads((here / "config.json").read_text())
    assert (config["max_train_steps"], config.get("num_train_epochs")) == (50, None)


ANSWERS = {
    "an unknown question": ({"lora.rang": 3}, 'did you mean "lora.rank"'),
    "out of range": ({"lora.rank": 100_000}, "lora.rank: 100000: "),
    "another kind of value": ({"lora.rank": [1]}, "lora.rank: [1]: "),
    "true for one": ({"data.0.times": True}, "True is not a number of times"),
    "no such choice": ({"precision.base": "int3"}, "int3 is not one of the choices"),
    "what doesn't fit": ({"precision.base": "no_change"}, "too large"),
    "a folder that there isn't": ({"data.0.folder": "nowhere"}, "nowhere"),
    "a folder without a name": ({"data.0.folder": " "}, "a path is needed"),
    "a folder that is none": ({"data.0.folder": 3}, "is not a text"),
    "a length that is none": ({"training.steps": "0 epochs"}, "training.steps: 0 epochs"),
    "a size that is none": ({"data.0.resolution": "7 megapixels"}, "not a size"),
    "a hub name that is none": ({"model.source": "id", "model.id": "name"}, "not a hub name"),
    "a token": ({"model.source": "id", "model.id": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"}, "access token"),
}


@pytest.mark.parametrize(("answers", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_cannot_be_is_refused(configure: Configure, here: Path, answers: Any, expected: str) -> None:
    (here / "answers.json").write_text(json.dumps({"data.0.folder": "pictures", **answers}))
    said = configure("--preset", "6gb", "--answers", "answers.json", "--yes")
    assert said.code == 2
    assert expected in said.err
    assert "hf_abc" not in said.err
    assert not (here / "config.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1, "a": 2}', '"x"', "\xff\xfe", '{"lora.rank": NaN}'])
def test_a_file_of_answers_that_is_none(configure: Configure, here: Path, text: str) -> None:
    (here / "answers.json").write_bytes(text.encode("latin-1"))
    assert configure("--answers", "answers.json", "--yes").code == 2
    assert configure("--answers", "missing.json", "--yes").code == 2
    assert configure("--answers", str(here), "--yes").code == 2


BROKEN = {
    "config": ('{"lora_rank": 16,}', "[]", "config.json:1"),
    "a list": ("[1]", "[]", "must hold an object"),
    "data": ("{}", '{"a": 1}', "multidatabackend.json:1"),
    "entries": ("{}", "[1, null]", "multidatabackend.json:1"),
    "a value": ('{\n  "lora_rank": "many"\n}', "[]", "config.json:2"),
}


@pytest.mark.parametrize(("config", "data", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_files_are_told_and_left(
    configure: Configure, here: Path, config: str, data: str, expected: str
) -> None:
    (here / "config.json").write_text(config)
    (here / "multidatabackend.json").write_text(data)
    before = files_in(here)
    said = configure("--defaults", "--preset", "cpu", "--dataset", "pictures", "--yes")
    assert said.code == 2
    assert expected in said.err
    assert files_in(here) == before


# --- whatever a file of answers holds

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
NEAR = st.sampled_from(
    ("no_change", "each", "own", "file", "mirror", "12 epochs", "1e400", "rank", 0, -1, 1.5, 10**12, True, "")
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World, Facts, list[Question]]:
    root = tmp_path_factory.mktemp("any")
    config, world = root / "p" / "config.json", World.make(root / "world")
    known = facts(config.parent)
    given_ = {"hardware": Answer("other-cuda"), "data.0.folder": Answer(str(world.pictures[0]))}
    steps = walk(questions, known, Base(config), given_, Terms(everything=True)).steps
    return config, world, known, [step.question for step in steps]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=JSON | NEAR)
def test_any_json_as_an_answer_is_taken_or_refused_in_a_sentence(
    place: tuple[Path, World, Facts, list[Question]], data: st.DataObject, value: Any
) -> None:
    config, world, known, all_questions = place
    further = ("model.id", "model.folder", "model.file", "model.encoders", "samples.prompt.1", "precision.text.3")
    name = data.draw(st.sampled_from([*(question.id for question in all_questions), *further, "data.1.folder"]))
    answers = {"hardware": "other-cuda", "data.0.folder": str(world.pictures[0])}
    leads = {"model": {"model.source": name.rpartition(".")[2]}, "samples": {"samples.prompts": "own"}}
    answers |= leads.get(name.partition(".")[0], {}) if name in further else {}
    answers |= {"precision.text": "each"} if name == "precision.text.3" else {}
    answers |= {"data.0.more": True} if name == "data.1.folder" else {}
    given_ = {key: Answer(one) for key, one in {**answers, name: value}.items()}
    with suppress(SimpletuneError):
        refuse_problems(checked(answer_all(known, Base(config), given_).state).problems)
