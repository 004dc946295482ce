"""Taking up a session's state again, and what is said where it isn't quite the state of before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.config.continuing import LEARNING_RATE, free_changes
from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.errors import ConfigError
from simpletune.models.adapters import load_lora_state
from simpletune.progress import Reporter
from simpletune.trainer import checkpoint, data_change, refusals
from simpletune.trainer.asked import Asked
from simpletune.trainer.manifest import versions
from simpletune.trainer.material import Material
from simpletune.trainer.optimizers import load_optimizer_state
from simpletune.trainer.schedules import learning_rate_at
from simpletune.trainer.start import read_state

if TYPE_CHECKING:
    from simpletune.trainer.session import Session


def check_material(path: Path, material: Material, settings: Settings, asked: Asked, reporter: Reporter) -> None:
    """Raise ConfigError when the model or the data set is another than the checkpoint was trained on; of the data, not
    when it was said to be meant: then say what has changed."""
    run = read_state(path)["run"]
    _check_commit(path, run.get("model") or {}, material, settings, asked)
    if run["data"] == material.manifest.digest:
        return
    before = data_change.earlier_data(path.parent, run["data"])
    now = material.manifest.data()
    change = data_change.compare(before, now) if before is not None else None
    if not asked.accept_data_change:
        anew = refusals.anew(settings, asked, lambda folder: data_change.is_of(folder, now))
        raise data_change.refused(path, change, asked, anew)
    reporter.warn(f"the data set has changed since {path.name} was saved; the rest of the run sees it as it is now")
    for line in data_change.said(change):
        reporter.note(line)


def tell_changes(path: Path, settings: Settings, reporter: Reporter) -> None:
    """Say each setting that may change within a run and has since the checkpoint."""
    for change in free_changes(read_state(path)["run"].get("free_settings") or {}, settings):
        reporter.note(f"changed since {path.name}: {change}")


def restore(session: Session, path: Path) -> None:
    """Put weights, optimizer, EMA and step of a checkpoint into the session."""
    saved = checkpoint.load_checkpoint(path)
    load_lora_state(session.transformer, saved.adapter)
    load_optimizer_state(session.optimizer, saved.optimizer_tensors, saved.optimizer_json)
    session.step_function.load_state(saved.state["step_state"])
    if session.ema is not None and saved.ema is not None:
        session.ema.load_state_dict(saved.ema)
    session.step = saved.step
    if session.processes.is_main and path.parent == session.settings.output_dir:
        for aside in checkpoint.set_aside_later(path.parent, saved.step):
            session.reporter.warn(f"a later checkpoint is kept as {aside.name}: this run goes on from {path.name}")
    _tell_rate(session, saved.state)
    _tell_surroundings(session, path, saved.state)
    if session.processes.is_main and saved.state["data"] != session.material.manifest.digest:
        data_change.keep_earlier(session.settings.output_dir, saved.state["data"])


def _check_commit(path: Path, saved: Mapping[str, Any], material: Material, settings: Settings, asked: Asked) -> None:
    then, now = saved.get("commit"), material.files.commit
    if then is None or now is None or then == now:
        return
    same = asked.having({"revision": then}).command()
    raise ConfigError(
        f"{material.files.source} has changed on the hub since {display(path)} was trained on it:\n"
        f"  commit {then} -> {now}",
        refusals.hint([("to continue with the commit of before", same), *refusals.anew(settings, asked)]),
    )


def _tell_rate(session: Session, saved: Mapping[str, Any]) -> None:
    """The learning rate of the next step, where it isn't the one that it would have been: a longer run has another
    schedule, too."""
    settings, step = session.settings, session.step
    free = saved.get("free_settings") or {}
    if step >= session.total_steps or not free.keys() >= LEARNING_RATE:
        return
    earlier = replace(settings, **{key: free[key] for key in LEARNING_RATE})
    before = learning_rate_at(earlier, step, saved["total_steps"])
    now = learning_rate_at(settings, step, session.total_steps)
    if before != now:
        session.reporter.note(f"learning rate after step {step}: {before:.4g} -> {now:.4g}")


def _tell_surroundings(session: Session, path: Path, saved: Mapping[str, Any]) -> None:
    then = {**saved["versions"], "device": saved.get("device", session.processes.device.type)}
    now = {**versions(), "device": session.processes.device.type}
    others = [
        f"{name} {then.get(name)} -> {now.get(name)}" for name in {**then, **now} if then.get(name) != now.get(name)
    ]
    if others:
        session.reporter.note(f"since {path.name}: {', '.join(others)}; numbers may differ in their last digits")
