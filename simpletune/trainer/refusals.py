"""What is said to somebody whose start would break a run that is there: what is in the way, and commands to copy.

Nothing here removes anything, nor do the commands: to discard a run is to give its folder another name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simpletune.config.continuing import BUILT_IN, Change, changes, saved_settings
from simpletune.config.document import display
from simpletune.config.load import settings_of
from simpletune.config.problems import errors
from simpletune.config.settings import Settings
from simpletune.config.validate import check
from simpletune.errors import ConfigError, TrainingFailed
from simpletune.results.run_folder import list_checkpoints
from simpletune.trainer.asked import Asked, discarded
from simpletune.trainer.new_folder import beside, first_free, is_free

Way = tuple[str, str]
"""What a command does, and the command."""


def other_settings(
    checkpoint: Path,
    step: int,
    saved: Mapping[str, Any],
    found: Sequence[Change],
    settings: Settings,
    asked: Asked,
) -> Exception:
    """The checkpoint was made with other values. saved: all it is bound to."""
    if any(change.key == BUILT_IN for change in found):
        model = next(str(change) for change in found if change.key == BUILT_IN)
        return ConfigError(
            f"{display(checkpoint)} was trained on another model than the one that is built in now\n  {model}",
            hint(anew(settings, asked)),
        )
    places = where_set([change.key for change in found], settings, asked)
    lines = [f"  {change} ({places[change.key]})" for change in found]
    return ConfigError(
        "\n".join([f"{display(checkpoint)} was trained with other settings, which can't change within a run:", *lines]),
        hint([*_as_before(step, found, saved, settings, asked), *anew(settings, asked)]),
    )


def other_processes(checkpoint: Path, then: int, now: int, settings: Settings, asked: Asked) -> Exception:
    """A step would be made of other batches than before."""
    return ConfigError(
        f"{display(checkpoint)} was trained by {_processes(then)}, and this start has {_processes(now)}: "
        "a step would be made of other pictures",
        f"start it with {_processes(then)} to continue; or\n{hint(anew(settings, asked))}",
    )


def holds_a_run(what: str, settings: Settings, asked: Asked, *, resumable: bool) -> Exception:
    """A start at step 0 in a folder that holds a run. what: the reason why it would be one."""
    go_on = _going_on(settings, asked.having({"resume_from_checkpoint": "latest"})) if resumable else []
    return ConfigError(what, hint([*go_on, *anew(settings, asked)]))


def _going_on(settings: Settings, asked: Asked) -> list[Way]:
    """The command that continues the run in the folder, with the values that it is bound to; for longer where it has
    all the steps that are asked for."""
    saved, done = saved_settings(settings.output_dir), list_checkpoints(settings.output_dir)
    found = changes(saved, settings) if saved is not None else []
    if saved is None or not done or not (found or _has_all_steps(done[-1][0], settings)):
        return [("to continue that run", asked.command())]
    return _as_before(done[-1][0], found, saved, settings, asked)


def _has_all_steps(step: int, settings: Settings) -> bool:
    return settings.max_train_steps is not None and step >= settings.max_train_steps


def none_intact(named: Mapping[Path, Sequence[str]], settings: Settings, asked: Asked) -> Exception:
    """No checkpoint of a run can be read. named: what is wrong with each."""
    lines = [f"  {display(path)}: {'; '.join(problems)}" for path, problems in named.items()]
    count = "its only checkpoint is" if len(lines) == 1 else f"all its {len(lines)} checkpoints are"
    message = f"the run in {display(settings.output_dir)} can't be continued: {count} damaged"
    return TrainingFailed("\n".join([message, *lines]), hint(anew(settings, asked)))


def hint(ways: Iterable[Way]) -> str:
    """Commands below what they do, each in a line of its own so that it can be copied."""
    lines = [line for purpose, command in ways for line in (f"  {purpose}:", f"    {command}")]
    return "\n".join(["copy one of these commands", *lines])


def named_alike(other: Path, path: Path, asked: Asked) -> str:
    """Another checkpoint beside `path`, as `resume_from_checkpoint` takes it where it was given `path`."""
    document = check(asked.config, asked.overrides).view.config.document.value
    given = document.get("resume_from_checkpoint") if isinstance(document, dict) else None
    if isinstance(given, str) and Path(given).name == path.name:
        return str(Path(given).with_name(other.name))
    return str(other)


def where_set(keys: Sequence[str], settings: Settings, asked: Asked) -> dict[str, str]:
    """Where each key's value comes from: config.json:4:16, --set lora_rank, or what it follows from."""
    document = check(asked.config, asked.overrides).view.config.document
    given = document.value if isinstance(document.value, dict) else {}
    return {key: _place(key, document, given, settings) for key in keys}


