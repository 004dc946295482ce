"""`simpletune card [RUN]`: the model card of a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from simpletune.cli.finished_run import find_run
from simpletune.config.document import display
from simpletune.config.problems import shown


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
def card(run: Path | None) -> None:
    """Write the model card of RUN, a finished run's output folder or its config.json (default: config.json here, else
    config/config.json).

    README.md with the hub's metadata: pictures base beside fine-tuned, the program that uses the LoRA, settings, data,
    metrics. Training writes it too; after `simpletune evaluate` this one has its metrics. A card that you have changed
    is left as it is: remove it to have a new one.
    """
    from simpletune.results.card import write_card

    written = write_card(find_run(run)[0])
    what = "changed by hand, and left as it is" if written.kept else f"{len(written.pictures)} pictures"
    click.echo(f"{shown(display(written.path))} ({what})")
