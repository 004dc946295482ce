"""TensorBoard: event files in OUTPUT/tensorboard.

A continued run writes a further file. It begins with a mark that makes readers drop what earlier files have from its
first step on, so that steps which are done again don't stand there twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from simpletune.config.document import display
from simpletune.trainer.tracking.tracker import Picture, RunDescription

FOLDER = "tensorboard"
_SECONDS_BETWEEN_FLUSHES = 5.0


class TensorBoard:
    """Writes events at once, on the caller's thread: an error of the disk is raised where it can be told."""

    def __init__(self, run: RunDescription) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = run.folder / FOLDER
        folder.mkdir(exist_ok=True)
        self.where = f"tensorboard --logdir {display(folder)}"
        self._event = Event
        # Files are named by the second they begin in: the step tells apart those of one second.
        self._writer = EventsWriter(str(folder / "events"), f".{run.first_step}-{time.time_ns() % 10**9:09d}")
        self._flushed = time.monotonic()
        self._captioned: set[str] = set()
        self._write(session_log=SessionLog(status=SessionLog.START), step=run.first_step)
        # Markdown shows lines that are indented by four as they are.
        lines = json.dumps(run.config, indent=2, ensure_ascii=False).splitlines()
        self._text("config", "\n".join(f"    {line}" for line in lines), run.first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(summary=Summary(value=entries), step=step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """A PNG is put in as it is; its caption is a text beside it, said once."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        entries = []
        for picture in pictures:
            with Image.open(picture.path, formats=["PNG"]) as opened:
                width, height = opened.size
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=picture.path.read_bytes()
            )
            entries.append(Summary.Value(tag=picture.tag, image=image))
        self._write(summary=Summary(value=entries), step=step)
        for picture in pictures:
            if picture.tag not in self._captioned:
                self._captioned.add(picture.tag)
                self._text(f"prompts/{picture.tag}", picture.caption, step)

    def finish(self, exit_code: int) -> None:  # noqa: ARG002
        self._writer.close()

    def _text(self, tag: str, text: str, step: int) -> None:
        from tensorboardX import summary

        self._write(summary=summary.text(tag, text), step=step)

    def _write(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))
        now = time.monotonic()
        if now - self._flushed >= _SECONDS_BETWEEN_FLUSHES:
            self._writer.flush()
            self._flushed = now
