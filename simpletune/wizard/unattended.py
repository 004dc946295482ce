"""The wizard without anybody to ask: the same questions, answered by flags, a file of answers and recommendations."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simpletune.config import jsonfile
from simpletune.config.problems import quoted, render
from simpletune.config.rules_captions import table_kind
from simpletune.config.rules_sources import is_hub_data_set
from simpletune.config.suggest import close, did_you_mean
from simpletune.errors import ConfigError, EnvironmentNotReady, SimpletuneError, UsageError
from simpletune.wizard.facts import Facts
from simpletune.wizard.outlook import panel
from simpletune.wizard.question import NotUnderstood, Question, same
from simpletune.wizard.questions import questions
from simpletune.wizard.questions.common import typed_path
from simpletune.wizard.questions.hardware import OTHER_CARD
from simpletune.wizard.questions.masks import ALPHA, NONE
from simpletune.wizard.questions.places import FORMS, HUB, KEY_OF_TYPE, typed_place
from simpletune.wizard.review import before_of
from simpletune.wizard.start import unused_sets
from simpletune.wizard.state import MISSING, Answer, Base, State
from simpletune.wizard.walk import Terms, Walk, walk

PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{f"{size}gb": {"hardware": OTHER_CARD, "hardware.memory": size} for size in (6, 8, 12, 16, 24)},
    "cpu": {"hardware": "cpu", "model": "tiny"},
}
_PATHS = (".folder", ".file", ".encoders")  # how the names of questions end that are answered by a path
_NO_GPU = (
    "--preset cpu takes the built-in tiny model, which is not SD3 but trains here; --preset 8gb (6gb to 24gb) writes "
    "the files for another machine with such a card; `simpletune doctor` says why no GPU can be used"
)


def preset_answers(name: str) -> dict[str, Answer]:
    return {question: Answer(value) for question, value in PRESETS[name].items()}


def dataset_answers(places: Sequence[str], base: Base) -> dict[str, Answer]:
    """The answers that name the places as data sets, after those the files have; one they have is no new one."""
    there = {_place_of(entry, base) for entry in base.images}
    places = [place for place in dict.fromkeys(map(_typed, places)) if place not in there]
    first = len(base.images)
    answers: dict[str, Answer] = {}
    if first and places:
        answers[f"data.{first - 1}.more"] = Answer(True)
    for number, place in enumerate(places, first):
        answers[f"data.{number}.folder"] = Answer(place)
        answers[f"data.{number}.more"] = Answer(number < first + len(places) - 1)
    return answers


def _typed(place: str) -> str:
    try:
        return typed_place(place)
    except NotUnderstood as error:
        raise UsageError(f"--dataset {quoted(place)}: {error}", f"name {FORMS}") from None


def _place_of(entry: Mapping[str, Any], base: Base) -> str:
    """The place of a data set, as `--dataset` would name it."""
    kind = str(entry.get("type", "local"))
    named = str(entry.get(KEY_OF_TYPE.get(kind, "instance_data_dir"), ""))
    if kind == "s3":
        return named.rstrip("/")
    data_path = base.data_file.path if base.data_file is not None else base.config_path
    path = os.path.normpath(Path(os.path.abspath(data_path)).parent / Path(named).expanduser())  # noqa: PTH100
    return HUB + named if kind == "huggingface" and is_hub_data_set(named) and not os.path.exists(path) else path  # noqa: PTH110


def read_answers(path: Path) -> dict[str, Answer]:
    """A file of answers: one JSON object, question to value; paths are meant from the current folder.

    Raises ConfigError with every problem of the file.
    """
    file = _read(path)
    if file.problems:
        said = "\n".join(f"{_at(path, problem.position)}: {problem.message}" for problem in file.problems)
        raise ConfigError(said, 'a file of answers is an object such as {"lora.rank": 32}')
    if not isinstance(file.value, dict):
        raise ConfigError(f"{path} holds no object", 'write for instance {"lora.rank": 32}')
    answers = {}
    for name, value in file.value.items():
        answers[name] = Answer(_from_here(path, name, value))
    return answers


def _read(path: Path) -> jsonfile.JsonFile:
    """A file, a pipe, or with `-` the standard input."""
    if str(path) == "-":
        return jsonfile.parse(Path("answers"), sys.stdin.buffer.read())
    if path.exists() and not path.is_file() and not path.is_dir():
        return jsonfile.parse(path, path.read_bytes())
    return jsonfile.read(path)


def _at(path: Path, position: jsonfile.Position) -> str:
    return f"{path}:{position.line}:{position.column}" if position.line else str(path)


def _from_here(path: Path, name: str, value: Any) -> Any:
    is_table = name.endswith(".captions") and isinstance(value, str) and table_kind(Path(value).suffix) is not None
    is_masks = name.endswith(".masks") and value not in (NONE, ALPHA)
    if not isinstance(value, str) or not (name.endswith(_PATHS) or is_table or is_masks):
        return value
    try:
        return typed_place(value) if name.endswith(".folder") else typed_path(value)
    except NotUnderstood as error:
        raise UsageError(f"{path}: {name}: {quoted(value)}: {error}", "name a folder or a file") from None


def answer_all(facts: Facts, base: Base, answers: Mapping[str, Answer]) -> Walk:
    """Every question answered: by `answers`, by the files, else as is recommended.

    Raises UsageError for an answer that is not possible, or one that nobody can guess; EnvironmentNotReady when there
    is no GPU and nobody has said what to do about it.
    """
    reached = walk(questions, facts, base, answers, Terms(everything=True))
    model = reached.step("model")
    if model is not None and model.origin == "proposed" and model.answer.value == "tiny":
        raise EnvironmentNotReady(_why_no_gpu(facts), _NO_GPU)
    if reached.open is not None:
        raise _open(reached, reached.open)
    _no_strangers(reached, answers)
    if unused := unused_sets(reached.state):
        raise UsageError(unused[0], "add --dataset FOLDER for each further one")
    _said_once(reached, answers)
    return reached


def _said_once(reached: Walk, answers: Mapping[str, Answer]) -> None:
    for step in reached.steps:
        name = step.question.id
        if name in answers and step.origin != "file" and reached.state.base.sets_any(name, step.question.keys):
            raise UsageError(f"{name} is answered, and --set says something else", "leave one of the two out")


def replaced(reached: Walk) -> list[str]:
    """A sentence for each value of the files that isn't possible any more, and made way for what is proposed."""
    before = State(reached.state.facts, reached.state.base, {})
    lines = []
    for step in reached.steps:
        old = before_of(step.question, before)
        if step.origin == "proposed" and old is not MISSING and not same(old, step.answer.value):
            question = step.question
            wrong = question.objection(reached.state, old)
            now = question.label(reached.state, step.answer.value)
            why = f"can't stay ({wrong})" if wrong else "was for another machine or model"
            lines.append(f"{question.row}: {question.shown(old)} {why}: {now} instead")
    return lines


