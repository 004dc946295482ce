"""From two files to a run: validate, look at the pictures, show the plan, and only then import what is heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config.journal import recover
from simpletune.config.load import load, load_for_elsewhere
from simpletune.config.problems import Problem, errors
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight, preflight
from simpletune.data.preflight_lines import tells
from simpletune.errors import ConfigError
from simpletune.progress import Reporter
from simpletune.results.hub.share import check as check_hub
from simpletune.results.hub.share import share

if TYPE_CHECKING:
    from simpletune.trainer.run import Outcome


def launch(config: Path, overrides: Sequence[str], reporter: Reporter, *, dry_run: bool = False) -> Outcome | None:
    """Train what `config` describes, or with `dry_run` only say what that would be (and return None).

    Raises ConfigError with every problem of the files and the pictures, and what `run.train` raises.
    """
    if note := recover(config):
        reporter.note(note)
    # A plan can be looked at anywhere; what this machine lacks is said with it.
    settings, warnings = (load_for_elsewhere if dry_run else load)(config, overrides)
    is_main = int(os.environ.get("RANK", "0")) == 0
    destination = check_hub(settings, reporter) if is_main and not dry_run else None
    # A dry run fetches nothing: it says what would have to be.
    plan = preflight(settings, int(os.environ.get("WORLD_SIZE", "1")), None if dry_run else reporter)
    _raise_errors(config, plan.problems)
    if is_main:
        _show(plan, [*warnings, *(problem for problem in plan.problems if not tells(problem))], reporter)
        _show_long_captions(settings, plan, reporter)
    if dry_run:
        _show_memory(settings, plan, reporter)
        return None
    from simpletune.trainer.run import train

    outcome = train(settings, plan, reporter)
    if is_main:
        share(settings, destination, reporter)
    return outcome


def _raise_errors(config: Path, problems: Sequence[Problem]) -> None:
    found = errors(problems)
    if found:
        raise ConfigError(f"{config}: the pictures can't be trained on as configured", problems=problems)


def _show_memory(settings: Settings, plan: Preflight, reporter: Reporter) -> None:
    from simpletune.data.forecast import plan_of
    from simpletune.machine.forecast import forecast, way_of

    planned = plan_of(settings, plan)
    reporter.note(f"execution: {way_of(planned)}, where the device allows it")
    reporter.note("memory of the device, estimated from the model's shapes")
    for phase in forecast(planned).phases:
        reporter.note(f"  {phase}")
    reporter.note("a dry run: nothing was encoded, trained or written")


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
