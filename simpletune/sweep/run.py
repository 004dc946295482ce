"""Running a sweep: each run is `simpletune train`, then `simpletune evaluate`, in processes of their own.

So one that runs out of memory or crashes ends nothing else, and gives all of its memory back. A run that fails is named
at the end; the others go on. Children have sessions of their own: a signal reaches them once, through here, so that a
first Ctrl-C saves and a second one ends at once, as in a run alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from simpletune import locks
from simpletune.config.document import display
from simpletune.errors import TrainingFailed, UsageError
from simpletune.progress import Phase, Reporter
from simpletune.sweep.file import SweepFile
from simpletune.sweep.plan import Planned
from simpletune.sweep.record import Record
from simpletune.trainer.interrupt import CAUGHT, caught_here, ended, let_go_of_the_gone

LOCK_FILE, LOGS = ".sweep.lock", "logs"
_PAUSE = 0.1
_STOPPED = {128 + number for number in CAUGHT} | {-number for number in CAUGHT}  # those came before it could catch them
_NAMED = 5
_FORWARDED = os.name != "nt"  # Windows gives Ctrl-C to every process of the console by itself


@dataclass(frozen=True)
class Places:
    """Where runs go, one at a time on each: `cards` are numbers of GPUs, or None for a place without one of its own.
    `shown`: runs show themselves here instead of in a log file; for a single place."""

    cards: tuple[str | None, ...] = (None,)
    shown: bool = False

    def environment(self, card: str | None) -> Mapping[str, str]:
        """Of a run there. Side by side on a processor, runs that each take all of its cores slow each other down."""
        environment = dict(os.environ)
        if card is not None:
            # Counted as nvidia-smi does; by itself CUDA begins with the fastest card.
            environment |= {"CUDA_VISIBLE_DEVICES": card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        elif len(self.cards) > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(self.cards))))
        return environment


@dataclass
class _Child:
    """A process of a run; `what` is the command it is."""

    run: Planned
    what: str
    card: str | None
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)


def run_sweep(sweep: SweepFile, planned: Sequence[Planned], places: Places, reporter: Reporter) -> Record:
    """Train and evaluate what isn't done yet; the record of what is.

    Raises TrainingFailed, once all others are done, naming the runs that failed; Interrupted, Terminated or HungUp when
    it was stopped, all state saved; UsageError when another sweep runs in the folder, or it can't be made.
    """
    try:
        sweep.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{sweep.output_dir} can't be made: {error.strerror}", "name another output_dir") from error

    def busy(holder: str) -> UsageError:
        message = f"{sweep.output_dir} is in use by another sweep ({holder})"
        return UsageError(message, "wait for it to end or stop it, or name another output_dir")

    with locks.hold(sweep.output_dir / LOCK_FILE, busy):
        sweeping = _Sweeping(sweep, planned, places, reporter, Record.open(sweep.output_dir))
        sweeping.go()
    return sweeping.record


@dataclass
class _Sweeping:
    sweep: SweepFile
    planned: Sequence[Planned]
    places: Places
    reporter: Reporter
    record: Record
    failed: dict[str, str] = field(default_factory=dict)
    children: list[_Child] = field(default_factory=list)
    signal: int = 0

    def go(self) -> None:
        waiting = deque(run for run in self.planned if self._next(run) is not None)
        skipped = len(self.planned) - len(waiting)
        if skipped:
            self.reporter.note(f"{skipped:,} of {len(self.planned):,} runs are done already")
        free = deque(self.places.cards)
        with ExitStack() as stack:
            shown = None
            if waiting and not self.places.shown:
                title = f"Sweep, {len(self.places.cards)} at a time" if len(self.places.cards) > 1 else "Sweep"
                shown = stack.enter_context(self.reporter.phase(title, len(self.planned), "run", skipped))
            stack.enter_context(self._signals())
            while self.children or (waiting and not self.signal):
                while waiting and free and not self.signal:
                    self._start(waiting.popleft(), free.popleft())
                for child in self._ended():
                    self._settle(child, shown)
                    if not self.signal and child.run.name not in self.failed and self._next(child.run) is not None:
                        self._start(child.run, child.card)
                    else:
                        free.append(child.card)
        self._tell_end()

    def _next(self, run: Planned) -> str | None:
        """The command that a run needs next, None when it is done."""
        if not self.record.is_trained(run):
            return "train"
        options = self.sweep.evaluate
        return "evaluate" if options is not None and not self.record.is_evaluated(run, options) else None

    def _start(self, run: Planned, card: str | None) -> None:
        what = self._next(run)
        assert what is not None  # nothing that is done waits
        if self.places.shown:
            number = list(self.planned).index(run) + 1
            self.reporter.note(f"run {number:,} of {len(self.planned):,}, {what}: {run.name}")
        with ExitStack() as stack:
            log = None if self.places.shown else stack.enter_context(_log(self.sweep, run))
            process = subprocess.Popen(
                self._command(run, what),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                env=self.places.environment(card),
                start_new_session=_FORWARDED,
            )
        missed = self.signal  # it came while the process was made
        self.children.append(_Child(run, what, card, process))
        if missed and _FORWARDED:
            process.send_signal(missed)

    def _command(self, run: Planned, what: str) -> list[str]:
        command = [sys.executable, "-m", "simpletune", what, str(self.sweep.config)]
        for text in run.overrides:
            command += ["--set", text]
        return [*command, *(self.sweep.evaluate or ())] if what == "evaluate" else command

    def _ended(self) -> list[_Child]:
        """The children that have ended, after a short wait for one."""
        time.sleep(_PAUSE)
        ended = [child for child in self.children if child.process.poll() is not None]
        self.children = [child for child in self.children if child not in ended]
        return ended

    def _settle(self, child: _Child, shown: Phase | None) -> None:
        """Take down how a process ended."""
        code = child.process.returncode
        if code == 0 and child.what == "train":
            self.record.trained(child.run, time.monotonic() - child.began)
        elif code == 0:
            self.record.evaluated(child.run, self.sweep.evaluate or ())
        elif code not in _STOPPED or not self.signal:
            if code in _STOPPED:  # somebody stopped this run alone: it goes on with the sweep's next start
                self.reporter.note(f"{child.run.name} was stopped; start the sweep again to continue it")
            else:
                self.reporter.warn(f"{child.run.name} failed: {child.what} ended with {code}")
            self.failed[child.run.name] = child.what
        if shown is not None and (child.run.name in self.failed or self._next(child.run) is None):
            shown.advance()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Pass SIGINT, SIGTERM and SIGHUP on to the runs, and start no more."""

        def handle(number: int, _frame: FrameType | None) -> None:
            let_go_of_the_gone()
            self.signal = self.signal or number
            for child in self.children if _FORWARDED else ():
                child.process.send_signal(number)

        before = {number: signal.signal(number, handle) for number in caught_here()}
        try:
            yield
        except BaseException:
            for child in self.children:
                child.process.terminate()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _tell_end(self) -> None:
        done = sum(self._next(run) is None for run in self.planned)
        if self.signal:
            message = f"stopped: {done:,} of {len(self.planned):,} runs are done, and what had begun is saved"
            raise ended(self.signal, message, "run the same command again to continue")
        if self.failed:
            raise TrainingFailed(
                f"{len(self.failed):,} of {len(self.planned):,} runs failed: {_some(list(self.failed))}",
                f"what they said is in {display(self.sweep.output_dir / LOGS)}; once it is mended, run the same "
                "command again: the others are done"
                if not self.places.shown
                else "what they said stands above; once it is mended, run the same command again: the others are done",
            )


@contextmanager
def _log(sweep: SweepFile, run: Planned) -> Iterator[IO[bytes]]:
    """The run's log, which all of its starts add to."""
    folder: Path = sweep.output_dir / LOGS
    folder.mkdir(exist_ok=True)
    with (folder / f"{run.name}.log").open("ab") as file:
        yield file


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more
