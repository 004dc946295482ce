"""One use of the wizard from the start to the written files: stopped anywhere, interfered with, and gone on with."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script import CTRL_C, CTRL_D, RECOMMENDED, Policy, Typed, always, draw, edit, in_turn, use

from simpletune import files
from simpletune.config.validate import check, errors
from simpletune.errors import ConfigError
from simpletune.wizard import checks, draft
from simpletune.wizard.flow import Stopped
from simpletune.wizard.review import STOP, Choice
from simpletune.wizard.screen import Screen
from simpletune.wizard.state import Answer


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts in this test's folder, and no look at the network."""
    monkeypatch.setenv("SIMPLETUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(checks, "checks", lambda *_args, **_more: iter(()))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw(tmp_path / "pictures", 5)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "project" / "config.json"


def usual(pictures: Path, **more: Any) -> Policy:
    return always(
        {"data.0.folder": Typed(str(pictures)), **{name.replace("__", "."): one for name, one in more.items()}}
    )


def files_of(config: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in config.parent.iterdir() if path.is_file()}


# --- stopped


class StopsAt:
    """Presses a key instead of the `at`-th answer."""

    def __init__(self, policy: Policy, at: int, key: Any) -> None:
        self.policy, self.left, self.key = policy, at, key

    def __call__(self, screen: Screen) -> Any:
        self.left -= 1
        return self.policy(screen) if self.left >= 0 else self.key


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D], ids=["ctrl-c", "ctrl-d"])
def test_stopped_at_every_question_and_gone_on_with(tmp_path: Path, pictures: Path, key: Any) -> None:
    """The draft has all answers so far, no file is touched, and going on asks the rest and makes the same files."""
    policy = usual(pictures, lora__rank=64)
    whole = tmp_path / "project" / "config.json"
    _, uninterrupted = use(whole, policy)
    wanted = files_of(whole)
    asked = uninterrupted.asked[: uninterrupted.asked.index("train")]
    for at in range(len(asked)):
        config = tmp_path / f"at-{at}" / "config.json"
        with pytest.raises((KeyboardInterrupt, EOFError)):
            use(config, StopsAt(policy, at, key))
        assert not config.parent.exists()
        kept = draft.load(config)
        assert list(kept.answers if kept is not None else {}) == [name for name in asked[:at] if name not in END]
        _, rest = use(config, policy)
        assert [name for name in rest.asked if name != "draft"] == [*asked[min(at, asked.index("review")) :], "train"]
        assert files_of(config) == wanted, asked[at]
        assert draft.load(config) is None


END = ("review", "write", "train")  # screens that are no questions


def test_stopped_while_files_that_are_there_are_changed(config: Path, pictures: Path) -> None:
    use(config, usual(pictures))
    before = files_of(config)
    changing = in_turn(("review", edit("lora.rank")), ("lora.rank", 64), ("review", CTRL_C), then=always({}))
    with pytest.raises(KeyboardInterrupt):
        use(config, changing)
    assert files_of(config) == before
    _, second = use(config, always({}))
    assert second.asked == ["draft", "review", "write", "train"]
    assert json.loads(config.read_text())["lora_rank"] == 64


def test_stop_in_the_review_keeps_the_answers(config: Path, pictures: Path) -> None:
    with pytest.raises(Stopped):
        use(config, in_turn(("review", Choice(STOP)), then=usual(pictures)))
    assert not config.exists()
    _, second = use(config, usual(pictures))
    assert second.asked == ["draft", "review", "write", "train"]


