"""Where the result goes, which tracker is told, and what an editor gets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletune.config.continuing import changed_settings, saved_settings
from simpletune.config.editor_files import vscode_settings_path
from simpletune.config.installed import is_installed
from simpletune.config.problems import errors
from simpletune.disk_words import in_words, why_unwritable
from simpletune.errors import UsageError
from simpletune.wizard.compose import checked, editor_settings
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.questions.common import read_key, some_text, understood_by, unfillable, write_key
from simpletune.wizard.questions.source import name_of
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Result"
_MOST_FOLDERS = 100


def output(state: State) -> Iterator[Question]:
    yield FOLDER
    yield TRACKERS
    if uses_vscode(state):
        yield EDITOR


def _propose(state: State) -> Proposal[Any]:
    """A folder named after the first data set; if a run is in it that the answers can't continue, a new one."""
    first = name_of(state.place(0).name) if state.images else "lora"
    stem = state.base.config.get("output_dir") or f"output/{first}"
    short = re.sub(r"-(r?\d+)$", "", stem) or stem
    candidates = [stem, f"{short}-r{state.value('lora_rank')}", *(f"{short}-{n}" for n in range(2, _MOST_FOLDERS))]
    value = next((one for one in candidates if _object(state, one) is None), MISSING)
    if value is MISSING:
        return Proposal(value, str(_object(state, stem)))
    if value == stem:
        return Proposal(value, "named after the pictures" if not state.base.exists else "as it is")
    return Proposal(value, f"{stem} holds a run that these answers can't continue")


def _object(state: State, value: Any) -> str | None:
    if wrong := understood_by(some_text)(state, value) or unfillable(value):
        return wrong
    path = state.resolve(value)
    if wrong := _not_a_new_folder(path) or _among_pictures(state, path):
        return wrong
    changed = changed_since(state, path)
    return (
        f"{path.name} holds a run with other settings, which these can't continue: {'; '.join(changed)}"
        if changed
        else None
    )


def _not_a_new_folder(path: Path) -> str | None:
    try:
        parent = next((folder for folder in (path, *path.parents) if folder.exists()), path)
        if not parent.is_dir():
            return f"{parent} is a file, not a folder"
        if os.access(parent, os.W_OK | os.X_OK):
            return None
        return f"{parent} can't be written to: {in_words(OSError(why_unwritable(parent), ''))}"
    except OSError as error:
        return f"{path} can't be used: {error.strerror}"


def _among_pictures(state: State, path: Path) -> str | None:
    folders = [folder for index in range(len(state.images)) if (folder := state.place(index).folder) is not None]
    inside = any(path.is_relative_to(folder) for folder in folders)
    return f"{path} is inside a folder of pictures, and those are only read: choose one outside" if inside else None


def changed_since(state: State, folder: Path) -> list[str]:
    """What a run in `folder` was set to and is set to now, of all that can't change within a run."""
    from simpletune.config.load import settings_of

    saved = saved_settings(folder)
    if saved is None:
        return []
    before = state.config.get("output_dir")
    state.config["output_dir"] = state.stored(folder)
    try:
        found = checked(state)
        config_errors = [problem for problem in errors(found.problems) if problem.kind == "config"]
        return [] if config_errors else changed_settings(saved, settings_of(state.base.config_path, found.view))
    finally:
        if before is None:
            state.config.pop("output_dir", None)
        else:
            state.config["output_dir"] = before


def _read(state: State) -> Any:
    if "output_dir" in state.config:
        return state.config["output_dir"]
    return "output" if state.base.exists else MISSING


def _write(state: State, value: str) -> None:
    state.config["output_dir"] = value if "{" in value else state.stored(state.resolve(value))


FOLDER = Question(
    id="output",
    section=SECTION,
    row="Result in",
    title="Where does the result go?",
    about="A folder, from where config.json is: for the LoRA, checkpoints, sample pictures and plots.",
    path="folder",
    parse=some_text,
    object=_object,
    propose=_propose,
    read=_read,
    write=_write,
    keys=("output_dir",),
)


def _trackers(state: State) -> tuple[Option, ...]:
    """None, each alone, and several together where the files have them."""
    from simpletune.config.trackers import TRACKER_LIBRARIES, wandb_login

    options = [Option([], "none")]
    for name, (module, package) in TRACKER_LIBRARIES.items():
        lacking = None if is_installed(module) else f"needs pip install {package}"
        if name == "wandb" and lacking is None and not wandb_login().ready:
            lacking = "needs a login: wandb login"
        options.append(Option([name], name, disabled=lacking))
    inherited = state.base.config.get("report_to")
    if isinstance(inherited, list) and not any(option.value == inherited for option in options):
        options.append(Option(inherited, _shown_trackers(inherited), "as the file has it"))
    return tuple(options)


def _shown_trackers(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"


TRACKERS = Question(
    id="trackers",
    section=SECTION,
    row="Tracker",
    title="Shall a tracker show curves and pictures while it trains?",
    about="Curves, pictures and plots are kept in the result's folder in any case.",
    options=_trackers,
    propose=lambda _state: Proposal([], "nothing leaves this machine"),
    read=read_key("report_to"),
    write=write_key("report_to", leave_default=True),
    show=_shown_trackers,
    fine=True,
    keys=("report_to",),
)


def uses_vscode(state: State) -> bool:
    """Whether there is any trace of VS Code, so that asking about it makes sense."""
    return vscode_settings_path(state.folder).parent.is_dir() or os.environ.get("TERM_PROGRAM") == "vscode"


def _has_entry(state: State) -> bool:
    """Whether VS Code's settings have the entry already."""
    return not _unsafe(state) and not editor_settings(state)


def _unsafe(state: State) -> str | None:
    """Why VS Code's settings can't be changed, if so."""
    try:
        editor_settings(state)
    except (UsageError, OSError) as error:
        return str(error)
    return None


def _propose_editor(state: State) -> Proposal[bool]:
    """No: a file that is the editor's own is changed only if somebody says so."""
    return Proposal(False, _unsafe(state) or "the settings are yours; yes adds one entry to them")


EDITOR = Question(
    id="editor",
    section=SECTION,
    row="VS Code",
    title="Shall VS Code complete and check the two files?",
    about="It takes an entry in .vscode/settings.json of this folder, beside what is there.",
    options=lambda state: (Option(True, "yes", disabled=_unsafe(state)), Option(False, "no")),
    propose=_propose_editor,
    read=lambda state: _has_entry(state) if state.base.exists else MISSING,
    write=lambda state, value: setattr(state, "editor", bool(value)),
)
