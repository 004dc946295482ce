"""`simpletune explain KEY [CONFIG]`: what a key means, what it may be, what it costs, and what it is now."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.cli.display import PLACES, named_config
from simpletune.cli.keys import KeyName
from simpletune.errors import UsageError

if TYPE_CHECKING:
    from simpletune.config.explain import Explanation
    from simpletune.config.settings import Settings
    from simpletune.config.view import View
    from simpletune.wizard.explain import Row

_WIDE = 80
_LABEL, _FIGURE = 10, 8
_GIB = 1 << 30


@click.command(context_settings={"ignore_unknown_options": True})  # --lora_rank is asked about, too
@click.argument("key", type=KeyName())
@click.argument("config", required=False, type=click.Path(path_type=Path))
def explain(key: str, config: Path | None) -> None:
    """Say what KEY means, what it may be, what it costs, and what it is in CONFIG (default: config.json here, else
    config/config.json, if there is one).

    KEY is a key of config.json, such as lora_rank; of a data set, such as dataset.repeats or dataset.0.repeats; or an
    optimizer's argument, such as optimizer_config.weight_decay.
    """
    from simpletune.config.explain import explain as explained
    from simpletune.wizard.explain import memory_of

    whole, settings = _files(config)
    found = explained(key, whole, settings)
    rows = memory_of(key, settings) if settings is not None and not key.startswith("dataset.") else ()
    columns = max(20, min(_WIDE, shutil.get_terminal_size((_WIDE, 24)).columns))
    click.echo("\n".join(_lines(found, rows, columns)))
    if whole is not None and settings is None:
        click.echo("the files have errors: simpletune validate", err=True)


def _files(named: Path | None) -> tuple[View | None, Settings | None]:
    """What the files say, and what follows from it if they have no errors."""
    path = named_config(named) if named else next((place for place in PLACES if place.is_file()), None)
    if path is None:
        return None, None
    if not path.is_file():
        raise UsageError(f"there is no {path}", "name a config.json, or leave it out")
    from simpletune.config.load import settings_of
    from simpletune.config.validate import check, exit_code

    checked = check(path)
    usable = exit_code(checked.problems) != UsageError.exit_code
    return checked.view, settings_of(path, checked.view) if usable else None


def _lines(found: Explanation, rows: tuple[Row, ...], columns: int) -> Iterator[str]:
    from simpletune.wizard.text import wrap

    def about(label: str, text: str) -> list[str]:
        return wrap(text, columns, label.ljust(_LABEL), " " * _LABEL)

    yield from wrap(f"{found.name}: {found.title} ({found.place})", columns)
    yield ""
    yield from wrap(found.meaning, columns)
    yield ""
    yield from about("values", found.values)
    if found.default is not None:
        yield from about("default", found.default)
    for setting in found.now:
        of = f"{setting.of}: " if setting.of else ""
        origin = "the default" if setting.origin == "default" else setting.origin
        yield from about("now", f"{of}{setting.value}  ({origin})")
    if found.cost:
        yield from about("cost", found.cost)
    yield from _table(rows)


def _table(rows: tuple[Row, ...]) -> Iterator[str]:
    """The memory each value takes, a column for each phase in which it shows; `>` marks what is set now."""
    figures = [{phase: _gib(size) for phase, size in row.phases.items()} for row in rows]
    phases = [phase for phase in (rows[0].phases if rows else ()) if len({row[phase] for row in figures}) > 1]
    if not phases:
        return
    names = [_json(row.value) for row in rows]
    width = max(len(name) for name in names)
    yield ""
    yield "estimated memory, all else as it is:"
    yield f"  {' ' * width}  {'  '.join(phase.rjust(_FIGURE) for phase in phases)}"
    for name, row, shown in zip(names, rows, figures, strict=True):
        line = "  ".join(shown[phase].rjust(max(len(phase), _FIGURE)) for phase in phases)
        yield f"{'>' if row.is_now else ' '} {name.ljust(width)}  {line}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _GIB:.2f} GiB"


def _json(value: object) -> str:
    from simpletune.config.problems import quoted

    return value if isinstance(value, str) else quoted(list(value) if isinstance(value, tuple) else value)
