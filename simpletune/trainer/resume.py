"""Saving a session's state and taking it up again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config.settings import Settings
from simpletune.errors import ConfigError
from simpletune.models.adapters import load_lora_state
from simpletune.progress import Reporter
from simpletune.results.run_folder import MANIFEST_FILE, latest, list_checkpoints
from simpletune.trainer import checkpoint
from simpletune.trainer.manifest import check_resumable
from simpletune.trainer.optimizers import load_optimizer_state

if TYPE_CHECKING:
    from simpletune.trainer.session import Session


def find_checkpoint(settings: Settings, reporter: Reporter) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means, or None to start at step 0.

    Raises ConfigError when it says `none` but the folder holds a run, or names a folder that is no checkpoint:
    nothing is ever deleted or overwritten to make room.
    """
    wish = settings.resume_from_checkpoint
    if wish == "latest":
        return latest(settings.output_dir, reporter.warn)
    if wish == "none":
        existing = list_checkpoints(settings.output_dir)
        if existing:
            raise ConfigError(
                f"{settings.output_dir} holds a run of {existing[-1][0]} steps, and resume_from_checkpoint is none",
                'set "resume_from_checkpoint" to "latest" to continue it, or name another "output_dir"',
            )
        return None
    path = Path(wish)
    if not (path / MANIFEST_FILE).is_file():
        raise ConfigError(f"resume_from_checkpoint: {path} is not a checkpoint folder", 'name one, or use "latest"')
    return path


def restore(session: Session, path: Path) -> None:
    """Put weights, optimizer, EMA and step of a checkpoint into the session."""
    saved = checkpoint.load_checkpoint(path)
    check_resumable(saved.state["settings"], session.settings, path)
    load_lora_state(session.transformer, saved.adapter)
    load_optimizer_state(session.optimizer, saved.optimizer_tensors, saved.optimizer_json)
    session.step_function.load_state(saved.state["step_state"])
    if session.ema is not None and saved.ema is not None:
        session.ema.load_state_dict(saved.ema)
    session.step = saved.step
    if session.processes.is_main and path.parent == session.settings.output_dir:
        for aside in checkpoint.set_aside_later(path.parent, saved.step):
            session.reporter.warn(f"a later checkpoint is kept as {aside.name}: this run goes on from {path.name}")
    if saved.state["data"] != session.material.manifest.digest:
        session.reporter.warn("the data set has changed since the checkpoint: the rest of the run sees the new one")