def _why_no_gpu(facts: Facts) -> str:
    found = [device for device in facts.devices if device.kind != "cpu"]
    if not found:
        return "SD3 needs a GPU, and this machine has none"
    return f"SD3 needs a GPU, and {found[0].name} can't be used: {found[0].why_not}"


def _open(reached: Walk, question: Question) -> SimpletuneError:
    """What to say of the question that couldn't be answered."""
    given = reached.state.answers.get(question.id)
    found = given.value if given is not None else question.read(reached.state)
    found = question.propose(reached.state).value if found is MISSING else found
    if found is not MISSING:
        wrong = question.objection(reached.state, found)
        if question.id.startswith("data.") and question.id.endswith(".folder") and given is not None:
            return UsageError(f"--dataset {question.shown(found)}: {wrong}", f"name {FORMS}")
        if question.options is not None and all(option.disabled for option in question.options(reached.state)):
            way_out = next((line for line in panel(reached.state) if line.startswith("Too much")), None)
            return UsageError(f"{question.id}: nothing there fits with the other answers: {wrong}", way_out)
        return UsageError(f"{question.id}: {question.shown(found)}: {wrong}", _how_to_say(question))
    if question.id == "output":
        why = question.propose(reached.state).reason
        return EnvironmentNotReady(f"nowhere to put the result: {why}", "name a folder with --set output_dir=FOLDER")
    if question.id.startswith("data.") and question.id.endswith(".folder"):
        return UsageError("no folder of pictures is named", "add --dataset PATH; several times for several folders")
    return UsageError(f"{question.id} has no answer: {question.title}", _how_to_say(question))


def _how_to_say(question: Question) -> str:
    key = question.keys[0] if question.keys else ""
    parts = question.id.split(".")
    name = f"dataset.{parts[1]}.{key}" if parts[0] == "data" else key
    way = f"--set {name}=VALUE, or " if key else ""
    return f'say it with {way}{{"{question.id}": ...}} in a file for --answers'


def _no_strangers(reached: Walk, answers: Mapping[str, Answer]) -> None:
    known = [step.question.id for step in reached.steps]
    for name in answers:
        if name not in known and not name.endswith(".more"):
            raise UsageError(
                f"there is no question {quoted(name)} here{did_you_mean(close(name, known))}",
                f"asked are: {', '.join(known)}",
            )


def as_json(made: Mapping[Path, bytes], folder: Path) -> str:
    """The files as one JSON object by name, without those of the program's own folder."""
    shown = {
        path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path): json.loads(content)
        for path, content in made.items()
        if path.parent.name not in (".simpletune", ".vscode")
    }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def refuse_problems(problems: Sequence[Any]) -> None:
    """Raise ConfigError when the files would not be valid."""
    wrong = [problem for problem in problems if problem.severity == "error" and problem.kind == "config"]
    if wrong:
        text = "\n".join(render(problem) for problem in wrong)
        raise ConfigError(f"these answers make files with errors:\n{text}", "nothing was written")
