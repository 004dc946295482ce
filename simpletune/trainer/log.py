"""Numbers of the steps, read some steps behind the device: waiting for each would leave a GPU idle between steps."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from simpletune.data.loader import StepBatch
from simpletune.data.plan import SampleRef
from simpletune.progress import SilentTraining, StepNumbers, TrainingPhase
from simpletune.results.curves import STEP, VALIDATION
from simpletune.results.run_folder import METRICS_FILE
from simpletune.trainer.interrupt import CAUGHT
from simpletune.trainer.metrics import MetricsWriter
from simpletune.trainer.nonfinite import Failure, Witness
from simpletune.trainer.step import StepResult

Report = Callable[[str, int, Mapping[str, Any]], None]
"""Takes a line of metrics.jsonl: its kind, its step, its values."""
_STEPS_BEHIND = 3
_SCALES_TRIED = 25  # fp16's scale of 65536 is below 1 after 17 halvings: more is no longer a search
_GIB = 2**30


class _Mark:
    """A moment between two steps, on the device's own clock where it has one: reading it late does not shift it."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()
        self._host = time.perf_counter()

    def wait(self) -> None:
        """Return once the device has got here."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: _Mark) -> float:
        """Both must have been waited for."""
        if self._event is not None and earlier._event is not None:
            return float(earlier._event.elapsed_time(self._event)) / 1e3
        return self._host - earlier._host


@dataclass(frozen=True)
class _Pending:
    step: int
    learning_rate: float
    batch: Trained
    numbers: Tensor  # loss, grad_norm, sigmas, their losses, signals: on the host once `end` has been waited for
    signals: int
    begin: _Mark
    end: _Mark
    paused: _Mark | None  # since when the training stood still before it began


@dataclass(frozen=True)
class Trained:
    """What is remembered of a step's batch until its numbers are read; its tensors are not.

    refs: this process's samples, in the order of their losses. samples: over all processes. waited: seconds that the
    loop stood still for its data.
    """

    epoch: int
    refs: tuple[SampleRef, ...]
    samples: int
    waited: float

    @staticmethod
    def of(batch: StepBatch) -> Trained:
        # A batch of weight 0 is only there for the other processes' sake (loader.MicroBatch).
        refs = tuple(ref for micro in batch.micro_batches if micro.weight > 0 for ref in micro.refs)
        return Trained(batch.epoch, refs, batch.sample_count, batch.waited)


class StepLog:
    """Takes every step's result, and gives it to metrics.jsonl and the display once the device has it."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        witness: Witness,
        warn: Callable[[str], None],
        *,
        writes: bool,
        loss_is_scaled: bool,
    ) -> None:
        """`witness`: says what a failed step was about. `writes`: whether this process keeps metrics.jsonl.
        `loss_is_scaled`: fp16, whose loss scale is found by trial: a gradient that overflows is left out by the scaler,
        and is no reason to stop."""
        self._folder = folder
        self._device = device
        self._witness = witness
        self._warn = warn
        self._writes = writes
        self.asked = 0
        """The signal by which any process had asked all to stop, by the last step whose numbers were read; else 0."""
        self._loss_is_scaled = loss_is_scaled
        self._skipped = 0
        self._writer: MetricsWriter | None = None
        self._pending: deque[_Pending] = deque()
        self._screen: TrainingPhase = SilentTraining()
        self._report: Report | None = None
        self._last = _Mark(device)
        self._paused: _Mark | None = None

    def open(self, resumed_step: int, report: Report | None = None) -> None:
        """Start writing; lines after `resumed_step` belong to steps that will be taken again. Each line is also given
        to `report`, which must not wait for anything."""
        self._report = report
        if self._writes:
            self._writer = MetricsWriter(self._folder / METRICS_FILE, resumed_step, self._warn)
        self._last = _Mark(self._device)

    def restart_clock(self) -> None:
        """Leave what happened since the last step (a validation, a checkpoint) out of the next step's rate: its line
        has it as "paused"."""
        self._paused = self._paused or self._last
        self._last = _Mark(self._device)

    def show_on(self, screen: TrainingPhase) -> None:
        self._screen = screen

    def push(self, step: int, batch: StepBatch, rate: float, result: StepResult, asked: Tensor | None = None) -> None:
        """Take the result of finished step `step`; reads those that are far enough behind.

        asked: as Processes.asked.
        """
        signals = result.loss.new_empty(0) if asked is None else asked
        numbers = torch.cat([result.loss[None], result.grad_norm[None], result.sigma, result.sample_loss, signals])
        begin, on_host = self._last, _on_its_way(numbers)
        self._last = _Mark(self._device)
        paused, self._paused = self._paused, None
        self._pending.append(_Pending(step, rate, Trained.of(batch), on_host, len(signals), begin, self._last, paused))
        behind = _STEPS_BEHIND if self._device.type == "cuda" else 0
        while len(self._pending) > behind:
            self._read(self._pending.popleft())

    def drain(self) -> None:
        """Read all that is under way, and write its lines. Raises TrainingFailed when a loss or norm is not finite, and
        when the disk doesn't take the lines."""
        while self._pending:
            self._read(self._pending.popleft())
        if self._writer is not None:
            self._writer.flush()

    def sync(self) -> None:
        """Wait until the disk has what was written by the last `drain`; any thread may. Raises TrainingFailed when it
        refuses."""
        if self._writer is not None:
            self._writer.sync()

    @property
    def last_validation(self) -> int:
        """The last step that has a validation line, -1 for none."""
        return -1 if self._writer is None else self._writer.last_validation

    def evaluation(self, step: int, losses: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.write_validation(step, losses)
            self._tell(VALIDATION, step, losses)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _read(self, pending: _Pending) -> None:
        pending.end.wait()
        loss, grad_norm, *others = pending.numbers.tolist()
        of_samples = len(others) - pending.signals
        sigmas, losses = others[: of_samples // 2], others[of_samples // 2 : of_samples]
        self._note_asked(others[of_samples:])
        seconds = pending.end.seconds_since(pending.begin)
        memory = memory_gib(self._device)
        failure = self._failure(pending, loss, grad_norm, sigmas, losses)
        if self._writer is not None:
            row = {
                "epoch": pending.batch.epoch,
                "loss": loss,
                "learning_rate": pending.learning_rate,
                "grad_norm": grad_norm,
                "sigma": [round(sigma, 6) for sigma in sigmas],
                "sample_loss": [round(one, 6) for one in losses],
                "samples_per_second": round(pending.batch.samples / max(seconds, 1e-9), 3),
                "data_wait": round(pending.batch.waited, 6),
                "memory_gib": round(memory, 3),
            }
            more: dict[str, Any] = {} if failure is None else {"failed": failure.as_json()}
            if pending.paused is not None:
                more["paused"] = round(pending.begin.seconds_since(pending.paused), 6)
            self._writer.write_step(pending.step, {**row, **more})
            self._tell(STEP, pending.step, row)
        self._screen.step(
            StepNumbers(pending.step, loss, pending.learning_rate, grad_norm, pending.batch.samples, seconds, memory)
        )
        if failure is not None:
            raise failure.error(self._witness.intact())

    def _note_asked(self, signals: Sequence[float]) -> None:
        for number, count in zip(CAUGHT, signals, strict=False):
            self.asked = self.asked or (number if count else 0)

    def _failure(
        self, pending: _Pending, loss: float, grad_norm: float, sigmas: Sequence[float], losses: Sequence[float]
    ) -> Failure | None:
        """What is to be said of a step that must end the run; None of one that need not."""
        self._skipped = 0 if math.isfinite(grad_norm) else self._skipped + 1
        allowed = _SCALES_TRIED if self._loss_is_scaled else 0
        if math.isfinite(loss) and self._skipped <= allowed:
            return None
        batch = pending.batch
        samples = self._witness.samples(batch.epoch, batch.refs, sigmas, losses)
        return Failure(pending.step, loss, grad_norm, pending.learning_rate, self._skipped, tuple(samples))

    def _tell(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self._report is not None:
            self._report(kind, step, values)


def memory_gib(device: torch.device) -> float:
    """Peak memory since the phase began on a GPU, or the process's resident memory where the CPU trains."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return psutil.Process().memory_info().rss / _GIB


def usable_gib(device: torch.device, device_memory_gb: float | None) -> float | None:
    """What `memory_gib` may grow to: what is free now and what the run has, `device_memory_gb` at most. None where
    nothing tells."""
    if device.type == "cuda":
        room = (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / _GIB
    elif device.type == "cpu":
        room = (psutil.virtual_memory().available + psutil.Process().memory_info().rss) / _GIB
    else:
        return None
    return room if device_memory_gb is None else min(room, device_memory_gb)


def _on_its_way(numbers: Tensor) -> Tensor:
    """The host's copy of device numbers, under way: complete once the device has passed the mark after it."""
    if numbers.device.type != "cuda":
        return numbers.cpu()
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    return host.copy_(numbers, non_blocking=True)
