"""A prompter that answers from a script, and the worlds it is shown: machines, pictures, answers of the hub.

It is as strict as a terminal: it never takes a disabled option, types only what the screen's check lets pass, and goes
back only where there is a way back. Every screen it sees must be fit to be shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from simpletune.config.installed import TorchBuild
from simpletune.machine.devices import GIB
from simpletune.machine.gpus import Gpu
from simpletune.machine.hardware import Machine
from simpletune.machine.hub_access import Access
from simpletune.wizard.compose import contents
from simpletune.wizard.facts import Facts
from simpletune.wizard.flow import Interview
from simpletune.wizard.question import OTHER, same
from simpletune.wizard.review import EDIT, WRITE, Choice
from simpletune.wizard.screen import Back, Option, Screen
from simpletune.wizard.session import Outcome, Session
from simpletune.wizard.start import parse_sets, read_base
from simpletune.wizard.state import Answer, Base, State
from simpletune.wizard.walk import Walk

# --- what a script may say to a screen


@dataclass(frozen=True)
class Pressed:
    """A key instead of an answer: "back", "ctrl-c" or "ctrl-d"."""

    key: str


@dataclass(frozen=True)
class Typed:
    """Text typed into a field, or a key pressed in it; for a choice, its "another value" is taken first."""

    text: str | Pressed


RECOMMENDED = object()
BACK, CTRL_C, CTRL_D = Pressed("back"), Pressed("ctrl-c"), Pressed("ctrl-d")
FINISH = Choice(WRITE)
Policy = Callable[[Screen], Any]


def always(answers: Mapping[str, Any]) -> Policy:
    """Answers by question id; what is recommended for all others, and the review is accepted."""
    return lambda screen: answers.get(screen.id, RECOMMENDED)


def in_turn(*turns: tuple[str, Any], then: Policy) -> Policy:
    """Each turn is used once, at the next screen of its id; all else is answered as `then` says. A turn's answer may be
    found out from the screen."""
    left = list(turns)

    def answer(screen: Screen) -> Any:
        if left and left[0][0] == screen.id:
            wish = left.pop(0)[1]
            return wish(screen) if callable(wish) else wish
        return then(screen)

    return answer


class Stuck(AssertionError):
    """The script's answer can't be given on this screen."""


class Scripted:
    """A `Prompter`. `screens` are all that were shown, `said` all lines, `answered` the values by question id."""

    def __init__(self, policy: Policy, most: int = 400) -> None:
        self.policy = policy
        self.most = most
        self.screens: list[Screen] = []
        self.said: list[str] = []
        self.diff: list[str] = []
        self._to_type: str | Pressed | None = None  # the text for the field that follows "another value"

    @property
    def asked(self) -> list[str]:
        """The ids of the questions, once for each time they came up."""
        return [screen.id for screen in self.screens]

    def ask(self, screen: Screen) -> Any:
        self.screens.append(screen)
        assert len(self.screens) <= self.most, f"going round in circles: {self.asked[-20:]}"
        fit_to_be_shown(screen)
        if self._to_type is not None and screen.options is None:
            text, self._to_type = self._to_type, None
            return pressed(screen, text) if isinstance(text, Pressed) else typed(screen, text)
        wish = self.policy(screen)
        if isinstance(wish, Pressed):
            return pressed(screen, wish)
        if isinstance(wish, Typed) and screen.options is not None:
            self._to_type = wish.text
            return chosen(screen, OTHER)
        if screen.options is None:
            return typed(screen, self._text(screen, wish))
        return chosen(
            screen, screen.default if wish is RECOMMENDED and screen.id == "review" else self._value(screen, wish)
        )

    def _value(self, screen: Screen, wish: Any) -> Any:
        if wish is not RECOMMENDED:
            return wish
        assert screen.options is not None
        open_ = [option.value for option in screen.options if option.disabled is None]
        if open_ == [OTHER]:
            raise Stuck(f"{screen.id}: nothing fits")
        return next((value for value in open_ if same(value, screen.recommended)), screen.default)

    def _text(self, screen: Screen, wish: Any) -> str:
        if wish is RECOMMENDED:
            return str(screen.default if screen.recommended is None else screen.recommended)
        return str(wish.text) if isinstance(wish, Typed) else str(wish)

    def say(self, lines: Sequence[str]) -> None:
        assert all(isinstance(line, str) for line in lines)
        self.said += lines

    def show_diff(self, lines: Iterable[str]) -> None:
        self.diff = list(lines)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        assert what
        yield


def chosen(screen: Screen, value: Any) -> Any:
    """The option of that value; Stuck when there is none to be had."""
    assert screen.options is not None
    found = next((option for option in screen.options if same(option.value, value)), None)
    if found is None or found.disabled is not None:
        why = "no such option" if found is None else found.disabled
        raise Stuck(f"{screen.id}: {value!r}: {why}; there are {[option.value for option in screen.options]}")
    return found.value


def typed(screen: Screen, text: str) -> str:
    """The text, if the field's check lets it pass."""
    problem = screen.check(text) if screen.check is not None else None
    if problem is not None:
        raise Stuck(f"{screen.id}: {text!r}: {problem}")
    return text


def pressed(screen: Screen, key: Pressed) -> Any:
    if key == CTRL_C:
        raise KeyboardInterrupt
    if key == CTRL_D:
        raise EOFError
    if not screen.can_go_back:
        raise Stuck(f"{screen.id} has no way back")
    raise Back


