"""`simpletune train`: run the two files."""

from __future__ import annotations

from pathlib import Path

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.errors import UsageError
from simpletune.progress import Look, terminal_reporter


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key for this run."
)
@click.option(
    "--new-folder",
    is_flag=True,
    help="Start beside the run that is there: in output-2, output-3, ... whichever is free.",
)
@click.option(
    "--accept-data-change", is_flag=True, help="Continue a run although pictures or captions have changed since."
)
@click.option("--dry-run", is_flag=True, help="Show the plan (pictures, buckets, steps, memory) and stop.")
@click.option(
    "--plain",
    is_flag=True,
    help="No live display but a line every 10 seconds or tenth of the run, later every minute; as in a pipe.",
)
@click.option("--quiet", is_flag=True, help="Only warnings, errors, and the summary at the end.")
def train(
    config: Path | None,
    overrides: tuple[str, ...],
    new_folder: bool,
    accept_data_change: bool,
    dry_run: bool,
    plain: bool,
    quiet: bool,
) -> None:
    """Train a LoRA as CONFIG says (default: config.json here, else config/config.json).

    Run it again to continue where it stopped; Ctrl-C saves first. What is in a run's folder is never removed to make
    room for another: where settings have changed that a run is bound to, commands are said that continue it as it was,
    start beside it, or give its folder another name.

    In a terminal it shows the step, the loss (smoothed) with its curve so far, learning rate, images and steps a
    second, memory (used/usable), the gradient's norm, the time left with validations and checkpoints, and where the
    last sample pictures are. All of it goes to stderr.
    """
    if quiet and (plain or dry_run):
        raise UsageError("--quiet says nothing of what --plain and --dry-run are to show", "give only one of them")
    from simpletune.trainer.launch import launch

    look: Look = "quiet" if quiet else "plain" if plain else "auto"
    reporter = terminal_reporter(look=look)
    launch(
        find_config(config),
        overrides,
        reporter,
        dry_run=dry_run,
        new_folder=new_folder,
        accept_data_change=accept_data_change,
        say=lambda line: click.echo(line, err=True),
    )
