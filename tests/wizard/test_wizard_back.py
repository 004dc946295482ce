"""Going back, changing an answer and going on again makes the same files as answering that way at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from script import BACK, FINISH, RECOMMENDED, Stuck, Typed, Visit, always, edit, facts, in_turn, visit
from walks import World, possible

from simpletune.wizard.compose import contents
from simpletune.wizard.facts import Facts
from simpletune.wizard.question import OTHER, same
from simpletune.wizard.questions import questions
from simpletune.wizard.review import ADD, EDIT, REMOVE, Choice
from simpletune.wizard.screen import Screen
from simpletune.wizard.state import Answer, Base
from simpletune.wizard.unattended import dataset_answers, preset_answers
from simpletune.wizard.walk import Terms, walk

MACHINES = ("none", "8gb", "apple")


@dataclass(frozen=True)
class Place:
    """Where the files of this module would be, and what is known of the world there."""

    config: Path
    world: World
    facts: dict[str, Facts]

    def visit(self, policy: Any, machine: str = "none") -> Visit:
        return visit(self.config, policy, self.facts[machine])

    def directly(self, answers: dict[str, Any], machine: str = "none") -> dict[Path, bytes]:
        """The files of somebody who answers so, and takes what is recommended elsewhere."""
        given = {name: Answer(value) for name, value in answers.items()}
        return contents(walk(questions, self.facts[machine], Base(self.config), given, Terms(everything=True)).state)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("back")
    config = root / "project" / "config.json"
    known = {machine: facts(config.parent, machine) for machine in MACHINES}
    return Place(config, World.make(root / "world"), known)


@dataclass
class Settled:
    """Somebody who knows what they want: the same answer to a question whenever it comes up, chosen by `seed`.

    Where it can't be had, what is recommended; and from then on they want that.
    """

    world: World
    seed: int
    wants: dict[str, Any] = field(default_factory=dict)

    def __call__(self, screen: Screen) -> Any:
        if screen.id == "review":
            return FINISH
        if screen.options is None and screen.problem:
            raise Stuck(f"{screen.id}: {screen.problem}")
        answers = self.possible(screen)
        if screen.id not in self.wants:
            self.wants[screen.id] = self._choice(screen, answers)
        wish = self.wants[screen.id]
        if not any(same(wish, one) for one in answers):
            has_field = any(option.value is OTHER for option in screen.options or ())
            if isinstance(wish, int | float) and has_field and not screen.problem:
                return Typed(str(wish))  # a number that isn't among the options any more
            self.wants[screen.id] = answers[0] if needed(screen) else RECOMMENDED
        return self.wants[screen.id]

    def possible(self, screen: Screen) -> list[Any]:
        flavour = self.wants.get("model", RECOMMENDED)
        return possible(screen, self.world, "sd3-medium" if flavour is RECOMMENDED else flavour)

    def _choice(self, screen: Screen, answers: list[Any]) -> Any:
        chance = random.Random(f"{self.seed} {screen.id}")
        return chance.choice(answers) if answers and (needed(screen) or chance.random() < 0.6) else RECOMMENDED

    def change(self, screen: Screen) -> Any:
        """Want something else here from now on."""
        others = [one for one in self.possible(screen) if not same(one, self.wants.get(screen.id))]
        otherwise = self.wants.get(screen.id) if needed(screen) else RECOMMENDED
        self.wants[screen.id] = random.Random(f"{self.seed} change").choice(others) if others else otherwise
        return self(screen)


def needed(screen: Screen) -> bool:
    return screen.options is None and not screen.default and screen.recommended is None


@dataclass
class GoesBack:
    """Goes back `steps` questions at the `at`-th screen, and wants something else there."""

    settled: Settled
    at: int
    steps: int
    seen: int = 0

    def __call__(self, screen: Screen) -> Any:
        self.seen += 1
        if screen.id == "review" or not self.at <= self.seen <= self.at + self.steps:
            return self.settled(screen)
        if self.seen < self.at + self.steps and screen.can_go_back:
            return BACK
        self.steps = 0
        return self.settled.change(screen)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), machine=st.sampled_from(MACHINES), at=st.integers(2, 28), steps=st.integers(1, 27))
def test_back_over_questions_and_forward_again(place: Place, seed: int, machine: str, at: int, steps: int) -> None:
    there_and_back = GoesBack(Settled(place.world, seed), at, min(steps, at - 1))
    try:
        made = place.visit(there_and_back, machine)
        directly = place.visit(Settled(place.world, seed, dict(there_and_back.settled.wants)), machine)
    except Stuck:
        reject()  # what was wanted takes more memory than there is
    assert made.files == directly.files
    assert made.answers == directly.answers


def test_back_at_every_question_to_the_one_before(place: Place) -> None:
    """At every question once: back, another answer there, and on."""

    @dataclass
    class Restless:
        settled: Settled
        seen: set[str] = field(default_factory=set)
        changes: bool = False

        def __call__(self, screen: Screen) -> Any:
            if screen.id == "review":
                return FINISH
            if self.changes:
                self.changes = False
                return self.settled.change(screen)
            if screen.id in self.seen or not screen.can_go_back:
                return self.settled(screen)
            self.seen.add(screen.id)
            self.changes = True
            return BACK

    turns = 0
    for seed in range(8):
        restless = Restless(Settled(place.world, seed))
        try:
            made = place.visit(restless, "8gb")
            directly = place.visit(Settled(place.world, seed, dict(restless.settled.wants)), "8gb")
        except Stuck:
            continue  # too little memory for all these wishes
        turns += len(restless.seen)
        assert made.files == directly.files
    assert turns > 60


PLAIN: dict[str, Any] = {"hardware": "other-cuda", "hardware.memory": 24}


def test_changing_each_row_in_the_review(place: Place) -> None:
    """Every row of the table, each with another answer than it has, is as if it had been answered so."""
    folder = str(place.world.pictures[0])
    needed_then = {"model.mirror": Typed("https://hub.example.org"), "samples.prompt.1": Typed("a red ball")}
    usual = always({**PLAIN, "data.0.folder": Typed(folder), **needed_then})
    first = place.visit(usual)
    rows = [option.value.about for option in first.prompter.screens[-1].options or () if option.value.action == EDIT]
    assert len(rows) > 20
    for row in rows:
        made = place.visit(in_turn(("review", edit(row)), (row, Otherwise(place.world)), then=usual))
        assert made.answers[row] != first.answers[row], row
        further = {name: value for name, value in made.answers.items() if name not in first.answers}
        given = {**PLAIN, **further, "data.0.folder": folder, row: made.answers[row]}
        assert contents(made.state) == place.directly(given), row


@dataclass
class Otherwise:
    """Answers anything but what stands there."""

    world: World

    def __call__(self, screen: Screen) -> Any:
        shown = {str(screen.default), str(Typed(str(screen.default)))}
        return next(one for one in possible(screen, self.world) if str(one) not in shown)


def test_back_from_a_row_leaves_it_as_it_was(place: Place) -> None:
    answers = {**PLAIN, "data.0.folder": Typed(str(place.world.pictures[0]))}
    untouched = place.visit(always(answers))
    looked = place.visit(
        in_turn(
            ("review", edit("lora.rank")), ("lora.rank", BACK),
            ("review", edit("hardware")), ("hardware", "cpu"), ("model", BACK), ("hardware", BACK),
            ("review", Choice(ADD)), ("data.1.folder", BACK), ("data.0.more", BACK),
            then=always(answers),
        )
    )  # fmt: skip
    assert looked.files == untouched.files
    assert looked.prompter.asked.count("review") == 4


def test_back_out_of_another_value_to_its_options(place: Place) -> None:
    folder = Typed(str(place.world.pictures[0]))
    for question, option in (("data.0.resolution", 512), ("lora.rank", 64), ("training.steps", RECOMMENDED)):
        answers = {**PLAIN, "data.0.folder": folder}
        made = place.visit(in_turn((question, Typed(BACK)), (question, BACK), (question, option), then=always(answers)))
        # Back in the field leads to the options, Back there to the question before, whose answer stands.
        assert made.files == place.visit(always({**answers, question: option})).files


def test_adding_and_removing_data_sets_in_the_review(place: Place) -> None:
    one, two, three = (Typed(str(folder)) for folder in place.world.pictures[:3])
    first_only = place.visit(always({"data.0.folder": one}))
    both = place.visit(always({"data.0.folder": one, "data.0.more": True, "data.1.folder": two}))
    second_only = place.visit(always({"data.0.folder": two}))

    def reviewed(*turns: tuple[str, Any], **answers: Any) -> Visit:
        return place.visit(in_turn(*turns, then=always({"data.0.folder": one, "data.1.folder": two, **answers})))

    assert reviewed(("review", Choice(ADD))).files == both.files
    assert reviewed(("review", Choice(ADD)), ("review", Choice(REMOVE, 1))).files == first_only.files
    assert reviewed(("review", Choice(ADD)), ("review", Choice(REMOVE, 0))).files == second_only.files
    again = reviewed(
        ("review", Choice(ADD)), ("data.1.folder", three), ("review", Choice(REMOVE, 1)), ("review", Choice(ADD))
    )
    assert again.files == both.files, "the removed set's answers must not come back"


def test_from_everything_back_to_the_main_things(place: Place) -> None:
    """What isn't asked takes what is recommended, also when it was asked before."""
    answers = {"depth": "everything", "data.0.folder": Typed(str(place.world.pictures[0])), "lora.alpha": Typed("3")}

    class Retreat:
        back = False

        def __call__(self, screen: Screen) -> Any:
            if screen.id == "lora.target" and not self.back:
                self.back = True
            if self.back and screen.id != "depth" and answers["depth"] == "everything":
                return BACK
            if self.back:
                answers["depth"] = "main"
            return answers.get(screen.id, RECOMMENDED)

    made = place.visit(Retreat())
    assert "lora.alpha" not in [screen.id for screen in made.prompter.screens[-8:]]
    assert "lora_alpha" not in made.config


