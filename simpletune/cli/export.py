"""`simpletune export [RUN]`: a trained adapter for other programs, or merged into its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simpletune.cli.display import find_config
from simpletune.cli.sampling import Adapter
from simpletune.config.document import display
from simpletune.config.families import FAMILIES
from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.progress import Reporter, terminal_reporter

if TYPE_CHECKING:
    from simpletune.models.weight_source import WeightSource
    from simpletune.results.export.lora import Exported
    from simpletune.results.export.subject import Subject

MERGED = "merged"
_LAYOUTS = ("comfyui", "kohya", "original", "diffusers", "lycoris", MERGED)
_FLAVOURS = tuple(name for family in FAMILIES.values() for name in family.flavours)


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--to", "layout", type=click.Choice(_LAYOUTS), required=True, help="For whom; merged: into the base.")
@click.option(
    "--adapter",
    type=Adapter(),
    default="latest",
    show_default=True,
    metavar="latest|STEP|FILE",
    help="The run's newest, that of a step, or a .safetensors file.",
)
@click.option(
    "--dtype",
    type=click.Choice(("fp32", "bf16", "fp16")),
    help="Precision of the numbers. [fp32, as it was trained; merged: bf16]",
)
@click.option("--rank", type=click.IntRange(1, 4096), metavar="N", help="Reduce every layer to this rank at most.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Give every layer the lowest rank that is off by X of it at most; with --rank: refuse when it is off by more.",
)
@click.option("--each-layer", is_flag=True, help="Say how far every layer is off after its rank was reduced.")
@click.option("--flavour", type=click.Choice(_FLAVOURS), help="The model it is for, where the file doesn't say it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to; merged: a folder, or with .safetensors one file in the original layout. [beside the run's files]",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def export(
    run: Path | None,
    layout: str,
    adapter: str,
    dtype: str | None,
    rank: int | None,
    max_error: float | None,
    each_layer: bool,
    flavour: str | None,
    output: Path | None,
    force: bool,
) -> None:
    """Write the adapter of RUN for ComfyUI, for kohya-ss' scripts, for the LyCORIS library, under the original model's
    names or diffusers', or merge it into its base.

    RUN is the output folder of a run, the config.json it was trained with (default: config.json here, else
    config/config.json), a checkpoint's folder, or a .safetensors file. docs/export.md says what each layout holds.
    """
    reporter = terminal_reporter()
    if layout == MERGED and (rank is not None or max_error is not None):
        raise UsageError("--rank and --max-error are for LoRA files; merged, an adapter has no rank", "leave them out")
    from simpletune.results.export.subject import subject

    found = subject(_named(run, adapter), adapter, flavour, reporter.warn)
    path = _place(found, layout, rank, output, force)
    if layout == MERGED:
        _merge(found, path, dtype or "bf16", reporter)
        click.echo(f"merged: {_shown(path)}")
        return
    from simpletune.results.export.lora import export_lora, needs_base

    base = _base_weights(found, reporter) if needs_base(found, layout) else None
    done = export_lora(found, layout, path, dtype or "fp32", rank, max_error, base)
    for line in _lines(done, each_layer):
        click.echo(line)


def _is_file(adapter: str) -> bool:
    return adapter != "latest" and not (adapter.isascii() and adapter.isdigit())


def _named(run: Path | None, adapter: str) -> Path:
    """What is meant: an adapter's file, a folder, or the output folder of a config."""
    if adapter == "none":
        raise UsageError("--adapter none: there is nothing to export without an adapter")
    if run is None and _is_file(adapter):
        return Path(adapter).expanduser()
    if run is not None and (run.suffix == ".safetensors" or (run.is_dir() and not (run / "config.json").is_file())):
        return run.expanduser()
    config = find_config(run)
    if not config.is_file():
        raise UsageError(f"there is no {config}", "name the output folder of a run, its config.json, or an adapter")
    from simpletune.config.load import load_for_elsewhere

    return load_for_elsewhere(config)[0].output_dir


def _place(found: Subject, layout: str, rank: int | None, output: Path | None, force: bool) -> Path:
    """Where the result goes; a file that is there is kept unless it may be replaced."""
    reduced = f"-rank{rank}" if rank is not None else ""
    suffix = "" if layout == MERGED else ".safetensors"
    path = output.expanduser() if output else found.folder / f"{found.choice.name}-{layout}{reduced}{suffix}"
    if layout != MERGED and path.suffix != ".safetensors":
        raise UsageError(f"--output: {path} must end in .safetensors", f"write {path.name}.safetensors")
    if layout == MERGED and path.is_file() and path.suffix != ".safetensors":
        raise UsageError(f"--output: {path} is a file", "name a folder, or a file that ends in .safetensors")
    if path.is_dir():
        raise UsageError(f"{path} is there already, and a folder is never replaced", "name another with --output")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", "add --force to replace it, or name another with --output")
    if path.exists() and path.samefile(found.choice.path):
        raise UsageError(f"{path} is the adapter itself", "name another file with --output")
    return path


def _base_weights(found: Subject, reporter: Reporter) -> WeightSource:
    from simpletune.results.export.merged import base_files, base_weights

    return base_weights(base_files(found, reporter))


def _merge(found: Subject, path: Path, dtype: str, reporter: Reporter) -> None:
    from simpletune.models.runtime import quiet_libraries
    from simpletune.results.export.merged import base_files, export_merged

    quiet_libraries()
    export_merged(found, base_files(found, reporter), path, dtype, reporter)


def _lines(done: Exported, each_layer: bool) -> list[str]:
    lines = [f"{_shown(done.path)}: {done.path.stat().st_size / 1e6:.1f} MB"]
    if done.layers:
        ranks = sorted(len(layer.factors.a) for layer in done.layers.values())
        worst = max(done.layers, key=lambda name: done.layers[name].error)
        said = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
        lines.append(f"{said}: off by {done.error:.2%} in all (relative, Frobenius norm of the products)")
        lines.append(f"furthest off: {worst}, {done.layers[worst].error:.2%}")
    if each_layer:
        lines += [f"{layer.error:8.2%}  rank {len(layer.factors.a):<4} {name}" for name, layer in done.layers.items()]
    return lines


def _shown(path: Path) -> str:
    return shown(display(path))
