"""What people type, drag and point at: each wrong answer gets a sentence, nothing is lost, odd right ones are taken."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from script import BACK, RECOMMENDED, Policy, Typed, always, draw, edit, facts, in_turn, use, visit, write

from simpletune.cli.main import run
from simpletune.config.validate import check, errors
from simpletune.data.survey import survey
from simpletune.wizard import checks
from simpletune.wizard.question import OTHER
from simpletune.wizard.screen import Screen


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMPLETUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(checks, "checks", lambda *_args, **_more: iter(()))
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "good", 4)
    return tmp_path


class Mistakes:
    """Gives wrong answers to a question, one after another, and takes down what is said of each; then answers well."""

    def __init__(self, question: str, texts: Sequence[str], policy: Policy) -> None:
        self.question, self.left, self.policy = question, list(texts), policy
        self.typed: str | None = None
        self.said: dict[str, str] = {}

    def __call__(self, screen: Screen) -> Any:
        if screen.id != self.question or not (self.left or self.typed is not None):
            return self.policy(screen)
        if screen.options is not None:
            return OTHER
        if self.typed is not None:
            assert screen.problem, f"{self.typed!r} was refused without a word"
            self.said[self.typed], self.typed = screen.problem, None
        while self.left:
            self.typed = self.left.pop(0)
            problem = screen.check(self.typed) if screen.check is not None else None
            if problem is None:
                return Typed(self.typed)
            self.said[self.typed], self.typed = problem, None
        # In a field that stands for another value, Back leads to the options again.
        return self.policy(screen) if screen.path or "(" not in screen.title else BACK


def said_of(question: str, texts: Sequence[str], here: Path, **answers: Any) -> dict[str, str]:
    """What the interview says of wrong answers; all the others stand, and a right one is taken then."""
    right = {"data.0.folder": Typed(str(here / "good")), "depth": "everything", **answers}
    mistakes = Mistakes(question, texts, lambda screen: right.get(screen.id, RECOMMENDED))
    made = visit(here / "project" / "config.json", mistakes)
    assert set(mistakes.said) == set(texts), f"taken: {made.answers[question]!r}"
    assert made.files == visit(here / "project" / "config.json", always(right)).files
    return mistakes.said


# --- folders


def make_bad_folders(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "notes.txt").write_text("words")
    (root / "broken").mkdir()
    (root / "broken" / "a.png").write_bytes(b"no picture")
    (root / "round").symlink_to(root / "round")
    (root / "to nowhere").symlink_to(root / "nowhere")


BAD_FOLDERS = {
    "nothing": ("", "a path is needed"),
    "only quotes": ("''", "a path is needed"),
    "not there": ("nowhere", "there is no folder"),
    "nearly there": ("goood", "goood"),
    "a file": ("good/a red ball.png", "is a file, not a folder. give the folder"),
    "empty": ("empty", "no pictures in"),
    "other files": ("texts", "only 1"),
    "no picture that can be read": ("broken", "can't be read"),
    "a link to itself": ("round", "can't be read"),
    "a link to nowhere": ("to nowhere", "leads nowhere"),
    "nobody's home": ("~nobody-has-this-name/x", "there is no folder"),
    "far too long": ("x" * 5000, "can't be read"),
    "a name too long": ("x" * 300, "can't be read"),
    "a token": ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "access token"),
    "a control character": ("go\x07od", "can't be saved"),
    "no character at all": ("go\0od", "can't be a path"),
    "braces": ("with {braces}", "{braces} in a path means"),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_a_folder_that_cannot_be_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    make_bad_folders(here)
    draw(here / "with {braces}", 2)
    assert expected in said_of("data.0.folder", [text], here, depth="main")[text].lower()
    if "\0" not in text:
        code = run(["configure", "--defaults", "--preset", "cpu", "--dataset", text, "--yes"])
        _, told = capsys.readouterr()
        assert (code, expected in told.lower()) == (2, True), told
        assert "Traceback" not in told
        assert not (here / "config.json").exists()


GOOD_FOLDERS = {
    "spaces": ("a b c", "{}"),
    "brackets": ("my [set] (2)", "{}"),
    "an emoji of several": ("family 👩\u200d👩\u200d👧", "{}"),
    "accents": ("Übung é", "{}"),
    "a trailing slash": ("plain", "{}/"),
    "dots": ("plain", "./x/../{}/."),
    "quotes around": ("it is", '"{}"'),
    "single quotes around": ("it is", "'{}'"),
    "a quote within": ("it's", "{}"),
    "a leading dash": ("-rf", "{}"),
    "a hash": ("#1", "{}"),
    "a percent": ("100%", "{}"),
    "a dollar": ("$HOME", "{}"),
}


@pytest.mark.parametrize(("name", "typed"), GOOD_FOLDERS.values(), ids=GOOD_FOLDERS.keys())
def test_an_odd_folder_is_taken(here: Path, name: str, typed: str) -> None:
    draw(here / name, 3)
    made = visit(here / "project" / "config.json", always({"data.0.folder": Typed(typed.format(name))}))
    assert made.state.place(0).folder == here / name
    write(made)
    assert errors(check(here / "project" / "config.json").problems) == []
    flag = f"--dataset={typed.format(name)}"
    assert run(["configure", "--defaults", "--preset", "cpu", flag, "--yes", "flags/config.json"]) == 0
    assert errors(check(here / "flags" / "config.json").problems) == []


def test_a_folder_in_the_home_folder(here: Path) -> None:
    draw(here / "home" / "pics", 3)
    made = visit(here / "project" / "config.json", always({"data.0.folder": Typed("~/pics")}))
    assert made.state.place(0).folder == here / "home" / "pics"


def test_a_backslash_before_what_a_terminal_escapes(here: Path) -> None:
    draw(here / "my set (1)", 3)
    made = visit(here / "project" / "config.json", always({"data.0.folder": Typed(r"my\ set\ \(1\)")}))
    assert made.state.place(0).folder == here / "my set (1)"


def test_links_in_circles_within_a_folder(here: Path) -> None:
    (here / "good" / "again").symlink_to(here / "good")
    (here / "good" / "itself").symlink_to(here / "good" / "itself")
    made = visit(here / "project" / "config.json", always({"data.0.folder": Typed("good")}))
    write(made)
    assert errors(check(here / "project" / "config.json").problems) == []


def test_a_folder_that_is_filled_after_it_was_refused(here: Path) -> None:
    """The same answer again, once what was wrong is put right."""
    (here / "late").mkdir()

    def fill(screen: Screen) -> Any:
        assert screen.problem is not None
        draw(here / "late", 3)
        return Typed("late")

    turns = (("data.0.folder", Typed("late")), ("data.0.folder", fill))
    made = visit(here / "project" / "config.json", in_turn(*turns, then=always({})))
    assert made.state.place(0).folder == here / "late"


# --- models


BAD_MODELS = {
    "a folder that isn't there": ("folder", "nowhere", "there is no folder"),
    "a folder of pictures": ("folder", "good", "is no model in the diffusers layout"),
    "a file as a folder": ("folder", "good/a red ball.png", "is a file, not a folder"),
    "a name too long as a folder": ("folder", "x" * 300, "there is no folder"),
    "a folder as a file": ("file", "good", "is a folder, not a file"),
    "no such file": ("file", "model.safetensors", "there is no file"),
    "a picture as a file": ("file", "good/a red ball.png", "is no .safetensors file"),
    "a name without an owner": ("id", "model", "is not a hub name"),
    "an address": ("id", "https://example.org/a/b", "is not a hub name"),
    "a token": ("id", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "access token"),
    "no address": ("mirror", "hub.example.org", "begins with https://"),
    "two words": ("mirror", "https://hub example", "begins with https://"),
    "a token as an address": ("mirror", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "access token"),
}


@pytest.mark.parametrize(("source", "text", "expected"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_a_model_that_cannot_be_is_a_sentence(here: Path, source: str, text: str, expected: str) -> None:
    right = {**SD3, "model.source": source}
    policy = Mistakes(f"model.{source}", [text], lambda screen: right.get(screen.id, RECOMMENDED))
    with pytest.raises(AssertionError):  # there is no right answer here, so the script ends
        visit(here / "project" / "config.json", policy)
    assert expected in policy.said[text]


SD3 = {"hardware": "other-cuda", "hardware.memory": 24}


# --- numbers and words

BAD_ANSWERS = {
    "lora.rank": ("0", "1025", "-3", "abc", "", "1e3", "16.5", "9" * 400, "١٦٦٦٦"),
    "lora.alpha": ("0", "-1", "x", "nan", "inf", "1e9"),
    "data.0.resolution": ("15", "513", "x", "", "64.5", "-64", "9" * 400),  # the tiny model goes up to 512
    "data.0.times": ("0", "10001", "often", "1.5"),
    "training.learning_rate": ("0", "2", "-1e-4", "nan", "1e-4x"),
    "training.steps": ("0", "0 epochs", "-5 epochs", "many", "9" * 30, "99999999999 epochs", "1.5"),
    "training.batch": ("0", "5000", "two"),
    "training.vae_batch_size": ("0", "5000"),
    "training.checkpoints": ("0", "never"),
    "samples.interval": ("0", "x"),
    "samples.held_out": ("-1", "4", "100001", "all"),
    "output": ("", " ", "../good", "../good/below", "../good/a red ball.png/x", "a\x07b", "{what}/x"),
    "hardware.memory": ("0", "-8", "x", "1e9", "nan", ""),
}


@pytest.mark.parametrize(("question", "texts"), BAD_ANSWERS.items(), ids=BAD_ANSWERS.keys())
def test_an_answer_out_of_range_is_a_sentence(here: Path, question: str, texts: Sequence[str]) -> None:
    machine = {"hardware": "other-cuda"} if question == "hardware.memory" else {}
    for text, said in said_of(question, texts, here, **machine).items():
        assert len(said) > 10, text
        assert "\n" not in said


# --- places that can't be written


@contextmanager
def as_nobody() -> Iterator[Path]:
    """As a user without rights, in a folder that everybody may enter; root may do everything, so it can't stay root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    try:
        yield folder
    finally:
        if user == 0:
            os.seteuid(0)
        shutil.rmtree(folder)


