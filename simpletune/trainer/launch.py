"""From two files to a run: validate, look at the pictures, show the plan, and only then import what is heavy."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config.journal import recover
from simpletune.config.load import load, load_for_elsewhere
from simpletune.config.problems import Problem, errors
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight, preflight
from simpletune.data.preflight_lines import tells
from simpletune.errors import ConfigError, HungUp, Interrupted, SimpletuneError, Terminated
from simpletune.progress import Reporter, SilentReporter, WarningsKept
from simpletune.results.card import FILE as CARD_FILE
from simpletune.results.hub.share import check as check_hub
from simpletune.results.hub.share import share
from simpletune.results.summary import Ending, summary
from simpletune.trainer.asked import Asked, blamed
from simpletune.trainer.interrupt import Stopped, StopRequest, ended, stop_requests
from simpletune.trainer.lock import check_free
from simpletune.trainer.new_folder import into_new_folder, leave_note, said
from simpletune.trainer.start import check_data_early, check_early, foretell

if TYPE_CHECKING:
    from simpletune.machine.execution import Way
    from simpletune.results.hub.destination import Destination
    from simpletune.trainer.run import Outcome


_WIDTH = 80
Say = Callable[[str], None]


def launch(
    config: Path,
    overrides: Sequence[str],
    reporter: Reporter,
    *,
    dry_run: bool = False,
    new_folder: bool = False,
    accept_data_change: bool = False,
    say: Say | None = None,
) -> Outcome | None:
    """Train what `config` describes, or with `dry_run` only say what that would be (and return None). Of several
    processes only the main one shows anything.

    `say` takes the summary's lines once the run is done, or is stopped and saved. `new_folder`: start beside a run that
    is there, in a folder with the next number. `accept_data_change`: continue a run although its data has changed.

    Raises ConfigError with every problem of the files and the pictures, and what `run.train` raises. A signal to stop
    is honoured in every phase (`interrupt.stop_requests`).
    """
    with stop_requests() as stop:
        try:
            asked = Asked(config, tuple(overrides), new_folder, accept_data_change)
            return _launch(asked, reporter, stop, dry_run=dry_run, say=say)
        except Stopped as stopped:
            raise _between(stopped, stop) from None


def _between(stopped: Stopped, stop: StopRequest) -> SimpletuneError:
    """The error for a signal before the run has begun, or once it has ended."""
    if stop.saved:
        message = "stopped after the last step; all steps are saved"
        return ended(stopped.signal, message, "run the same command again: it writes what is missing, if anything is")
    return ended(stopped.signal, "stopped before anything was done", "run the same command again")


def _launch(asked: Asked, reporter: Reporter, stop: StopRequest, *, dry_run: bool, say: Say | None) -> Outcome | None:
    began = time.monotonic()
    is_main = int(os.environ.get("RANK", "0")) == 0
    reporter = kept = WarningsKept(reporter if is_main else SilentReporter())
    if note := recover(asked.config):
        reporter.note(note)
    # A plan can be looked at anywhere; what this machine lacks is said with it.
    read = load_for_elsewhere if dry_run else load
    try:
        settings, warnings = read(asked.config, asked.overrides)
    except ConfigError as error:
        raise blamed(error) from None
    named = settings.output_dir
    if asked.new_folder:
        asked = into_new_folder(settings, asked)
        settings, warnings = read(asked.config, asked.overrides)
    if is_main and not dry_run:
        check_free(settings.output_dir)
    found = None if dry_run else check_early(settings, asked, SilentReporter())
    destination = check_hub(settings, reporter) if is_main and not dry_run else None
    # A dry run fetches nothing: it says what would have to be.
    plan = preflight(settings, int(os.environ.get("WORLD_SIZE", "1")), None if dry_run else reporter)
    _raise_errors(asked.config, plan.problems)
    if found is not None:
        check_data_early(found, plan, settings, asked)
    if is_main:
        _show(plan, [*warnings, *(problem for problem in plan.problems if not tells(problem))], reporter)
        _show_long_captions(settings, plan, reporter)
    if dry_run:
        _show_memory(settings, plan, reporter)
        foretell(settings, plan, asked, reporter)
        return None
    if settings.output_dir != named and is_main:
        for line in said(settings.output_dir, named, asked.continuing(settings.resume_from_checkpoint)):
            reporter.note(line)
        leave_note(settings.output_dir, named)
    from simpletune.trainer.run import train

    def tell(trained: int | None, shared: str | None = None) -> None:
        if is_main and say is not None:
            seconds = time.monotonic() - began
            now = asked if trained is not None else asked.continuing(settings.resume_from_checkpoint)
            _tell(Ending(settings.output_dir, now.config, now.overrides, seconds, trained, shared, kept.warnings), say)

    try:
        outcome = train(settings, plan, reporter, stop, asked)
    except (HungUp, Interrupted, Terminated) as ending:
        if asked.new_folder:  # the same command would begin once more, in yet another folder
            ending.hint = f"to continue: {asked.continuing(settings.resume_from_checkpoint).command()}"
        if stop.saved:
            tell(None)
        raise
    if is_main:
        shared = None
        try:
            _share(settings, outcome, destination, reporter)
            shared = destination.url if destination is not None else None
        except Stopped as stopped:
            raise _not_shared(stopped, settings, destination) from None
        finally:
            tell(outcome.trained, shared)
    return outcome


def _not_shared(stopped: Stopped, settings: Settings, destination: Destination | None) -> SimpletuneError:
    if destination is None:
        message, hint = "the model card was not written", "`simpletune card` writes it"
    else:
        message, hint = f"the upload to {destination.url} was cut off", "`simpletune push` goes on with it"
    return ended(
        stopped.signal, f"stopped after the end: the run in {settings.output_dir} is whole, but {message}", hint
    )


def _share(settings: Settings, outcome: Outcome, destination: Destination | None, reporter: Reporter) -> None:
    """Nothing is written for a run that was finished before, unless something is missing."""
    if outcome.written or destination is not None or not (settings.output_dir / CARD_FILE).exists():
        share(settings, destination, reporter)


def _tell(ending: Ending, say: Say) -> None:
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stderr.isatty() else _WIDTH
    for line in summary(ending, min(_WIDTH, columns)):
        say(line)


def _raise_errors(config: Path, problems: Sequence[Problem]) -> None:
    found = errors(problems)
    if found:
        raise ConfigError(f"{config}: the pictures can't be trained on as configured", problems=problems)


def _show_memory(settings: Settings, plan: Preflight, reporter: Reporter) -> None:
    from simpletune.data.forecast import plan_of
    from simpletune.machine.forecast import forecast, way_of

    planned = plan_of(settings, plan)
    _show_way(settings, way_of(planned), reporter)
    reporter.note("memory of the device, estimated from the model's shapes")
    for phase in forecast(planned).phases:
        reporter.note(f"  {phase}")
    reporter.note("a dry run: nothing was encoded, trained or written")


def _show_way(settings: Settings, way: Way, reporter: Reporter) -> None:
    """How the step will run; where that takes a CUDA card, and none can be used here, that too."""
    from simpletune.machine.devices import devices, lack_of_cards
    from simpletune.machine.execution import EIGHT_BIT
    from simpletune.machine.hardware import look

    asked = {"execution": settings.execution == "graph", "base_model_matmul": settings.base_model_matmul in EIGHT_BIT}
    needing = [f'"{key}" {getattr(settings, key)}' for key, needs in asked.items() if needs]
    lacking = lack_of_cards(devices(look(settings.output_dir))) if way.captured or needing else None
    reporter.note(f"execution: {way}, {f'but {lacking}' if lacking else 'where the device allows it'}")
    if lacking and needing:
        reporter.warn(f"a start here would be refused: {needing[0]} needs a CUDA card")


def _show_long_captions(settings: Settings, plan: Preflight, reporter: Reporter) -> None:
    """Say how many captions no text encoder reads to their end, so that nobody wonders what was learned of it."""
    from simpletune.data.captions.tokens import count_tokens, text_encoders

    samples = (*plan.training, *plan.held_out)
    captions = ((sample.name, caption) for sample in samples for caption in sample.captions)
    for counts in count_tokens(captions, text_encoders(settings)):
        if counts.over:
            reporter.note(f"{counts.line()}; the rest is cut off: {counts.names()}")


def _show(plan: Preflight, warnings: Sequence[Problem], reporter: Reporter) -> None:
    for warning in warnings:
        reporter.warn(f"{warning.file}: {warning.message}" + (f" ({warning.hint})" if warning.hint else ""))
    for line in plan.lines():
        reporter.note(line)
