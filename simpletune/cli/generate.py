"""`simpletune generate [CONFIG]`: pictures from prompts and seeds, base beside fine-tuned."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.cli.sampling import Adapter, Size, prompts_of, read_settings, seeds_of
from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import Interrupted
from simpletune.progress import Reporter, terminal_reporter

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.results.generate import Generated, Order

    LayersParameter = click.ParamType[tuple[int, ...]]
else:
    LayersParameter = click.ParamType  # not generic in click 8.1


_WORDS = "simpletune.words"
_LONGEST_COMMAND = 1000
_DECIDING = (
    "base_model_precision",
    "mixed_precision",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
    "tokenizer_max_length",
)


class Layers(LayersParameter):
    """Numbers of blocks with commas between them, or none."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if str(value).strip().lower() == "none":
            return ()
        match = re.fullmatch(r"\s*\d{1,4}(\s*,\s*\d{1,4})*\s*", str(value))
        if match is None:
            self.fail(f"{shown(str(value))!r} names no blocks: write 7,8,9, or none", param, ctx)
        return tuple(int(number) for number in str(value).split(","))


class _Remembered(click.Command):
    """A command that knows the words it was called with, to say them again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Remembered)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; may be repeated.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Prompts of a file: one a line, or JSON as validation_prompts_file: {"name": "prompt"}.',
)
@click.option("--vary", is_flag=True, help='Draw every wording of prompts such as "a {drawing|photo} of a {red|} fox".')
@click.option("--seed", "seed", multiple=True, type=click.IntRange(min=0), metavar="N", help="May be repeated.")
@click.option("--seeds", type=click.IntRange(1, 10_000), metavar="N", help="So many seeds, from --seed-start on.")
@click.option("--seed-start", type=click.IntRange(min=0), metavar="N", help="[validation_seed]")
@click.option(
    "--size", "sizes", type=Size(), multiple=True, metavar="WxH", help="May be repeated. [validation_resolution]"
)
@click.option(
    "--adapter",
    "--checkpoint",
    "adapters",
    type=Adapter(),
    multiple=True,
    default=["latest"],
    metavar="latest|all|STEP|FILE|none",
    help="The run's newest adapter, all it has saved, that of a step, a .safetensors file or a folder that has one; "
    "none: only the base. May be repeated. [latest]",
)
@click.option(
    "--scale",
    "scales",
    type=float,
    multiple=True,
    default=[1.0],
    metavar="X",
    help="How strongly the adapters work; 0 is the base. May be repeated. [1]",
)
@click.option("--base/--no-base", default=True, show_default=True, help="The base beside the fine-tuned pictures.")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="[validation_num_inference_steps]")
@click.option("--guidance", type=click.FloatRange(0, 100), metavar="X", help="1 is none. [validation_guidance]")
@click.option("--negative", metavar="TEXT", help="What not to draw. [validation_negative_prompt]")
@click.option(
    "--skip-layers",
    type=Layers(),
    metavar="N,N|none",
    help="Blocks to leave out in an extra pass that sharpens anatomy. [validation_guidance_skip_layers]",
)
@click.option("--skip-scale", type=click.FloatRange(0, 100), metavar="X", help="[validation_guidance_skip_scale]")
@click.option("--skip-start", type=click.FloatRange(0, 1), metavar="X", help="[validation_guidance_skip_layers_start]")
@click.option("--skip-stop", type=click.FloatRange(0, 1), metavar="X", help="[validation_guidance_skip_layers_stop]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="[output_dir/generated/...]")
@click.option("--sheet/--no-sheet", default=True, show_default=True, help="Sheets of all pictures, side by side.")
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)
@click.pass_context
def generate(ctx: click.Context, /, config: Path | None, overrides: tuple[str, ...], **asked: Any) -> None:
    """Make pictures with the model of CONFIG (default: config.json here, else config/config.json), base beside
    fine-tuned at the same seeds: every prompt at every size and seed, with every adapter at every scale. CONFIG may
    also be a run's output folder, with the config.json that it was trained with near it.

    What isn't said is taken from the config's keys in brackets; prompts from validation_prompt and
    validation_prompts_file. Every PNG holds the settings it was made with. Pictures that are there already are kept,
    so the same command goes on where it was stopped.
    """
    reporter = terminal_reporter()
    settings = read_settings(find_config(config), overrides, reporter)
    from simpletune.results.generate import generate as make

    order = _order(settings, asked, reporter)
    folder = asked["output"] or _folder(settings, order)
    try:
        done = make(settings, order, folder, reporter, sheet=asked["sheet"])
    except Interrupted as error:
        raise Interrupted(error.message, f"the same command makes the rest: {_again(ctx)}") from None
    for line in [*_lines(done), _next(overrides, settings, order)]:
        click.echo(line)


def _order(settings: Settings, asked: Mapping[str, Any], reporter: Reporter) -> Order:
    from simpletune.results.generate import order_of

    return order_of(
        settings,
        prompts=_prompts(settings, asked, reporter),
        seeds=seeds_of(settings, asked),
        sizes=asked["sizes"] or None,
        adapter=asked["adapters"],
        scale=asked["scales"],
        reporter=reporter,
        **{name: asked[name] for name in ("steps", "guidance", "negative", "base")},
        **{name: asked[name] for name in ("skip_layers", "skip_scale", "skip_start", "skip_stop")},
    )


def _prompts(settings: Settings, asked: Mapping[str, Any], reporter: Reporter) -> dict[str, str] | None:
    """Those asked for; None for the config's own."""
    from simpletune.results.rewording import has_alternatives, reworded

    prompts = prompts_of(asked)
    if asked["vary"]:
        return reworded(settings.validation_prompts if prompts is None else prompts)
    if any(has_alternatives(prompt) for prompt in (prompts or {}).values()):
        reporter.note("prompts with {a|b} are taken as they are written; --vary draws each of their wordings")
    return prompts


