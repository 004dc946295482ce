"""`simpletune cache`: what is in the folders of encoded pictures and captions, and removing what nobody needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.config.problems import shown
from simpletune.errors import ConfigError, UsageError
from simpletune.progress import terminal_reporter

if TYPE_CHECKING:
    from simpletune.data.caches.prune import CacheFolder

_argument = click.argument("config", required=False, type=click.Path(path_type=Path))
_overrides = click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Look with this value of a key."
)


@click.group()
def cache() -> None:
    """See what is in the caches, and remove what nobody needs any more."""


@cache.command("list", short_help="Say what is in each cache folder.")
@_argument
@_overrides
def list_(config: Path | None, overrides: tuple[str, ...]) -> None:
    """Say what is in each cache folder of CONFIG: entries, bytes, and orphans that nobody needs any more.

    Nothing is encoded, downloaded or removed. Pictures that haven't been read since they changed are read.
    """
    for folder in _found(find_config(config), overrides):
        click.echo("\n".join(_lines(folder)))


@cache.command(short_help="Remove the entries that nobody needs.")
@_argument
@_overrides
@click.option("--yes", is_flag=True, help="Don't ask.")
def prune(config: Path | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Remove the cache entries that no picture, caption or prompt of CONFIG needs.

    What another config's last run needed is kept as long as that config's file is there. Asks first on a terminal;
    elsewhere nothing is removed without --yes. Nothing but entries is ever removed.
    """
    from simpletune.data.caches import prune as work

    found = _found(find_config(config), overrides)
    for folder in found:
        click.echo("\n".join(_lines(folder)))
        for other in folder.unfinished:
            if other.is_relative_to(folder.path):
                click.echo(f"warning: {shown(str(folder.path))} is left alone: a note of who uses it can't be read. If")
                click.echo(f"no other config does, remove {shown(str(other))}")
                continue
            click.echo(f"warning: {shown(str(folder.path))} is left alone: {shown(str(other))} uses it too, and its")
            click.echo("last run there didn't finish encoding. Let it finish, or remove that file.")
    ready = work.removable(found)
    count = sum(len(folder.orphans) + len(folder.leftovers) for folder in ready)
    if not count:
        click.echo("nothing to remove")
        return
    total = sum(folder.orphans.size_bytes + folder.leftovers.size_bytes for folder in ready)
    if not yes:
        _ask(f"remove {_files(count)}, {_size(total)}?")
    removed = work.prune(ready)
    click.echo(f"removed {_files(len(removed))}: {_size(removed.size_bytes)} are free again")
    if len(removed) < count:
        click.echo(f"{_files(count - len(removed))} couldn't be removed", err=True)


def _found(config: Path, overrides: Sequence[str]) -> list[CacheFolder]:
    """Every cache folder of a config. Raises ConfigError for what is wrong with files or pictures."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # looking at a cache is no reason to download a model
    from simpletune.config.load import load
    from simpletune.config.problems import errors
    from simpletune.data.preflight import preflight

    reporter = terminal_reporter()
    settings, _ = load(config, overrides)
    looked = preflight(settings, 1, reporter)
    if errors(looked.problems):
        message = f"{config}: while its pictures can't be found, nobody knows which entries are needed"
        raise ConfigError(message, problems=looked.problems)
    from simpletune.data.caches import prune as work
    from simpletune.models.registry import get_family

    family = get_family(settings.model_family)
    needs = work.needs(settings, looked, family, family.locate(settings), reporter)
    return [work.look(folder, need, settings.config_path) for folder, need in sorted(needs.items())]


def _lines(folder: CacheFolder) -> Iterator[str]:
    yield shown(str(folder.path))
    yield f"  {' and '.join(folder.kinds)}: {_entries(folder.entries)}, {_size(folder.size_bytes)}"
    yield f"    needed by this config: {_entries(len(folder.needed))}, {_size(folder.needed.size_bytes)}"
    for (config, day), pile in folder.others.items():
        needed = f"{_entries(len(pile))}, {_size(pile.size_bytes)}"
        yield f"    needed by {shown(str(config))} (run on {day}): {needed}"
    yield f"    orphans: {_entries(len(folder.orphans))}, {_size(folder.orphans.size_bytes)}"
    if folder.leftovers:
        yield f"  left by runs that were killed: {_files(len(folder.leftovers))}, {_size(folder.leftovers.size_bytes)}"


def _ask(question: str) -> None:
    """Go on only with a yes. Raises UsageError where nobody can be asked."""
    if not _can_ask():
        raise UsageError(f"{question} Nobody can be asked here, so nothing is removed", "add --yes")
    if not click.confirm(question, default=False):
        raise click.exceptions.Exit(0)


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _size(count: int) -> str:
    """Bytes as people count them on a disk."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
