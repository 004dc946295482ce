"""`simpletune caption [DIR|CONFIG]`: captions for pictures that have none, by a vision-language model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import find_config, wants_colour
from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.progress import Reporter, terminal_reporter
from simpletune.redact import redact
from simpletune.wizard.prompters import may_prompt

if TYPE_CHECKING:
    from simpletune.data.captioning.captioner import Options, Outcome, Store
    from simpletune.data.captioning.settings import Edit
    from simpletune.data.captioning.target import Target
    from simpletune.data.sources import Listing

MODEL = "Qwen/Qwen3-VL-2B-Instruct"


@click.command()
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[DIR|CONFIG]")
@click.option("--dataset", metavar="ID", help="The data set, where CONFIG has several.")
@click.option("--config", type=click.Path(path_type=Path), help="With DIR: the config.json that has it as a data set.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write captions here. With DIR, no config is changed.",
)
@click.option(
    "--model",
    default=MODEL,
    show_default=True,
    metavar="ID|FOLDER",
    help="Hub id or folder; the default is 4.3 GB, Apache-2.0.",
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the model.")
@click.option("--prompt", metavar="TEXT", help="What to ask the model; for one without a chat, how captions begin.")
@click.option("--trigger", default="", metavar="WORDS", help="Words to put in front of every caption.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(8, 2000),
    default=120,
    show_default=True,
    metavar="N",
    help="The longest caption, in the model's tokens.",
)
@click.option("--batch-size", type=click.IntRange(1, 256), metavar="N", help="Pictures at once. [8 on CUDA, 1 on CPU]")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cuda, cuda:1, mps or cpu.")
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True)
@click.option("--quantize", type=click.Choice(["int8", "int4"]), help="Keep the language layers in fewer bits.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only show captions of N pictures; keep nothing."
)
@click.option("--overwrite", is_flag=True, help="Make all captions anew, yours too.")
@click.option("--replace", is_flag=True, help="Use these captions where the data set has others.")
@click.option("--sidecar", is_flag=True, help="Write .txt files beside the pictures instead.")
@click.option("--yes", is_flag=True, help="Change the data file without asking.")
def caption(target: Path | None, **asked: Any) -> None:
    """Write captions for the pictures in DIR, or of a data set of CONFIG (default: config.json here), with a
    vision-language model.

    They go into captions/ID.jsonl beside config.json, and the data file is set to use them. The folder of pictures
    is only read, unless --sidecar is given. Stop it at any time: the same command goes on. Captions that are there,
    yours too, stay as they are.
    """
    from simpletune.data.captioning.target import find_target

    path = target or find_config(None)
    reporter = terminal_reporter()
    with _source_errors():
        found = find_target(path, asked["dataset"], asked["config"], asked["output"], sidecar=asked["sidecar"])
        listing = _listing(found, reporter)
        if asked["limit"]:
            _try_out(found, listing, _options(found, asked), asked["limit"], reporter)
            return
        if not asked["replace"]:
            _keep_others(found, listing)
    edit = found.edit()
    if edit is not None and not asked["yes"]:
        _confirm(edit)
    _make(found, listing, asked, reporter)


@contextmanager
def _source_errors() -> Iterator[None]:
    from simpletune.data.sources import SourceError

    try:
        yield
    except SourceError as error:
        raise UsageError(error.message, error.hint) from error


def _listing(found: Target, reporter: Reporter) -> Listing:
    found.source.fetch(reporter)
    listing = found.source.list()
    if not listing.files and not listing.rejected:
        raise UsageError(f"there are no pictures in {shown(found.where)}", "name the folder they are in")
    return listing


def _options(found: Target, asked: Mapping[str, Any]) -> Options:
    from simpletune.data.captioning.captioner import Options

    named = {field.name for field in fields(Options)} & asked.keys()
    return Options(endpoint=found.endpoint, **{name: asked[name] for name in named})


def _try_out(found: Target, listing: Listing, options: Options, limit: int, reporter: Reporter) -> None:
    from simpletune.data.captioning.captioner import try_out

    for name, text in try_out(found.source, listing.files[:limit], options, reporter):
        click.echo(f"{shown(name)}: {shown(redact(text)) or '(nothing)'}")


def _keep_others(found: Target, listing: Listing) -> None:
    """Refuse to take a data set's captions away without being told."""
    from simpletune.data.captioning.settings import captions_already

    if found.config_path is None or found.set_id is None:
        return
    others = captions_already(found.config_path, found.set_id, found.captions, found.source, listing)
    if others is not None:
        hint = "--replace uses the new ones in their place, --limit 3 only shows some"
        if found.captions is not None and "txt" in others:
            hint += ", --sidecar writes those that are missing"
        raise UsageError(f'the data set "{shown(found.set_id)}" has captions: {others}', hint)


def _confirm(edit: Edit) -> None:
    """Show what the data file will say, and ask whether it may."""
    click.echo("When all pictures have captions, the data file is changed:")
    for line in edit.lines:
        click.echo(_painted(line))
    if not may_prompt():
        raise UsageError("nobody can be asked here, so nothing was done", "add --yes to go on without being asked")
    if not click.confirm("Go on?", default=True):
        raise UsageError("nothing was done", "--limit 3 only shows some captions")


def _make(found: Target, listing: Listing, asked: Mapping[str, Any], reporter: Reporter) -> None:
    from simpletune.data.captioning.captioner import caption as give_captions
    from simpletune.data.captioning.file import opened
    from simpletune.data.captioning.sidecars import Sidecars

    options = _options(found, asked)
    with ExitStack() as stack:
        if found.captions is not None:
            again = options.digest if asked["overwrite"] else None
            store: Store = stack.enter_context(opened(found.captions, again))
        else:
            assert found.folder is not None  # find_target has seen to that
            store = Sidecars(found.folder, asked["overwrite"])
        outcome = give_captions(found.source, listing, store, options, reporter)
    for line in _lines(found, outcome):
        click.echo(line)
    if (edit := found.edit()) is not None and outcome.captioned:
        backups = edit.write()
        kept = f" (the old one is {backups[0].name})" if backups else ""
        click.echo(f"{shown(display(edit.path))} uses them now{kept}")


def _lines(found: Target, outcome: Outcome) -> Iterator[str]:
    where = ".txt files beside them" if found.captions is None else shown(display(found.captions))
    new = f", {outcome.made:,} of them new" if outcome.before else ""
    yield f"{outcome.captioned:,} of {outcome.total:,} pictures have captions in {where}{new}"
    if outcome.captioned < outcome.total:
        reasons = ((outcome.unreadable, "can't be read"), (outcome.speechless, "got no words from the model"))
        yield "  " + ", ".join(f"{count:,} {what}" for count, what in reasons if count)
    if found.config_path is None and found.captions is not None:
        yield "to train with them, put this into the data set's entry of multidatabackend.json:"
        yield f'  "caption_strategy": "jsonl", "metadata_path": {json.dumps(found.captions.as_posix())}'
    elif found.config_path is None:
        yield 'a data set with "caption_strategy" textfile, the default, reads them'


def _painted(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour and wants_colour(sys.stdout) else line
