"""What the commands that draw pictures are asked alike: prompts, seeds, sizes, and which adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import ConfigError, UsageError
from simpletune.progress import Reporter

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from simpletune.config.settings import Settings

    AdapterParameter = click.ParamType[str]
    SizeParameter = click.ParamType[tuple[int, int]]
else:
    AdapterParameter = SizeParameter = click.ParamType  # not generic in click 8.1


class Size(SizeParameter):
    """WIDTHxHEIGHT in pixels, or one number for a square."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*[xX×]\s*(\d{1,5}))?\s*", value) if isinstance(value, str) else None
        if match is None:
            self.fail(f"{shown(str(value))!r} is no size: write 128x128, or 128 for a square", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class Adapter(AdapterParameter):
    """latest, all, none, a step, or a file or folder."""

    name = "adapter"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        from click.shell_completion import CompletionItem

        words = [CompletionItem(word) for word in ("latest", "all", "none") if word.startswith(incomplete)]
        return words if words and incomplete else [*words, CompletionItem(incomplete, type="file")]


def read_settings(path: Path, overrides: tuple[str, ...], reporter: Reporter) -> Settings:
    """The config's, after what an interrupted write left has been put right; of a run's output folder, of the config
    that it was trained with.

    Raises UsageError where there is no such file, ConfigError as `load` does.
    """
    from simpletune.cli.finished_run import config_of_run
    from simpletune.config.journal import recover
    from simpletune.config.load import load
    from simpletune.results.report.run import is_run
    from simpletune.trainer.asked import blamed

    note = recover(path)
    if path.name == "config.json" and not path.exists() and is_run(path.parent):
        path = config_of_run(path.parent)
        reporter.note(f"the config of that run: {shown(display(path))}")
        note = recover(path)
    if note:
        reporter.note(note)
    if not path.exists():
        raise UsageError(f"there is no {display(path)}", "name a config.json, or the output folder of a run")
    try:
        return load(path, overrides)[0]
    except ConfigError as error:
        raise blamed(error) from None


def prompts_of(asked: Mapping[str, Any]) -> dict[str, str] | None:
    """name -> prompt of --prompt and --prompts; None for the config's own."""
    from simpletune.results.prompts import named_prompts, read_prompts, together

    file = asked["prompts_file"]
    if not asked["prompts"] and not file:
        return None
    return together(named_prompts(asked["prompts"]), read_prompts(file) if file else {})


def seeds_of(settings: Settings, asked: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Those of --seed, or of --seeds and --seed-start; None for the config's own. Raises UsageError for both."""
    if asked["seed"]:
        if asked["seeds"] is not None or asked["seed_start"] is not None:
            raise UsageError("--seed names seeds, --seeds and --seed-start count them", "give either one")
        return tuple(asked["seed"])
    if asked["seeds"] is None and asked["seed_start"] is None:
        return None
    start = settings.validation_seed if asked["seed_start"] is None else asked["seed_start"]
    return tuple(range(start, start + (asked["seeds"] or settings.num_validation_images)))
