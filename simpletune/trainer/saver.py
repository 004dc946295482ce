"""Checkpoints written beside the training: it pauses for a copy to host memory, a thread does the rest.

    take     the training's thread: the last one is waited for, then the state is copied (trainer/snapshot.py)
    write    a thread: room, finite numbers, files, SHA-256, fsync, rename, and only then the oldest is pruned
    check    the training's thread, at every step: a failure of the writer becomes its own
    wait     at the end, at a stop and at a failure: no run ends before its checkpoint is whole

The thread asks nothing of the device: a question from there would spoil a graph that is being captured.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from simpletune.errors import SimpletuneError
from simpletune.machine.hardware import disk_free
from simpletune.models.adapters import checkpoint_state
from simpletune.models.lora_file import PREFIX
from simpletune.trainer import checkpoint, retention
from simpletune.trainer.disk_failure import disk_failure, no_room, number_of
from simpletune.trainer.manifest import run_state
from simpletune.trainer.optimizers import optimizer_state
from simpletune.trainer.snapshot import Contents, Snapshots

if TYPE_CHECKING:
    from simpletune.trainer.session import Session

_HEADERS = 1 << 20  # bytes: headers, JSON and what the disk itself needs for five files
_PER_TENSOR = 256  # bytes of a header


class Saver:
    """Writes the checkpoints of one run into `output_dir`, one at a time.

    saved: the step of the newest checkpoint that is there and whole, None without any. warn: takes a line about what
    went wrong beside the checkpoint itself. Leaving it as a context waits for what is being written.
    """

    def __init__(
        self,
        output_dir: Path,
        total_limit: int,
        device: torch.device,
        warn: Callable[[str], None],
        saved: int | None = None,
    ) -> None:
        self.saved = saved
        self._folder = output_dir
        self._limit = total_limit
        self._warn = warn
        self._snapshots = Snapshots(device)
        self._taken: Contents | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._said: list[str] = []

    def make_room(self, contents: Contents) -> None:
        """Get the memory for the copies, so that the first of them is as quick as the others."""
        self._snapshots.make_room(contents)

    def take(self, contents: Contents) -> None:
        """Have the state copied, once the last checkpoint is written. Raises TrainingFailed as `check`."""
        self.wait()
        self._taken = self._snapshots.take(contents)

    def write(self, before: Callable[[], None] = lambda: None) -> None:
        """Begin to write what was taken; it is whole when `wait` has returned.

        before: called in the thread when everything is written, before the checkpoint can be seen.
        """
        taken, self._taken = self._taken, None
        if taken is None:
            raise ValueError("nothing was taken")
        self._snapshots.wait()
        self._thread = threading.Thread(target=self._run, args=(taken, before), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what stopped the writer: TrainingFailed in words for people, or a bug's own error."""
        while self._said:
            self._warn(self._said.pop(0))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Return once nothing is being written. Raises as `check`."""
        self._join()
        self.check()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """A failure of the writer is raised in place of a stop, which would say that the state is saved; of two
        failures the first stays."""
        self._join()
        stays = isinstance(error, Exception) and getattr(error, "exit_code", 1) == 1
        if stays and isinstance(self._failure, SimpletuneError):
            self._said.append(f"{self._failure.message}; {self._failure.hint}")
            self._failure = None
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, contents: Contents, before: Callable[[], None]) -> None:
        """What the thread does; nothing leaves it but by `check`."""
        try:
            write_checkpoint(self._folder, contents, self.saved, before)
            self.saved = contents.step
            self._said += prune(self._folder, self._limit, contents.step)
        except BaseException as error:
            self._failure = error


def write_checkpoint(
    folder: Path, contents: Contents, saved: int | None, before: Callable[[], None] = lambda: None
) -> Path:
    """Write the checkpoint or leave no trace. Raises TrainingFailed where a number isn't finite, the disk has no room,
    or it refuses; `saved` is the step that the run could go on from then."""
    check_room(folder, contents, saved)
    try:
        return checkpoint.save_checkpoint(
            folder,
            contents.step,
            adapter=contents.adapter,
            adapter_metadata=contents.metadata,
            optimizer=(contents.optimizer_tensors, contents.optimizer_json),
            ema=contents.ema,
            state=contents.state,
            before=before,
        )
    except (OSError, SafetensorError) as error:
        raise disk_failure(error, contents.step, folder, saved) from error


def check_room(folder: Path, contents: Contents, saved: int | None) -> None:
    """Raise TrainingFailed where the disk has less room than the checkpoint takes; nothing is written then."""
    need, free = bytes_on_disk(contents), disk_free(folder)
    if free is not None and free < need:
        raise no_room(need, free, contents.step, folder, saved)


def bytes_on_disk(contents: Contents) -> int:
    """What the checkpoint will take, within a mebibyte."""
    return contents.bytes + sum(_PER_TENSOR for _ in contents.tensors()) + _HEADERS


def prune(folder: Path, total_limit: int, step: int) -> list[str]:
    """Leave only the adapters of the oldest checkpoints; returns what could not be done, which harms nobody."""
    try:
        retention.prune(folder, total_limit, keep=folder / f"checkpoint-{step}")
    except OSError as error:
        why = error.strerror or str(number_of(error))
        return [f"older checkpoints than checkpoints_total_limit asks for are still there: {why}"]
    return []


def contents_of(session: Session) -> Contents:
    """What a checkpoint of the session holds now; the tensors are the session's own."""
    adapter, metadata = checkpoint_state(session.transformer, session.settings)
    tensors, plain = optimizer_state(session.optimizer)
    average = None
    if session.ema is not None:
        average = {**adapter, **{f"{PREFIX}{name}": tensor for name, tensor in session.ema.state_dict().items()}}
    described = run_state(
        session.settings,
        session.material.files,
        session.material.manifest.digest,
        session.total_steps,
        session.processes.world_size,
        session.processes.device.type,
    )
    return Contents(
        step=session.step,
        adapter=adapter,
        metadata=metadata,
        optimizer_tensors=tensors,
        optimizer_json=plain,
        ema=average,
        state={
            **described,
            "settings_sha256": _sha256(described["settings"]),
            "step_state": session.step_function.state(),
        },
    )


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
