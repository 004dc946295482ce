"""`simpletune push [RUN]`: a finished run to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from simpletune.cli.finished_run import find_run
from simpletune.progress import terminal_reporter


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--repo", metavar="ID", help="NAME or OWNER/NAME of the repository. [hub_model_id]")
@click.option("--public/--private", default=None, help="Who may see a new repository. [hub_private]")
def push(run: Path | None, repo: str | None, public: bool | None) -> None:
    """Upload RUN, a finished run's output folder or its config.json (default: config.json here, else
    config/config.json), to the Hugging Face hub: the final LoRA, its model card with pictures, and the settings without
    paths.

    It needs a login: `hf auth login`, or HF_TOKEN. The repository is private unless you say otherwise. What is there
    already isn't sent again, so the same command goes on after an upload that broke off.
    """
    from simpletune.results.card.facts import gather_facts
    from simpletune.results.hub import share, upload
    from simpletune.results.hub.destination import prepare, wish_of, wish_of_run

    reporter = terminal_reporter()
    folder, settings = find_run(run)
    facts = gather_facts(folder)
    wish = wish_of_run(facts.run) if settings is None else wish_of(settings)
    if repo is not None:
        wish = replace(wish, name=repo)
    if public is not None:
        wish = replace(wish, private=not public)
    destination = prepare(wish, reporter.note)
    share.tell(upload.push(folder, destination, reporter), destination, reporter)
