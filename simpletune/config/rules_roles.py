"""Rules of what data sets are for: training, evaluation, regularisation, masks, and when each is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletune.config.document import Document, Keys
from simpletune.config.problems import Problem, quoted, quoted_path
from simpletune.config.rules import differs, path_problems
from simpletune.config.rules_sources import FOLDER_TYPES, any_file
from simpletune.config.view import View

_TRAINING_KEYS = (
    "repeats", "probability", "start_step", "end_step", "is_regularisation_data", "regularisation_weight",
)  # fmt: skip


def role_problems(whole: View, data: Document) -> Iterator[Problem]:
    """Everything about the roles of data sets, alone and side by side."""
    yield from _sets_there(whole, data)
    yield from _only_regularisation(whole.trained)
    for entry in whole.images:
        yield from _role(entry)
        yield from _masks(entry)
    for entry in whole.trained:
        yield from _schedule(entry, whole)
    yield from _gaps(whole)


def _sets_there(whole: View, data: Document) -> Iterator[Problem]:
    if whole.trained or not isinstance(data.value, list) or () in data.bad:
        return
    entries = [entry for entry in data.value if isinstance(entry, dict)]
    if any(index in {bad[0] for bad in data.bad if bad} for index in range(len(data.value))):
        return  # an entry that can't be read may be the one
    kinds = [entry.get("dataset_type", "image") for entry in entries]
    if "image" in kinds:
        what = "to train on" if whole.images else "with pictures"
        message, hint = f"every data set {what} is disabled", 'set "disabled" to false in one of them'
    elif "eval" in kinds:
        message = "every data set with pictures is for evaluation: there is none to train on"
        hint = 'add one without "dataset_type": "eval"; num_eval_images in config.json holds some of its pictures out'
    else:
        message = "there is no data set with pictures"
        hint = 'add an entry such as {"id": "my-pictures", "instance_data_dir": "pictures"}'
    yield data.problem((), message, hint)


def _only_regularisation(trained: Sequence[Keys]) -> Iterator[Problem]:
    if trained and all(entry["is_regularisation_data"] for entry in trained):
        message = "every data set is regularisation data: there is nothing new to learn"
        hint = "add the pictures to learn, or set it to false here"
        yield trained[0].error("is_regularisation_data", message, hint)


def _role(entry: Keys) -> Iterator[Problem]:
    if entry.fine("dataset_type") and entry["dataset_type"] == "eval":
        for key in _TRAINING_KEYS:
            if differs(entry, key):
                yield entry.useless(key, 'while "dataset_type" is eval: the set is never trained on')
        return
    counts = entry["is_regularisation_data"] or not entry.fine("is_regularisation_data")
    if not counts and differs(entry, "regularisation_weight"):
        yield entry.useless("regularisation_weight", 'while "is_regularisation_data" is false')


# --- masks


def _masks(entry: Keys) -> Iterator[Problem]:
    if not entry.fine("mask_source", "mask_data_dir"):
        return
    source, folder = entry["mask_source"], entry["mask_data_dir"]
    if source != "folder":
        if folder is not None:
            hint = 'to use these masks write "mask_source": "folder"; else remove it'
            yield entry.useless("mask_data_dir", f'while "mask_source" is {source}', hint)
    elif folder is None:
        message = '"mask_source" folder needs "mask_data_dir"'
        yield entry.error("mask_source", message, 'add for instance "mask_data_dir": "masks"')
    else:
        yield from _mask_folder(entry)


def _mask_folder(entry: Keys) -> Iterator[Problem]:
    key = "mask_data_dir"
    found = list(path_problems(entry, key))
    yield from found
    path = entry.path(key)
    if found or path is None:
        return
    try:
        if next(any_file(path), None) is None:
            yield entry.error(key, f'"{key}": {quoted_path(path)} is empty', "put a mask there for each picture")
            return
    except OSError as error:
        yield entry.error(key, f'"{key}": {quoted_path(path)} can\'t be read: {error.strerror}')
        return
    pictures = entry.path("instance_data_dir") if entry.given("instance_data_dir") else None
    if pictures is not None and entry["type"] == "local" and _resolved(path).is_relative_to(_resolved(pictures)):
        message = f'"{key}": {quoted_path(path)} is inside the picture folder, so masks would count as pictures'
        yield entry.error(key, message, "move the masks to a folder of their own")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


# --- when a data set is trained on


def _schedule(entry: Keys, whole: View) -> Iterator[Problem]:
    if not entry.fine("start_step", "end_step"):
        return
    start, end = entry["start_step"], entry["end_step"]
    if end is not None and end <= start:
        key = entry.first_given("end_step", "start_step")
        yield entry.error(key, f'"end_step" {end} must be above "start_step" {start}')
        return
    steps = whole.run_steps if whole.config.fine("max_train_steps", "num_train_epochs") else None
    if start and steps is not None and start >= steps:
        message = f'"start_step" {start} is not reached in a run of {steps} steps: this set is never trained on'
        yield entry.warning("start_step", message, "lower it, or raise max_train_steps")


def _gaps(whole: View) -> Iterator[Problem]:
    """Steps that no data set is trained on."""
    if not all(entry.fine("start_step", "end_step") for entry in whole.trained):
        return
    config = whole.config
    steps = whole.run_steps if config.fine("max_train_steps", "num_train_epochs") else None
    last = math.inf if steps is None else steps
    covered: float = 0
    for entry in sorted(whole.trained, key=lambda entry: int(entry["start_step"])):
        start, end = entry["start_step"], entry["end_step"]
        if covered < start and covered < last:
            yield _gap(entry, "start_step", covered, min(start, last))
            return
        covered = max(covered, math.inf if end is None else end)
    if whole.trained and steps is not None and covered < steps:
        longest = max(whole.trained, key=lambda entry: int(entry["end_step"] or 0))
        yield _gap(longest, "end_step", covered, steps)


def _gap(entry: Keys, key: str, first: float, end: float) -> Problem:
    message = f"no data set is trained on from step {first:.0f} to step {end - 1:.0f}"
    return entry.error(key, message, "let a set begin where another ends; a run of fewer steps may do, too")


# --- evaluation


def held_apart(whole: View) -> Iterator[Problem]:
    """Warnings about pictures that are to be held out and are trained on all the same."""
    held = [entry for entry in whole.images if entry["dataset_type"] == "eval" and entry.fine("type")]
    trained = [(entry, _pictures(entry)) for entry in whole.trained if held and entry.fine("type")]
    for entry in held:
        pictures = _pictures(entry)
        other = next((one for one, theirs in trained if _overlap(pictures, theirs)), None)
        if other is not None:
            key = "instance_data_dir" if entry["type"] in FOLDER_TYPES else "dataset_type"
            message = f"pictures of this evaluation set are in the training set {quoted(other['id'])} too"
            yield entry.warning(key, message, "its validation loss says little then: give them folders apart")


def _pictures(entry: Keys) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where a data set's pictures are: what must be equal for two to have the same, and a path of folders in that."""
    kind = entry["type"]
    if kind in FOLDER_TYPES:
        folder = entry.path("instance_data_dir")
        return (kind,), () if folder is None else _resolved(folder).parts
    if kind == "s3":
        return (kind, str(entry["s3_endpoint"])), tuple(part for part in str(entry["s3_url"]).split("/") if part)
    keys = ("dataset_name", "dataset_config", "dataset_split", "dataset_revision", "dataset_filter")
    return (kind, *(str(entry[key]) for key in keys)), (str(entry["dataset_name"]),)


def _overlap(one: tuple[tuple[str, ...], tuple[str, ...]], other: tuple[tuple[str, ...], tuple[str, ...]]) -> bool:
    """Whether one of two places is, or is in, the other."""
    length = min(len(one[1]), len(other[1]))
    return length > 0 and one[0] == other[0] and one[1][:length] == other[1][:length]