def _place(key: str, document: Any, given: Mapping[str, Any], settings: Settings) -> str:
    for path, override in document.overridden.items():
        if path[0] == key:
            return str(override)
    position = document.file.place((key,)) if key in given else None
    if position is not None and settings.origins.get(key, "").partition(":")[0] == document.file.path.name:
        return f"{document.name}:{position.line}:{position.column}"
    origin = settings.origins.get(key, "default")
    return "not set: the default" if origin == "default" else f"follows from {origin}"


def _as_before(
    step: int, found: Sequence[Change], saved: Mapping[str, Any], settings: Settings, asked: Asked
) -> list[Way]:
    """The command that goes on with the old values, if the files can be overridden so that they come out."""
    follows = {change.key for change in found if _follows(settings.origins.get(change.key, ""), found)}
    values = {change.key: _typed(change.old) for change in found if change.key not in follows}
    longer = {}
    if settings.max_train_steps is not None and _has_all_steps(step, settings):
        longer = {"max_train_steps": str(step + settings.max_train_steps)}
    # Where the files have the old values, it is enough to leave out what was put over them.
    tried = (asked.without(values).having(longer), asked.having({**values, **longer}))
    as_before = next((one for one in tried if _comes_out(one, saved)), None)
    if as_before is None:
        names = ", ".join(change.key for change in found if change.key not in follows)
        return [(f"to continue that run for longer: put back {names} in the files, then", asked.command())]
    return [(f"to continue that run{' for longer' if longer else ''}, with what it had", as_before.command())]


def _follows(origin: str, found: Sequence[Change]) -> bool:
    """Whether a value is another only because one that it follows from is."""
    return any(
        origin == change.key or (origin.startswith("flavour ") and change.key == "model_flavour") for change in found
    )


def _comes_out(asked: Asked, saved: Mapping[str, Any]) -> bool:
    checked = check(asked.config, asked.overrides)
    wrong = [problem for problem in errors(checked.problems) if problem.kind == "config"]
    return not wrong and not changes(saved, settings_of(asked.config, checked.view))


def anew(settings: Settings, asked: Asked, suits: Callable[[Path], bool] = lambda _: True) -> list[Way]:
    """The commands that start at step 0: in a new folder, or in this one when the run in it has been moved aside.

    suits: whether a run beside it, which has these settings, can be gone on with in place of a new one.
    """
    folder = settings.output_dir
    wish = settings.resume_from_checkpoint
    start = asked if wish == "none" else asked.continuing(wish)
    ways = [_in_new_folder(settings, start, suits)]
    if not is_free(folder):
        ways.append((f"to discard that run, whose files stay in {display(discarded(folder))}", start.aside(folder)))
    return ways


def _in_new_folder(settings: Settings, asked: Asked, suits: Callable[[Path], bool]) -> Way:
    """A run beside it that has these very settings is gone on with rather than begun once more."""
    for path in beside(settings.output_dir):
        saved = saved_settings(path)
        if saved is not None and not changes(saved, settings) and suits(path):
            again = asked.continuing(settings.resume_from_checkpoint).having({"output_dir": display(path)})
            return f"to continue the run in {display(path)}, which has these settings", again.command()
    new = first_free(settings.output_dir)
    purpose = f'to start a new run in {display(new)} (or name another "output_dir")'
    if "RANK" in os.environ:
        return purpose, asked.having({"output_dir": display(new)}).command()
    return purpose, asked.command("--new-folder")


def _typed(value: Any) -> str:
    """A JSON value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _processes(number: int) -> str:
    return "one process" if number == 1 else f"{number} processes"