def become_nobody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


POSIX = pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights of users are POSIX's")


@POSIX
def test_a_folder_one_may_not_read() -> None:
    with as_nobody() as folder:
        draw(folder / "mine", 2)
        survey(folder / "mine")  # everything that is imported on the way may be read by root alone
        (folder / "mine").chmod(0)
        become_nobody()
        found = survey(folder / "mine")
        assert found.problem is not None
        assert "you may not read" in found.problem
        if os.geteuid() != 65534:
            (folder / "mine").chmod(stat.S_IRWXU)


@POSIX
def test_a_folder_one_may_not_write_into(monkeypatch: pytest.MonkeyPatch) -> None:
    with as_nobody() as folder:
        monkeypatch.setenv("SIMPLETUNE_STATE", str(folder / "state"))
        (folder / "state").mkdir()
        (folder / "state").chmod(0o777)
        draw(folder / "pictures", 2)
        output = Typed(str(folder / "state" / "out"))
        policy = always({"data.0.folder": Typed(str(folder / "pictures")), "output": output})
        use(folder / "before" / "config.json", policy)
        (folder / "project").mkdir()
        (folder / "project").chmod(0o555)

        def again(screen: Screen) -> Any:
            assert screen.problem is not None
            assert "can't be written" in screen.problem
            os.seteuid(0) if os.getuid() == 0 else (folder / "project").chmod(0o755)
            return RECOMMENDED

        become_nobody()
        use(folder / "project" / "config.json", in_turn(("review", RECOMMENDED), ("review", again), then=policy))
        assert errors(check(folder / "project" / "config.json").problems) == []


