"""The `simpletune` command: a table of subcommands, loaded when they are called, and what a person sees of errors."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from simpletune import __version__
from simpletune.errors import ConfigError, SimpletuneError
from simpletune.machine.allocator import map_in_pages
from simpletune.redact import redact

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """Where a subcommand is, as "module:function", and its line in --help; both known without importing it."""

    target: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "configure": Entry("simpletune.cli.configure:configure", "Make the two files, by questions or without."),
    "validate": Entry("simpletune.cli.validate:validate", "Check the two files and the pictures they name."),
    "doctor": Entry("simpletune.cli.doctor:doctor", "Check that everything is there that training needs."),
    "caption": Entry("simpletune.cli.caption:caption", "Write captions for pictures, with a model that sees them."),
    "data": Entry("simpletune.cli.data:data", "Say what is in the data sets and what training makes of it."),
    "train": Entry("simpletune.cli.train:train", "Train what the two files say."),
    "sweep": Entry("simpletune.cli.sweep:sweep", "Train with other values of some keys, every combination."),
    "generate": Entry("simpletune.cli.generate:generate", "Make pictures, base beside fine-tuned."),
    "report": Entry("simpletune.cli.report:report", "Show a run on one page, or several compared."),
    "card": Entry("simpletune.cli.card:card", "Write the model card of a finished run."),
    "push": Entry("simpletune.cli.push:push", "Upload a finished run to the Hugging Face hub."),
    "evaluate": Entry("simpletune.cli.evaluate:evaluate", "Measure what training made of the model, in figures."),
    "export": Entry("simpletune.cli.export:export", "Write an adapter for other programs, or merge it into its base."),
    "bench": Entry("simpletune.cli.bench:bench", "Say how fast this machine trains, at real size, without a model."),
    "cache": Entry("simpletune.cli.cache:cache", "See what is in the caches, and remove what nobody needs."),
    "import": Entry("simpletune.cli.import_:import_", "Turn a configuration of SimpleTuner into one of simpletune."),
    "explain": Entry("simpletune.cli.explain:explain", "Say what a key means, costs, and is now."),
    "schema": Entry("simpletune.cli.schema:schema", "Print or write the schemas that editors complete and check with."),
    "completion": Entry("simpletune.cli.completion:completion", "Print the script that makes a shell complete."),
    "model": Entry("simpletune.cli.model:model", "Build a model to try things out with."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(n, help=e.summary) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="simpletune")
def command() -> None:
    """Fine-tune Stable Diffusion 3 on your own images: two JSON files in, a LoRA out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, or the code of the error (see simpletune/errors.py)."""
    map_in_pages()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code."""
    if "_SIMPLETUNE_COMPLETE" in os.environ:
        importlib.import_module("simpletune.cli.completion").install()
    try:
        result = command.main(args=arguments, prog_name="simpletune", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`simpletune validate | head`); Python must not complain about it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SimpletuneError as error:
        show_error(error)
        return error.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _show_bug(error)
            return 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"error: the output can't be written: {error.strerror}", err=True)
        return 1
    except Exception as error:
        _show_bug(error)
        return 1
    return result if isinstance(result, int) else 0


def show_error(error: SimpletuneError) -> None:
    """A person's error on stderr: every problem of the files, what is wrong, what to do."""
    if isinstance(error, ConfigError) and error.problems:
        from simpletune.cli.display import problem_text

        click.echo(problem_text(error.problems, sys.stderr), err=True)
    _echo_sentence(f"error: {redact(error.message)}")
    if error.hint:
        _echo_sentence(f"hint: {redact(error.hint)}")


def _echo_sentence(text: str) -> None:
    """A sentence on stderr; on a terminal broken between words, elsewhere in one line.

    A file's name or header may be in it, which must not steer the terminal.
    """
    from simpletune.config.problems import shown

    text = "\n".join(map(shown, text.split("\n")))
    if sys.stderr.isatty():
        from simpletune.wizard.text import wrap

        columns = shutil.get_terminal_size().columns
        # A Python command in it has a line of its own, as a break inside would spoil it.
        lines = text.replace(": python -c ", ":\n    python -c ").splitlines()
        parts = ([line] if line.startswith("    ") else wrap(line, columns, break_words=False) for line in lines)
        text = "\n".join(part for several in parts for part in several)
    click.echo(text, err=True)


def _show_bug(error: Exception) -> None:
    """An error nobody foresaw: the traceback belongs into the report, without tokens."""
    click.echo(redact("".join(traceback.format_exception(error))), err=True)
    summary = redact(f"{type(error).__name__}: {error}")
    click.echo(f"error: this is a bug in simpletune: {summary}", err=True)
    click.echo("hint: please report it with the lines above and the command you ran", err=True)
