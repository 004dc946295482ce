"""The trackers of a run: which there are, and what each of them is still to be told after a start or a continuation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simpletune.config.continuing import LEARNING_RATE, LENGTH, free_settings
from simpletune.config.load import resolved
from simpletune.config.settings import Settings
from simpletune.errors import SimpletuneError
from simpletune.progress import Reporter, SilentReporter
from simpletune.redact import redact
from simpletune.trainer.tracking.record import RECORD_FILE, Identity, Record, read_record, rows_reported, write_record
from simpletune.trainer.tracking.to_tensorboard import TensorBoard
from simpletune.trainer.tracking.to_trackio import Trackio
from simpletune.trainer.tracking.to_wandb import Wandb
from simpletune.trainer.tracking.tracker import PICTURES, Picture, RunDescription, Tracker, scalars_of
from simpletune.trainer.tracking.worker import Worker

# Each imports its library when it is made.
TRACKERS: Mapping[str, Callable[[RunDescription], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}
REPLACING = frozenset({"tensorboard"})
"""Trackers that drop what they have of steps that are reported again; others are spared those steps where they
equal the first ones, and else get a new run."""
_SECONDS_TO_OPEN = 20.0
_SECONDS_TO_FINISH = 60.0


@dataclass(frozen=True)
class _Open:
    """A tracker at work. What it has already (see record.py) it isn't told again."""

    name: str
    worker: Worker
    has: Mapping[str, int]


class Trackers:
    """Tells every tracker; a context manager that lets them end when the run does. Without trackers it does nothing."""

    def __init__(
        self,
        trackers: Sequence[_Open] = (),
        record: Record | None = None,
        folder: Path = Path(),
        reporter: Reporter | None = None,
    ) -> None:
        self._trackers = tuple(trackers)
        self._record = dict(record or {})
        self._folder = folder
        self._reporter = reporter or SilentReporter()

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Report a line of metrics.jsonl."""
        if not self._trackers:
            return
        scalars = scalars_of(kind, values)
        for one in self._trackers:
            if step > one.has[kind]:
                one.worker.scalars(step, scalars)
        self.tell()

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """Report the pictures of a validation, whose files are complete."""
        if not self._trackers or not pictures:
            return
        for one in self._trackers:
            if step > one.has[PICTURES]:
                one.worker.pictures(step, pictures)
        self.remember({name: one.with_at_least({PICTURES: step}) for name, one in self._record.items()})
        self.tell()

    def tell(self) -> None:
        """Say what trackers have to say. One that failed is forgotten: a continued run opens another one there."""
        # Asked before the news: why one failed is among them then, however the threads take their turns.
        failed = [one.name for one in self._trackers if one.worker.failed]
        for one in self._trackers:
            for line in one.worker.news():
                self._reporter.note(line)
        if failed:
            self._trackers = tuple(one for one in self._trackers if one.name not in failed)
            self.remember({name: one for name, one in self._record.items() if name not in failed})

    def remember(self, record: Record) -> None:
        """Keep what trackers have now. A disk that takes it no more stops no training."""
        self._record = dict(record)
        try:
            write_record(self._folder, self._record)
        except OSError as error:
            self._reporter.warn(
                f"{RECORD_FILE} can't be written ({error.strerror}): a continued run may repeat pictures"
            )

    def wait_opened(self) -> None:
        """Give trackers a moment to open, so that what they say stands before the run's own lines."""
        for one in self._trackers:
            one.worker.wait_opened(_SECONDS_TO_OPEN / len(self._trackers))
        self.tell()

    def close(self, exit_code: int = 0) -> None:
        """Wait for what is under way, a minute at most for all together, and say what did not get there."""
        for one in self._trackers:
            one.worker.finish(exit_code, _SECONDS_TO_FINISH / len(self._trackers))
        self.tell()
        self._trackers = ()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _at: object) -> None:
        self.close(0 if error is None else error.exit_code if isinstance(error, SimpletuneError) else 1)


def open_trackers(settings: Settings, metrics: Path, resumed_step: int, reporter: Reporter) -> Trackers:
    """Open what `report_to` names; `metrics` is metrics.jsonl as the last start left it, before it is cut back.

    `resumed_step`: of the checkpoint that is continued from, 0 for none. A run that starts anew, goes back to an
    earlier checkpoint than it could, or takes steps again at other learning rates, is a new one to trackers that can't
    take anything back.
    """
    if not settings.report_to:
        return Trackers()
    earlier = read_record(settings.output_dir) if resumed_step else {}
    rows = rows_reported(metrics)
    last = resumed_step or -1
    schedule = _schedule(settings)
    record: dict[str, Identity] = {}
    trackers = []
    for name in settings.report_to:
        known = earlier.get(name)
        identity = known.with_at_least(rows) if known else Identity.new(_name(settings, resumed_step), last)
        if name in REPLACING:
            identity = replace(identity, has={kind: min(step, last) for kind, step in identity.has.items()})
        elif max(identity.has.values()) > resumed_step and (
            settings.resume_from_checkpoint != "latest" or identity.schedule not in (None, schedule)
        ):
            identity = Identity.new(_name(settings, resumed_step), last)
        record[name] = replace(identity, schedule=schedule)
        trackers.append(_Open(name, _start(name, settings, identity, resumed_step), identity.has))
    opened = Trackers(trackers, record, settings.output_dir, reporter)
    opened.remember(record)
    opened.wait_opened()
    return opened


def _schedule(settings: Settings) -> dict[str, Any]:
    """What the learning rates come from; with some schedules the run's length too."""
    keys = LEARNING_RATE if settings.lr_scheduler.startswith("constant") else LEARNING_RATE | LENGTH
    return {key: value for key, value in free_settings(settings).items() if key in keys}


def _start(name: str, settings: Settings, identity: Identity, resumed_step: int) -> Worker:
    run = RunDescription(
        project=settings.tracker_project_name,
        name=identity.name,
        id=identity.id,
        folder=settings.output_dir,
        first_step=resumed_step + 1 if resumed_step else 0,
        config=shared_config(settings),
    )
    return Worker(name, lambda: TRACKERS[name](run))


def _name(settings: Settings, resumed_step: int) -> str:
    return f"{settings.tracker_run_name}-from-{resumed_step}" if resumed_step else settings.tracker_run_name


def shared_config(settings: Settings) -> dict[str, Any]:
    """Every setting by its key, and the data sets, as JSON: without tokens, and without the name of the home folder."""
    said = resolved(settings)
    values = {key: entry["value"] for key, entry in said["config"].items()}
    sets = [{key: entry["value"] for key, entry in one.items()} for one in said["datasets"]]
    text = redact(json.dumps({**values, "datasets": sets, "validation_prompts": said["validation_prompts"]}))
    home = json.dumps(str(Path.home()))[1:-1]
    config: dict[str, Any] = json.loads(text if home == "/" else text.replace(home, "~"))
    return config
