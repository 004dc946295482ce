"""`simpletune generate [CONFIG]`: pictures from prompts and seeds, base beside fine-tuned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.progress import Reporter, terminal_reporter

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from simpletune.config.settings import Settings
    from simpletune.results.generate import Generated, Order

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
    """latest, none, a step, or a file or folder."""

    name = "adapter"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        from click.shell_completion import CompletionItem

        words = [CompletionItem(word) for word in ("latest", "none") if word.startswith(incomplete)]
        return words if words and incomplete else [*words, CompletionItem(incomplete, type="file")]


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; may be repeated.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Prompts of a file: one a line, or JSON as validation_prompts_file: {"name": "prompt"}.',
)
@click.option("--seed", "seed", multiple=True, type=click.IntRange(min=0), metavar="N", help="May be repeated.")
@click.option("--seeds", type=click.IntRange(1, 10_000), metavar="N", help="So many seeds, from --seed-start on.")
@click.option("--seed-start", type=click.IntRange(min=0), metavar="N", help="[validation_seed]")
@click.option(
    "--adapter",
    type=Adapter(),
    default="latest",
    show_default=True,
    metavar="latest|STEP|FILE|none",
    help="The run's newest adapter, that of a step, a .safetensors file or a folder that has one; none: only the base.",
)
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="How strongly the adapter works; 0 is the base."
)
@click.option("--base/--no-base", default=True, show_default=True, help="The base beside the fine-tuned pictures.")
@click.option(
    "--size", "sizes", type=Size(), multiple=True, metavar="WxH", help="May be repeated. [validation_resolution]"
)
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="[validation_num_inference_steps]")
@click.option("--guidance", type=click.FloatRange(0, 100), metavar="X", help="1 is none. [validation_guidance]")
@click.option("--negative", metavar="TEXT", help="What not to draw. [validation_negative_prompt]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="[output_dir/generated/...]")
@click.option("--sheet/--no-sheet", default=True, show_default=True, help="A sheet of all pictures, side by side.")
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)
def generate(config: Path | None, overrides: tuple[str, ...], **asked: Any) -> None:
    """Make pictures with the model of CONFIG (default: config.json here, else config/config.json), base beside
    fine-tuned at the same seeds.

    What isn't said is taken from the config's keys in brackets; prompts from validation_prompt and
    validation_prompts_file. Every PNG holds the settings it was made with. Pictures that are there already are kept,
    so the same command goes on where it was stopped.
    """
    reporter = terminal_reporter()
    settings = _settings(find_config(config), overrides, reporter)
    from simpletune.results.generate import generate as make

    order = _order(settings, asked, reporter)
    folder = asked["output"] or order.folder_in(settings.output_dir)
    for line in _lines(make(settings, order, folder, reporter, sheet=asked["sheet"])):
        click.echo(line)


def _settings(path: Path, overrides: tuple[str, ...], reporter: Reporter) -> Settings:
    from simpletune.config.journal import recover
    from simpletune.config.load import load

    if note := recover(path):
        reporter.note(note)
    return load(path, overrides)[0]


def _order(settings: Settings, asked: Mapping[str, Any], reporter: Reporter) -> Order:
    from simpletune.results.generate import order_of
    from simpletune.results.prompts import named_prompts, read_prompts, together

    prompts = None
    if asked["prompts"] or asked["prompts_file"]:
        file = asked["prompts_file"]
        prompts = together(named_prompts(asked["prompts"]), read_prompts(file) if file else {})
    return order_of(
        settings,
        prompts=prompts,
        seeds=_seeds(settings, asked),
        sizes=asked["sizes"] or None,
        adapter=asked["adapter"],
        reporter=reporter,
        **{name: asked[name] for name in ("steps", "guidance", "negative", "base", "scale")},
    )


def _seeds(settings: Settings, asked: Mapping[str, Any]) -> tuple[int, ...] | None:
    if asked["seed"]:
        if asked["seeds"] is not None or asked["seed_start"] is not None:
            raise UsageError("--seed names seeds, --seeds and --seed-start count them", "give either one")
        return tuple(asked["seed"])
    if asked["seeds"] is None and asked["seed_start"] is None:
        return None
    start = settings.validation_seed if asked["seed_start"] is None else asked["seed_start"]
    return tuple(range(start, start + (asked["seeds"] or settings.num_validation_images)))


def _lines(done: Generated) -> list[str]:
    count = len(done.pictures)
    kept = f", {done.kept} of them there before" if done.kept else ""
    lines = [f"{count} picture{'s' * (count != 1)} in {_shown(done.folder)}{kept}"]
    return lines if done.sheet is None else [*lines, f"side by side: {_shown(done.sheet)}"]


def _shown(path: Path) -> str:
    return shown(display(path))