def test_a_draft_that_isnt_wanted_is_forgotten(config: Path, pictures: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        use(config, StopsAt(usual(pictures), 6, CTRL_C))
    _, second = use(config, in_turn(("draft", "drop"), then=usual(pictures)))
    assert second.asked[:3] == ["draft", "depth", "hardware"]


def test_a_dry_run_writes_nothing_and_keeps_the_answers(config: Path, pictures: Path) -> None:
    outcome, prompter = use(config, usual(pictures), dry_run=True)
    assert (outcome.written, outcome.train) == (False, False)
    assert any(line.startswith("+") for line in prompter.diff)
    assert not config.parent.exists()
    assert use(config, usual(pictures))[1].asked == ["draft", "review", "write", "train"]


# --- drafts


def test_a_draft_is_the_users_own_and_one_for_each_config(config: Path, pictures: Path) -> None:
    other = config.with_name("other.json")
    for path in (config, other):
        with pytest.raises(KeyboardInterrupt):
            use(path, StopsAt(usual(pictures), 3, CTRL_C))
    assert draft.draft_path(config) != draft.draft_path(other)
    assert stat.S_IMODE(draft.draft_path(config).stat().st_mode) == 0o600


def test_a_draft_holds_no_token(config: Path) -> None:
    token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
    draft.save(config, {"model.id": Answer(token), "a": Answer([{"b": token}]), "lora.rank": Answer(8)}, "new")
    assert token not in draft.draft_path(config).read_text()
    kept = draft.load(config)
    assert kept is not None
    assert set(kept.answers) == {"lora.rank"}


def test_a_draft_of_an_older_set_of_questions(config: Path, pictures: Path) -> None:
    """What isn't asked any more is passed by, what can't be an answer any more is asked again."""
    answers = {
        "depth": Answer("main"), "hardware": Answer("cpu"), "model": Answer("sd2"), "old.question": Answer([1, {}]),
        "data.0.folder": Answer(str(pictures)), "data.0.captions": Answer("parquet"), "lora.rank": Answer("sixteen"),
        "training.steps": Answer({"steps": 3}), "hardware.memory": Answer(None),
    }  # fmt: skip
    draft.save(config, answers, "how it was called then")
    _, prompter = use(config, usual(pictures))
    assert {"model", "data.0.captions", "lora.rank", "training.steps"} <= set(prompter.asked)
    assert "hardware" not in prompter.asked
    assert errors(check(config).problems) == []


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=60) | st.sampled_from((b"[]", b"{}", b'{"format": 1}', b"null", b"\xff")))
def test_a_draft_that_cannot_be_read_is_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    config = tmp_path_factory.getbasetemp() / "any" / "config.json"
    path = draft.draft_path(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert draft.load(config) is None


# --- somebody else


def meanwhile(what: Callable[[], object]) -> Policy:
    """At the last question before writing, somebody else does `what`; then it is written."""

    def answer(_screen: Screen) -> Any:
        what()
        return "yes"

    return answer


def test_two_wizards_at_once(config: Path, pictures: Path) -> None:
    """The other's change is taken up, said, and both are in the files."""
    use(config, usual(pictures))
    other = config.read_text().replace('"lora_rank": 8', '"lora_rank": 8,\n  "seed": 99')
    turns = (("review", edit("training.steps")), ("training.steps", Typed("55")))
    changed = in_turn(*turns, ("write", meanwhile(lambda: config.write_text(other))), then=always({}))
    _, prompter = use(config, changed)
    assert prompter.asked.count("write") == 2
    problem = prompter.screens[-3].problem
    assert problem is not None
    assert "config.json changed meanwhile" in problem
    made = json.loads(config.read_text())
    assert (made["seed"], made["max_train_steps"]) == (99, 55)


def test_another_wizard_was_quicker(config: Path, pictures: Path) -> None:
    def write() -> None:
        config.parent.mkdir()
        config.write_text('{"seed": 5}')

    _, prompter = use(config, in_turn(("write", meanwhile(write)), then=usual(pictures)))
    problem = prompter.screens[-3].problem
    assert problem is not None
    assert "a copy of that will be kept" in problem
    assert (config.parent / "config.json.bak").read_text() == '{"seed": 5}'
    assert errors(check(config).problems) == []


def test_another_hand_broke_the_file(config: Path, pictures: Path) -> None:
    use(config, usual(pictures))
    turns = (("review", edit("lora.rank")), ("lora.rank", 64))
    with pytest.raises(ConfigError, match="can't be read now"):
        use(config, in_turn(*turns, ("write", meanwhile(lambda: config.write_text("{"))), then=always({})))
    assert config.read_text() == "{"
    assert draft.load(config) is not None


# --- a broken beginning


def test_a_broken_file_is_opened_at_the_place(config: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(config, usual(pictures))
    whole = config.read_text()
    config.write_text(whole.replace('"lora_rank": 8', '"lora_rank": 8,,'))
    mends = config.with_name("mend.py")
    mends.write_text(f"import sys, pathlib\npathlib.Path(sys.argv[-1]).write_text({whole!r})\n")
    monkeypatch.setenv("VISUAL", f'"{sys.executable}" "{mends}"')
    _, prompter = use(config, in_turn(("broken", "open"), then=always({})))
    assert prompter.asked == ["broken", "existing", "review", "train"]
    assert any("config.json:" in line for line in prompter.said)
    assert config.read_text() == whole


def test_a_broken_file_makes_way_and_is_kept(config: Path, pictures: Path) -> None:
    config.parent.mkdir()
    config.write_text('{"lora_rank": ')
    use(config, in_turn(("broken", "fresh"), then=usual(pictures)))
    assert (config.parent / "config.json.bak").read_text() == '{"lora_rank": '
    assert errors(check(config).problems) == []


def test_a_broken_file_is_left(config: Path) -> None:
    config.parent.mkdir()
    config.write_text("[")
    with pytest.raises(Stopped):
        use(config, in_turn(("broken", "stop"), then=always({})))
    assert files_of(config) == {"config.json": b"["}


def test_starting_afresh_keeps_the_old_files(config: Path, pictures: Path) -> None:
    use(config, usual(pictures, lora__rank=64))
    before = files_of(config)
    use(config, in_turn(("existing", "fresh"), then=usual(pictures)))
    assert json.loads(config.read_text())["lora_rank"] == 8
    assert (config.parent / "config.json.bak").read_bytes() == before["config.json"]


# --- a disk that doesn't take it


def refused_once(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next file that is written fails as the operating system says it; those after that succeed."""
    real = files.write_new

    def fails(path: Path, *rest: Any, **more: Any) -> None:
        monkeypatch.setattr(files, "write_new", real)
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(files, "write_new", fails)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, "no room"), (errno.EROFS, "can't be written"), (errno.EIO, "can't be written")],
)
def test_a_disk_that_refuses_is_said_in_the_review(
    config: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    def fill(_screen: Screen) -> Any:
        refused_once(code, monkeypatch)
        return "yes"

    _, prompter = use(config, in_turn(("write", fill), then=usual(pictures)))
    review = [screen for screen in prompter.screens if screen.id == "review"][-1]
    assert review.problem is not None
    assert review.problem.startswith("nothing was written: ")
    assert expected in review.problem
    assert errors(check(config).problems) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX's")
def test_a_disk_that_is_really_full(config: Path, pictures: Path) -> None:
    """No file may grow beyond 200 bytes: the write of config.json fails half-way, and nothing is left."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_screen: Screen) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        return "yes"

    def empty(screen: Screen) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert screen.problem is not None
        assert "no room" in screen.problem
        assert not config.parent.exists()
        return Choice("write")

    try:
        use(config, in_turn(("review", RECOMMENDED), ("write", fill), ("review", empty), then=usual(pictures)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert errors(check(config).problems) == []