def fit_to_be_shown(screen: Screen) -> None:
    """What every screen owes to whoever reads it."""
    assert all((screen.heading, screen.title, screen.about)), screen
    assert screen.recommended in (None, "") or screen.reason, f"{screen.id} recommends without a reason"
    texts = [screen.heading, screen.title, screen.about, screen.reason, *screen.panel]
    for option in screen.options or ():
        assert option.label, screen
        texts += [option.label, option.note, option.disabled or ""]
    for text in texts:
        assert "\n" not in text, f"{screen.id}: {text!r}"
        assert not {"MISSING", "None"} & set(text.split()), f"{screen.id}: {text!r}"
    if screen.options is not None:
        _choice_is_sound(screen, screen.options)
    elif screen.default and not screen.problem and screen.check is not None:
        assert screen.check(str(screen.default)) is None, f"{screen.id}: Enter alone is refused: {screen.default!r}"


def _choice_is_sound(screen: Screen, options: Sequence[Option]) -> None:
    values = [option.value for option in options]
    assert not any(same(one, other) for at, one in enumerate(values) for other in values[:at]), f"{screen.id}: {values}"
    usable = [option.value for option in options if option.disabled is None]
    assert usable or screen.can_go_back, f"{screen.id} leaves no way out"
    assert not usable or any(same(value, screen.default) for value in usable), f"{screen.id}: {screen.default!r}"


# --- machines

NO_CUDA = TorchBuild("2.13.0+cpu", None, None)
CUDA = TorchBuild("2.13.0+cu130", "13.0", None)
CARD_8GB = Gpu(0, "NVIDIA GeForce RTX 4060", 8 * GIB, 7 * GIB, "580.65.06", (8, 9), "GPU-a")
BARE = Machine((), 32 * GIB, 30 * GIB, 500 * 10**9, 8, NO_CUDA, processor="Some Processor")
MACHINES = {
    "none": BARE,
    "8gb": replace(BARE, gpus=(CARD_8GB,), torch=CUDA),
    "24gb": replace(
        BARE, gpus=(replace(CARD_8GB, name="NVIDIA RTX 4090", memory_total=24 * GIB, memory_free=23 * GIB),), torch=CUDA
    ),
    "80gb": replace(
        BARE, gpus=(replace(CARD_8GB, name="NVIDIA H100", memory_total=80 * GIB, memory_free=79 * GIB),), torch=CUDA
    ),
    "unusable": replace(BARE, gpus=(CARD_8GB,)),
    "apple": replace(BARE, system="Darwin", architecture="arm64", release="15.1", processor="Apple M2 Pro"),
}

HUB = Access("owner/name", "https://hub.example", True, True, "accepted", False, "the hub gives it", None, True)


def facts(folder: Path, machine: str = "none") -> Facts:
    """A world of one machine, and a hub that gives everything. Folders are looked at as they are."""
    return Facts(folder, look=lambda _folder: MACHINES[machine], ask_hub=lambda *_asked: HUB)


# --- pictures


def draw(
    folder: Path, count: int = 6, texts: bool = True, size: tuple[int, int] = (64, 64), names: str = "a {} ball"
) -> Path:
    """A folder of small drawings, half of them wide, with a caption beside each unless `texts` is False."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = ("red", "green", "blue", "orange", "purple", "brown", "black", "teal")
    for index in range(count):
        colour = colours[index % len(colours)]
        name = names.format(colour) + (f" {index}" if index >= len(colours) else "")
        picture = Image.new("RGB", (size[0] * 3 // 2, size[1]) if index % 2 else size, "white")
        ImageDraw.Draw(picture).ellipse((8, 8, size[0] - 8, size[1] - 8), fill=colour)
        picture.save(folder / f"{name}.png")
        if texts:
            (folder / f"{name}.txt").write_text(f"a {colour} ball on white", encoding="utf-8")
    return folder


# --- going through the wizard


@dataclass
class Visit:
    """One time through the interview: what was asked and answered, and the files it would write."""

    prompter: Scripted
    walk: Walk
    saved: list[dict[str, Answer]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.walk.state

    @property
    def files(self) -> dict[str, bytes]:
        """The planned contents by their name from config.json's folder, without the copies of the schemas."""
        made = contents(self.state)
        names = {path: path.relative_to(self.state.folder.parent).as_posix() for path in made}
        return {names[path]: content for path, content in made.items() if path.parent.name != ".simpletune"}

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(contents(self.state)[self.state.base.config_path.absolute()])
        return found

    @property
    def answers(self) -> dict[str, Any]:
        """Every answer by question id, as a file for --answers holds them."""
        return {step.question.id: step.answer.value for step in self.walk.steps}


def visit(
    config: Path,
    policy: Policy,
    world: Facts | None = None,
    *,
    base: Base | None = None,
    answers: Mapping[str, Answer] | None = None,
    through: bool = False,
) -> Visit:
    """Go through the interview on `config` until the review is accepted."""
    prompter = Scripted(policy)
    saved: list[dict[str, Answer]] = []
    begun = read_base(config) if base is None else base
    interview = Interview(
        prompter,
        world or facts(config.parent),
        begun,
        answers or {},
        lambda now: saved.append(dict(now)),
        through=through,
    )
    return Visit(prompter, interview.run(), saved)


def write(made: Visit) -> None:
    """Put the planned files where they belong."""
    for path, content in contents(made.state).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def edit(question_id: str) -> Choice:
    """The review's row of a question."""
    return Choice(EDIT, question_id)


def use(
    config: Path,
    policy: Policy,
    machine: str = "none",
    *,
    given: Mapping[str, Answer] | None = None,
    sets: Sequence[str] = (),
    dry_run: bool = False,
) -> tuple[Outcome, Scripted]:
    """One whole use of the wizard on `config`: the draft, the interview, the writing, the offer to train."""
    prompter = Scripted(policy)
    session = Session(prompter, config, parse_sets(sets), dry_run=dry_run)
    session.facts = facts(config.parent, machine)
    return session.run(lambda _base: dict(given or {})), prompter
