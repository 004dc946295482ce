"""trackio: a database in its own folder (TRACKIO_DIR), or a Hugging Face Space where TRACKIO_SPACE_ID names one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from simpletune.trainer.tracking.tracker import Picture, RunDescription

_UNFIT = re.compile(r'^\.+|[\x00-\x1f\x7f<>:"/\\|?*]')
"""What a folder's name can't have on one system or another, or would lead out of where it stands."""


class Trackio:
    """A run of trackio, which finds runs again by their names alone: the name ends in the id, to be the only one.

    It also keeps the pictures in a folder of that name, so that the name is made one.
    """

    def __init__(self, run: RunDescription) -> None:
        import trackio

        self._image = trackio.Image
        self._run = trackio.init(
            project=run.project,
            name=_UNFIT.sub("_", f"{run.name}-{run.id[:6]}"),
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.where = f'trackio show --project "{run.project}"'

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        self._run.log({one.tag: self._image(str(one.path), caption=one.caption) for one in pictures}, step=step)

    def finish(self, exit_code: int) -> None:  # noqa: ARG002
        self._run.finish()