BAD_CONFIGS = {
    "below a file": "good/a red ball.png/config.json",
    "a link in a circle": "round/config.json",
    "a name too long": "x" * 300 + ".json",
    "a path too long": f"{'y' * 200}/" * 25 + "config.json",
}


@pytest.mark.parametrize("path", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_a_config_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    (here / "round").symlink_to(here / "round")
    code = run(["configure", "--defaults", "--preset", "cpu", "--dataset", "good", "--yes", path])
    _, told = capsys.readouterr()
    assert code in (2, 3), told
    assert "Traceback" not in told
    assert sorted(one.name for one in here.iterdir()) == ["good", "round"]


def test_a_config_through_a_link(here: Path) -> None:
    """The link stays a link, and what it points to is written."""
    (here / "real").mkdir()
    (here / "config.json").symlink_to(here / "real" / "mine.json")
    assert run(["configure", "--defaults", "--preset", "cpu", "--dataset", "good", "--yes"]) == 0
    assert (here / "config.json").is_symlink()
    assert json.loads((here / "real" / "mine.json").read_text())["model_flavour"] == "tiny"


# --- a run that the answers can't continue


def test_a_run_that_cannot_go_on_gets_a_new_folder(here: Path) -> None:
    """After two steps of training with rank 8, rank 32 goes elsewhere, and rank 8 stays where it is."""
    config = here / "config.json"
    assert run(["configure", "--defaults", "--preset", "cpu", "--dataset", "good", "--yes"]) == 0
    quick = ("max_train_steps=2", "validation_prompts_file=null", "dataset.0.resolution=64")
    assert run(["train", *(part for one in quick for part in ("--set", one))]) == 0
    assert (here / "output" / "good" / "checkpoint-2" / "state.json").is_file()
    kept = visit(config, always({}), facts(here))
    assert kept.prompter.asked == ["review"]
    turns = (("review", edit("lora.rank")), ("lora.rank", Typed("32")))
    moved = visit(config, in_turn(*turns, then=always({})), facts(here))
    screen = next(screen for screen in moved.prompter.screens if screen.id == "output")
    assert screen.recommended == "output/good-r32"
    assert "can't continue" in screen.reason
    assert moved.config["output_dir"] == "output/good-r32"
    assert run(["configure", "--defaults", "--set", "lora_rank=32", "--yes"]) == 0
    assert json.loads(config.read_text())["output_dir"] == "output/good-r32"
