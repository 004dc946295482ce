"""`simpletune train`: run the two files."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.progress import terminal_reporter


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key for this run."
)
@click.option("--dry-run", is_flag=True, help="Show the plan (pictures, buckets, steps, memory) and stop.")
def train(config: Path | None, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Train a LoRA as CONFIG says (default: config.json here, else config/config.json).

    Run it again to continue where it stopped; Ctrl-C saves first.
    """
    from simpletune.trainer.launch import launch

    reporter = terminal_reporter()
    outcome = launch(find_config(config), overrides, reporter, dry_run=dry_run)
    if outcome is None:
        return
    reporter.note(f"done: {outcome.steps} steps")
    for what, path in (("adapter", outcome.adapter), ("gallery", outcome.gallery), ("plots", outcome.plots)):
        if path is not None:
            reporter.note(f"  {what:8} {_short(path)}")
    reporter.note(f"all of it on one page: simpletune report {shlex.quote(str(_short(outcome.adapter.parent)))} --open")


def _short(path: Path) -> Path:
    """The path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
