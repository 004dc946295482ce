"""Where a start begins: at which checkpoint, or at step 0. Found out before anything heavy is imported.

A start never takes up what is damaged, never begins at step 0 where a run had passed its first checkpoint, and removes
nothing to make room: what can't go on is an error with commands (trainer/refusals.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletune.config.continuing import changes, settings_in
from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.errors import ConfigError, SimpletuneError, TrainingFailed
from simpletune.lock_holder import is_held
from simpletune.progress import Reporter
from simpletune.results.run_folder import (
    ADAPTER_FILE,
    FINISHED_FILE,
    FORMAT,
    LOCK_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    RUN_FILE,
    STATE_FILE,
    holds_only_adapter,
    list_checkpoints,
    unreadable,
    verify,
)
from simpletune.trainer import data_change, refusals
from simpletune.trainer.asked import Asked
from simpletune.trainer.lock import check_free

_TAIL = 1 << 16  # bytes of metrics.jsonl that hold its last line for certain


def find_checkpoint(settings: Settings, asked: Asked, reporter: Reporter) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means, every byte of it checked; None to start at step 0.

    `latest` is the newest that verifies; those passed over are named to the reporter, and so is a run that has to begin
    again. Raises ConfigError where a run is in the way or the named folder is no checkpoint to go on from,
    TrainingFailed where a named one, or all there are, are damaged or were written by a newer version.
    """
    wish = settings.resume_from_checkpoint
    if wish not in {"latest", "none"}:
        return _named(Path(wish), settings, asked)
    if wish == "none":
        _check_empty(settings, asked)
    damaged: dict[Path, list[str]] = {}
    for _, path in reversed(list_checkpoints(settings.output_dir)):
        if holds_only_adapter(path):
            continue
        _check_format(path)
        problems = verify(path)
        if not problems:
            for passed, why in damaged.items():
                reporter.warn(f"{display(passed)} is damaged and passed over: {'; '.join(why)}")
            return path
        damaged[path] = problems
    if damaged:
        raise refusals.none_intact(damaged, settings, asked)
    if (left := _left_of(settings.output_dir)) is not None:
        what = f"{display(settings.output_dir)} holds {left}, but no checkpoint that it can be continued from"
        raise refusals.holds_a_run(what, settings, asked, resumable=False)
    if (settings.output_dir / RUN_FILE).exists():
        reporter.note(
            f"the run in {display(settings.output_dir)} ended before its first checkpoint: it begins again at step 0"
        )
    return None


def check_resumable(checkpoint: Path, settings: Settings, asked: Asked, processes: int) -> None:
    """Raise ConfigError where a checkpoint that has been verified was made with other settings of those it is bound
    to, on another version of the built-in model, or by another number of processes."""
    state = read_state(checkpoint)
    step, run = int(state["step"]), state["run"]
    found = changes(settings_in(run), settings)
    if found:
        raise refusals.other_settings(checkpoint, step, settings_in(run), found, settings, asked)
    then = run.get("processes", processes)
    if then != processes:
        raise refusals.other_processes(checkpoint, then, processes, settings, asked)


def check_early(settings: Settings, asked: Asked, reporter: Reporter) -> Path | None:
    """What `find_checkpoint` and `check_resumable` will say once the folder is this run's, as far as it can be said
    before. Nothing is looked at in a folder that another run is in, as its lock will say so."""
    if is_held(settings.output_dir / LOCK_FILE):
        return None
    try:
        found = find_checkpoint(settings, asked, reporter)
    except OSError:
        return None  # a folder that can't be read is a matter for who makes it this run's
    if found is not None:
        check_resumable(found, settings, asked, int(os.environ.get("WORLD_SIZE", "1")))
    return found


def foretell(settings: Settings, plan: Preflight, asked: Asked, reporter: Reporter) -> None:
    """Say where a start would begin, or that it would be refused; for who only looks at the plan."""
    from simpletune.trainer.room import check_disks

    try:
        check_free(settings.output_dir)
        found = check_early(settings, asked, reporter)
        if found is not None:
            check_data_early(found, plan, settings, asked)
        done = found is not None and is_finished(settings, found, plan.total_steps)
        if not done:
            check_disks(settings, plan)
    except SimpletuneError as error:
        first, *more = error.message.splitlines()
        reporter.warn(f"a start would be refused: {first}")
        for line in more:
            reporter.note(line)
        return
    if found is not None:
        reporter.note("this run is finished" if done else f"a start would go on from {display(found)}")


def check_data_early(checkpoint: Path, plan: Preflight, settings: Settings, asked: Asked) -> None:
    """Raise ConfigError where the pictures and captions tell already, before anything is encoded, that the data set is
    another than the checkpoint's, and that wasn't said to be meant."""
    if asked.accept_data_change or is_finished(settings, checkpoint, plan.total_steps):
        return
    before = data_change.earlier_data(checkpoint.parent, read_state(checkpoint)["run"]["data"])
    if before is None:
        return
    now = data_change.data_of(
        settings.image_sets, map(data_change.described, plan.training), map(data_change.described, plan.held_out)
    )
    change = data_change.compare(before, now)
    if change.is_certain:
        anew = refusals.anew(settings, asked, lambda folder: data_change.is_of(folder, now))
        raise data_change.refused(checkpoint, change, asked, anew)


