"""`simpletune evaluate`: base against adapters in figures, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simpletune.cli.display import find_config
from simpletune.cli.keys import KeyValue
from simpletune.cli.sampling import Adapter, Size, prompts_of, read_settings, seeds_of
from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.progress import terminal_reporter
from simpletune.redact import redact

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.evaluate.request import Request
    from simpletune.progress import Reporter


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--adapter",
    "adapters",
    type=Adapter(),
    multiple=True,
    metavar="latest|all|STEP|FILE|none",
    help="Which adapters; may be repeated. [every one the run has saved]",
)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; may be repeated.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Prompts of a file: one a line, or JSON as validation_prompts_file: {"name": "prompt"}.',
)
@click.option(
    "--captions", type=click.IntRange(1, 10_000), metavar="N", help="So many captions of the data sets as prompts."
)
@click.option("--seed", "seed", multiple=True, type=click.IntRange(min=0), metavar="N", help="May be repeated.")
@click.option("--seeds", type=click.IntRange(1, 10_000), metavar="N", help="So many seeds, from --seed-start on.")
@click.option("--seed-start", type=click.IntRange(min=0), metavar="N", help="[validation_seed]")
@click.option("--size", "sizes", type=Size(), multiple=True, metavar="WxH", help="[validation_resolution]")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="[validation_num_inference_steps]")
@click.option("--guidance", type=click.FloatRange(0, 100), metavar="X", help="[validation_guidance]")
@click.option("--negative", metavar="TEXT", help="What not to draw. [validation_negative_prompt]")
@click.option("--scale", type=float, default=1.0, show_default=True, help="How strongly the adapters work.")
@click.option(
    "--clip",
    metavar="MODEL|none",
    help="CLIP, for adherence and CMMD: a folder or a hub name. [openai/clip-vit-large-patch14]",
)
@click.option(
    "--dino",
    metavar="MODEL|none",
    help="DINOv2, for likeness, diversity and copies: a folder or a hub name. [facebook/dinov2-base]",
)
@click.option("--csd", metavar="FILE", help="CSD's weights as .safetensors, for likeness of style.")
@click.option("--statistics", is_flag=True, help="Judge by colours and edges too, not only where DINO is missing.")
@click.option(
    "--training-pictures",
    type=click.IntRange(min=2),
    default=2000,
    show_default=True,
    metavar="N",
    help="Look at so many training pictures at most, chosen by seed.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="[output_dir/evaluation]")
@click.option(
    "--set", "overrides", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)
def evaluate(config: Path | None, overrides: tuple[str, ...], **asked: Any) -> None:
    """Measure what training made of the model of CONFIG (default: config.json here, else config/config.json): base and
    saved adapters on the same prompts and seeds.

    How well pictures follow their prompts, how like they are to the training pictures, how different from each other,
    whether any is a copy, and the loss on held-out pictures: each with a 95% interval. docs/evaluate.md says what each
    figure means. Pictures and features are kept: the same command goes on where it was stopped, and with one more
    checkpoint computes only what is new.
    """
    reporter = terminal_reporter()
    settings = read_settings(find_config(config), overrides, reporter)
    from simpletune.evaluate.run import evaluate as measure
    from simpletune.evaluate.run import in_folder
    from simpletune.evaluate.table import lines

    request = _request(settings, asked, reporter)
    folder = asked["output"] or in_folder(settings)
    evaluation = measure(settings, request, folder, reporter)
    for text in lines(evaluation):
        click.echo("\n".join(shown(redact(line)) for line in text.split("\n")))
    if evaluation.memorization_sheet is not None:
        click.echo(f"side by side: {shown(display(folder / evaluation.memorization_sheet))}")
    click.echo(f"all figures: {shown(display(folder / 'evaluation.json'))}")


def _request(settings: Settings, asked: Mapping[str, Any], reporter: Reporter) -> Request:
    from simpletune.evaluate.request import Models, Request
    from simpletune.evaluate.run import with_captions

    models = Models(asked["clip"], asked["dino"], asked["csd"], asked["statistics"])
    request = Request(
        prompts=prompts_of(asked),
        seeds=seeds_of(settings, asked),
        sizes=asked["sizes"] or None,
        adapters=asked["adapters"] or None,
        models=models,
        **{name: asked[name] for name in ("steps", "guidance", "negative", "scale", "training_pictures")},
    )
    if asked["captions"] is None:
        return request
    if request.prompts is not None:
        raise UsageError("--captions and other prompts are given", "give either one")
    return with_captions(request, settings, asked["captions"], reporter)
