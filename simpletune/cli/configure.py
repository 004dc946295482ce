"""`simpletune configure [CONFIG]`: the wizard that writes the two files, asking or not."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from simpletune.cli.display import PLACES, named_config, wants_colour
from simpletune.cli.keys import KeyValue
from simpletune.errors import UsageError
from simpletune.wizard.prompters import may_prompt

_PRESETS = ("6gb", "8gb", "12gb", "16gb", "24gb", "cpu")
_HANDS_FREE = "--defaults takes what is recommended, --answers FILE what the file says; add --dataset FOLDER and --yes"


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--defaults", is_flag=True, help="Ask nothing: take the recommended answers.")
@click.option("--dataset", "datasets", multiple=True, metavar="FOLDER", help="A folder of pictures; may be repeated.")
@click.option(
    "--answers", metavar="FILE", type=click.Path(path_type=Path), help="A JSON file of answers; the rest as --defaults."
)
@click.option(
    "--set", "sets", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="A key's value: dataset.0.repeats=2."
)
@click.option("--preset", type=click.Choice(_PRESETS), help="For a card of this memory, or for a processor.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--print", "print_", is_flag=True, help="Print the files as JSON, and write nothing.")
@click.option("--no-input", is_flag=True, help="Never ask, as --defaults; fail where an answer is missing.")
def configure(
    config: Path | None,
    defaults: bool,
    datasets: tuple[str, ...],
    answers: Path | None,
    sets: tuple[str, ...],
    preset: str | None,
    yes: bool,
    dry_run: bool,
    print_: bool,
    no_input: bool,
) -> int:
    """Make CONFIG and the data file beside it: by questions, or without any. Without CONFIG it is config.json here, or
    the one in config/ if that is there already.

    Run it again to change the files; what it doesn't ask about stays as it is.
    """
    from simpletune.wizard.start import parse_sets
    from simpletune.wizard.unattended import dataset_answers, preset_answers, read_answers

    config = _config_path(config)
    values = parse_sets(sets)
    chosen = preset_answers(preset) if preset else {}
    listed = read_answers(answers) if answers else {}

    def given(base: Any) -> Any:
        return {**chosen, **dataset_answers(datasets, base), **listed}

    if defaults or answers or no_input or print_:
        return _unattended(config, values, given, bool(preset), yes=yes, dry_run=dry_run, print_=print_)
    if not may_prompt():
        raise UsageError("this is no terminal, so nobody can be asked", _HANDS_FREE)
    if yes:
        raise UsageError("--yes writes without asking, and there is much to ask", _HANDS_FREE)
    return _interactive(config, values, given, bool(preset), dry_run=dry_run)


def _config_path(named: Path | None) -> Path:
    """The config.json that is meant: one that is there, a folder's own, or a new one; a name without an ending is that
    of a folder to be made."""
    config = named_config(named) if named else next((place for place in PLACES if place.is_file()), PLACES[0])
    if not config.suffix and not os.path.exists(config):  # noqa: PTH110 - it never raises
        config = config / "config.json"
    blocking = next((one for one in config.parents if os.path.exists(one) and not os.path.isdir(one)), None)  # noqa: PTH110, PTH112
    if blocking is not None:
        raise UsageError(f"{config} can't be: {blocking} is a file, not a folder", "name another place")
    return config


def _unattended(config: Path, sets: Any, given: Any, refit: bool, *, yes: bool, dry_run: bool, print_: bool) -> int:
    from simpletune.config.journal import recover, write_together
    from simpletune.config.problems import render_all
    from simpletune.errors import ConfigError
    from simpletune.wizard.compose import changes, checked, contents, diff
    from simpletune.wizard.facts import Facts
    from simpletune.wizard.session import bytes_of, next_lines, picture_lines, written_lines
    from simpletune.wizard.start import broken, read_base
    from simpletune.wizard.unattended import answer_all, as_json, refuse_problems, replaced

    if recovered := recover(config):
        click.echo(recovered, err=True)
    seen = bytes_of(config)
    base = read_base(config, sets, refit=refit)
    if problems := broken(base):
        raise ConfigError(f"{config} can't be started from as it is", "correct it, or move it away", problems)
    reached = answer_all(Facts(config.parent), base, given(base))
    state, found = reached.state, checked(reached.state).problems
    refuse_problems(found)
    for line in replaced(reached):
        click.echo(line, err=True)
    made = contents(state)
    if print_:
        click.echo(as_json(made, state.folder))
        return 0
    if not changes(made):
        click.echo("the files are as they are already: nothing to write")
        return 0
    if not yes or dry_run:
        for line in diff(made, state.folder):
            click.echo(_painted(line))
    if dry_run:
        return 0
    if not yes and not (may_prompt() and click.confirm("Write this?", default=True)):
        raise UsageError("nothing was written", "add --yes to write the files, or --dry-run to only look")
    changed = changes(made)
    backups = write_together(config, made, expected=seen)
    if warnings := [problem for problem in found if problem.severity == "warning"]:
        click.echo(render_all(warnings), err=True)
    for line in (*picture_lines(state), *written_lines(changed, backups, state.folder), *next_lines(state)):
        click.echo(line)
    return 0


def _painted(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour and wants_colour(sys.stdout) else line


def _interactive(config: Path, sets: Any, given: Any, refit: bool, *, dry_run: bool) -> int:
    from simpletune.wizard.flow import Stopped
    from simpletune.wizard.prompters import prompter
    from simpletune.wizard.session import Session
    from simpletune.wizard.streams import hangup_is_end_of_file

    session = Session(prompter(), config, sets, dry_run=dry_run, refit=refit)
    with hangup_is_end_of_file():
        try:
            outcome = session.run(given)
        except (KeyboardInterrupt, EOFError):
            with suppress(OSError):  # the terminal may be the thing that is gone
                click.echo(f"\nstopped: {session.left_behind}", err=True)
            return 130
        except Stopped:
            click.echo("stopped: nothing was written", err=True)
            return 0
    if not outcome.train:
        return 0
    from simpletune.cli.train import train

    result = train.main(args=[str(config)], standalone_mode=False)
    return result if isinstance(result, int) else 0