def _folder(settings: Settings, order: Order) -> Path:
    """That of the order; what --set says of precision is in its name, as it makes other pictures."""
    folder = order.folder_in(settings.output_dir)
    said = [str(getattr(settings, key)) for key in _DECIDING if settings.origins.get(key) == "--set"]
    return folder.with_name("-".join([folder.name, *said]))


def _lines(done: Generated) -> list[str]:
    count = len(done.pictures)
    kept = f", {done.kept} of them there before" if done.kept else ""
    lines = [f"{count} picture{'s' * (count != 1)} in {_shown(done.folder)}{kept}"]
    if len(done.sheets) > 1:
        lines.append(f"side by side on {len(done.sheets)} sheets: {_shown(done.sheets[0])} to {done.sheets[-1].name}")
    elif done.sheet is not None:
        lines.append(f"side by side: {_shown(done.sheet)}")
    return lines


def _next(overrides: tuple[str, ...], settings: Settings, order: Order) -> str:
    """What people do after looking: measure what they saw, or train what they have only seen the base of."""
    from simpletune.results.run_folder import ADAPTER_FILE, list_checkpoints

    output_dir = settings.output_dir
    saved = list_checkpoints(output_dir) or (output_dir / ADAPTER_FILE).is_file()
    tuned = saved or any(variant.adapter is not None for variant in order.variants)
    words = [display(settings.config_path), *(word for one in overrides for word in ("--set", one))]  # of the same run
    return f"next: simpletune {'evaluate' if tuned else 'train'} {shown(shlex.join(words))}"


def _again(ctx: click.Context) -> str:
    said = shown(shlex.join([*ctx.command_path.split(), *ctx.meta[_WORDS]]))
    return said if len(said) <= _LONGEST_COMMAND else said[:_LONGEST_COMMAND] + " ..."


def _shown(path: Path) -> str:
    return shown(display(path))