def test_back_to_what_flags_answered(place: Place) -> None:
    """A preset and a folder named on the command line are answers like others: Back leads to them."""
    folder = str(place.world.pictures[0])
    flags = {**preset_answers("8gb"), **dataset_answers([folder], Base(place.config))}
    turns = (("model", BACK), ("hardware.memory", 24), ("precision.base", BACK), ("data.0.more", False))
    made = visit(place.config, in_turn(*turns, then=always({})), place.facts["none"], answers=flags)
    assert made.prompter.asked[:4] == ["depth", "model", "hardware.memory", "model"]
    assert not made.prompter.screens[0].can_go_back
    wanted = {"hardware": "other-cuda", "hardware.memory": 24, "data.0.folder": Typed(folder)}
    assert made.files == place.visit(always(wanted)).files


def test_an_answer_that_stops_holding_is_asked_again_and_says_why(place: Place) -> None:
    """Eight billion weights in int8 fit 80 GB and not 8: the question comes back, with why and with another choice."""
    folder = Typed(str(place.world.pictures[0]))
    wanted = {"hardware": "other-cuda", "hardware.memory": 80, "model": "sd3.5-large", "data.0.folder": folder}
    turns = (("precision.base", "int8-quanto"), ("review", edit("hardware.memory")), ("hardware.memory", 8))
    made = place.visit(in_turn(*turns, then=always(wanted)))
    again = [screen for screen in made.prompter.screens if screen.id == "precision.base"][-1]
    assert again.problem is not None
    assert again.problem.startswith("int8-quanto: too large")
    assert again.default == again.recommended != "int8-quanto"
    assert made.files == place.visit(always({**wanted, "hardware.memory": 8})).files


def test_where_nothing_fits_the_panel_says_the_way_down(place: Place) -> None:
    """However it came about, there is a sentence and a way back."""
    wanted = {"hardware": "other-cuda", "hardware.memory": 6, "data.0.folder": Typed(str(place.world.pictures[0]))}
    turns = (
        ("data.0.resolution", Typed("3072")),
        ("precision.base", BACK),
        ("data.0.more", BACK),
        ("data.0.resolution", 512),
    )
    made = place.visit(in_turn(*turns, then=always(wanted)))
    tight = next(screen for screen in made.prompter.screens if screen.id == "precision.base")
    assert all(option.disabled for option in tight.options or ())
    assert tight.problem is not None
    assert "go back" in tight.problem
    assert any(line.startswith("Too much") for line in tight.panel)
