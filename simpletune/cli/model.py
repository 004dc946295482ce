"""`simpletune model`: make a model to try things out with."""

from __future__ import annotations

from pathlib import Path

import click

from simpletune.config.families import FAMILIES
from simpletune.errors import UsageError

DTYPES = ("bf16", "fp16", "fp32")
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


@click.group()
def model() -> None:
    """Build a model to try things out with."""


@model.command(short_help="Write a model of real size with random weights.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--flavour", type=click.Choice(tuple(FAMILIES["sd3"].flavours)), required=True, help="Whose shapes.")
@click.option("--dtype", type=click.Choice(DTYPES), default="bf16", show_default=True, help="What weights are kept in.")
@click.option("--without-t5", is_flag=True, help='Leave out the third text encoder, for runs with "use_t5" false.')
@click.option("--parts", default=None, metavar="PART,...", help=f"Only the weights of: {', '.join(PARTS)}.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def build(folder: Path, flavour: str, dtype: str, without_t5: bool, parts: str | None, seed: int) -> None:
    """Write FOLDER: a flavour at its real size, with random weights, in the diffusers layout.

    Everything runs on it as on the real model, at the real speed and memory; its pictures are noise. Nothing is
    downloaded. sd3-medium takes 16 GB of disk and about a minute.
    """
    from simpletune.models import builder
    from simpletune.progress import terminal_reporter

    wanted = _wanted(parts, without_t5)
    total = builder.total_bytes(flavour, dtype, wanted)
    reporter = terminal_reporter()
    with reporter.phase(f"Building {flavour}", total, "B") as phase:
        try:
            builder.build(folder, flavour, dtype, wanted, seed, written=phase.advance)
        except (PermissionError, FileNotFoundError) as error:
            hint = "name a folder you may write to"
            raise UsageError(f"{folder} can't be written: {error.strerror}", hint) from error
    reporter.note(f"{folder}: {flavour} with random weights. In config.json:")
    reporter.note(f'  "model_flavour": "{flavour}", "pretrained_model_name_or_path": "{folder.absolute()}"')


def _wanted(parts: str | None, without_t5: bool) -> tuple[str, ...]:
    """The folder's parts: those without weights always, of the others what was asked for."""
    from simpletune.models import builder

    named = tuple(part.strip() for part in parts.split(",")) if parts is not None else PARTS
    unknown = [part for part in named if part not in PARTS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(PARTS)}", param_hint="--parts")
    kept = [part for part in builder.ALL_PARTS if part not in PARTS or part in named]
    return builder.without_t5(kept) if without_t5 else tuple(kept)