def read_state(checkpoint: Path) -> Mapping[str, Any]:
    """state.json of a checkpoint that has been verified: `step`, and `run`, which is what the run keeps of itself."""
    state: Mapping[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return state


def finished_step(folder: Path) -> int | None:
    """The step whose outputs are complete, None when there is none."""
    try:
        step = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def is_finished(settings: Settings, checkpoint: Path, total_steps: int) -> bool:
    """Whether a run has done all its steps and written all its outputs, and its adapter is still there."""
    return was_finished(settings, checkpoint, total_steps) and not lost_adapters(settings)


def was_finished(settings: Settings, checkpoint: Path, total_steps: int) -> bool:
    """As `is_finished`, whatever has become of the adapter since."""
    done = finished_step(settings.output_dir)
    return done is not None and done == int(read_state(checkpoint)["step"]) and done >= total_steps


def lost_adapters(settings: Settings) -> dict[Path, str]:
    """The final adapters of a finished run that can't be read, and why."""
    folders = [settings.output_dir, *([settings.output_dir / "ema"] if settings.use_ema else [])]
    why = {folder / ADAPTER_FILE: unreadable(folder / ADAPTER_FILE) for folder in folders}
    return {file: problem for file, problem in why.items() if problem is not None}


def _named(path: Path, settings: Settings, asked: Asked) -> Path:
    _check_checkpoint(path, settings, asked)
    own = list_checkpoints(settings.output_dir)
    if path.parent != settings.output_dir and own:
        what = (
            f"resume_from_checkpoint names {display(path)}, and {display(settings.output_dir)} "
            f"holds a run of {own[-1][0]} steps already"
        )
        raise refusals.holds_a_run(what, settings, asked, resumable=True)
    return path


def _check_checkpoint(path: Path, settings: Settings, asked: Asked) -> None:
    others = [
        refusals.named_alike(other, path, asked)
        for _, other in list_checkpoints(path.parent)
        if other != path and not holds_only_adapter(other)
    ]
    hint = f"name another one ({', '.join(others[-3:])})" if others else "name another one"
    if path.parent == settings.output_dir:
        hint += ', or set it to "latest" for the newest that is intact'
    if not path.is_dir() or not ((path / MANIFEST_FILE).is_file() or (path / STATE_FILE).is_file()):
        raise ConfigError(f"resume_from_checkpoint: {display(path)} is not a checkpoint folder", hint)
    if holds_only_adapter(path):
        raise ConfigError(
            f"resume_from_checkpoint: {display(path)} holds only the adapter; what a run needs to go on was removed "
            "when newer checkpoints came (checkpoints_total_limit)",
            f'{hint}; a new run can start from this adapter: "init_lora"',
        )
    _check_format(path)
    problems = verify(path)
    if problems:
        raise TrainingFailed(f"resume_from_checkpoint: {display(path)} is damaged: {'; '.join(problems)}", hint)


def _check_format(path: Path) -> None:
    """Raise TrainingFailed for a checkpoint of a later version: passed over it would be trained once more."""
    try:
        written = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(written, int) and written > FORMAT:
        raise TrainingFailed(
            f"{display(path)} is of a newer version of simpletune: in format {written}, this one reads {FORMAT}",
            "update simpletune (pip install --upgrade simpletune) and run again",
        )


def _check_empty(settings: Settings, asked: Asked) -> None:
    checkpoints = list_checkpoints(settings.output_dir)
    if checkpoints:
        folder, steps = display(settings.output_dir), checkpoints[-1][0]
        what = f"{folder} holds a run of {steps} steps, and resume_from_checkpoint is none"
        resumable = any(not holds_only_adapter(path) for _, path in checkpoints)
        raise refusals.holds_a_run(what, settings, asked, resumable=resumable)


def _left_of(folder: Path) -> str | None:
    """What there is of a run that got past its first checkpoint, in words; None of one that didn't, or of none."""
    adapters = [path.name for _, path in list_checkpoints(folder)]
    if adapters:
        return f"the adapters of a run of {adapters[-1].partition('-')[2]} steps"
    if (done := finished_step(folder)) is not None:
        return f"the results of a run of {done} steps"
    if (folder / ADAPTER_FILE).exists():
        return f"the result of a run ({ADAPTER_FILE})"
    steps, interval = _last_step(folder / METRICS_FILE), _interval(folder)
    # A checkpoint may be written while the next steps are trained, and is complete before the one after it is begun.
    if interval is not None and steps > 2 * interval:
        return f"the metrics of a run that saved its first checkpoint after {interval} steps and got to step {steps}"
    aside = sorted(path.name for path in folder.glob("abandoned-*checkpoint-*"))
    return f"checkpoints of a run that were set aside ({aside[-1]})" if aside else None


def _last_step(metrics: Path) -> int:
    """The last step that has a line; 0 without any."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            row = json.loads(line)
            if row["kind"] == "step":
                return int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _interval(folder: Path) -> int | None:
    """After how many steps a run was to save."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return int(run["config"]["checkpoint_step_interval"]["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
