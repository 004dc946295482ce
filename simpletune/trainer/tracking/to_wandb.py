"""Weights & Biases, online or offline (WANDB_MODE=offline): files in OUTPUT/wandb, sent by a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from simpletune.config.document import display
from simpletune.config.trackers import wandb_login
from simpletune.trainer.tracking.tracker import Picture, RunDescription

_SECONDS_TO_FINISH = 45


class Wandb:
    """A run of Weights & Biases, continued under its id.

    Its terminal output is turned off, ours is not captured, no code is saved, and it is given the key it would else ask
    for: with one it has no question.
    """

    def __init__(self, run: RunDescription) -> None:
        os.environ["WANDB_SILENT"] = "true"  # before the import: some lines come before settings are read
        import wandb

        login = wandb_login()
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            finish_timeout=_SECONDS_TO_FINISH,
            api_key=login.key if login.online and not login.has_token_file else None,
        )
        self._wandb = wandb
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=run.folder,
            config=dict(run.config),
            allow_val_change=True,  # a continued run may be longer than it was to be
            settings=settings,
        )
        # Where the curves' axis would else be W&B's own count of calls.
        self._run.define_metric("*", step_metric="step")
        folder = display(run.folder / "wandb")
        self.where = self._run.url or f"offline; later: wandb sync --include-offline {folder}/offline-*"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step}, step=step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        images = {one.tag: self._wandb.Image(str(one.path), caption=one.caption) for one in pictures}
        self._run.log({**images, "step": step}, step=step)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
