"""Measure the tiny model: how faithful its VAE is, whether it paints what captions say, whether a LoRA learns a style.

    python examples/tiny-model/evaluate.py PREPARED OUT [--model FOLDER] [--only vae,base,style] [--device cuda]

PREPARED is what prepare.py wrote. Without --model the built-in one is measured. OUT gets report.json, report.md and
sheets of pictures. The same command on the same machine gives the same figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import base_accuracy
import pictures
import reconstruction
import style_experiment
import torch
from base_accuracy import Judge, drawn_from, train_judge
from classifiers import Effort
from measures import Share
from pictures import HELD_OUT, TRAIN, Pictures
from sampler import Painter, open_painter
from style_experiment import (
    CategoryJudges,
    StyleJudge,
    StyleResult,
    category_judges_markdown,
    judge_markdown,
    prepare_training,
    train_category_judges,
    train_style_judge,
)
from style_set import foreign, read_style

from simpletune import files
from simpletune.errors import SimpletuneError
from simpletune.progress import Reporter, terminal_reporter

EXAMPLES = Path(__file__).resolve().parents[1]
QUICKSTART = EXAMPLES / "quickstart"
SECTIONS = ("vae", "base", "style")


# Folders with a config, a data file and pictures/.
STYLES = {"quickstart": QUICKSTART, "line-drawings": EXAMPLES / "styles" / "line-drawings"}

# Of the categories with at least 20 pictures, those of which a classifier of all of them finds a third and more of the
# pictures that it hasn't seen; of these the 20 with the most pictures.
CATEGORIES = (
    "arrows",
    "boats",
    "body parts",
    "bugs",
    "cards",
    "clothing",
    "desserts",
    "flags",
    "fruit",
    "lights",
    "music",
    "people",
    "public signs",
    "reptiles",
    "road signs",
    "shapes",
    "sky and weather",
    "smilies",
    "stars",
    "vehicles",
)

_EFFORT = {"cuda": Effort(steps=1000, batch=128), "cpu": Effort(steps=400, batch=64)}
_STYLE_EFFORT = {"cuda": Effort(steps=400, batch=64), "cpu": Effort(steps=200, batch=32)}


def main() -> int:
    arguments = _arguments()
    reporter = terminal_reporter()
    try:
        report, text = evaluate(arguments, reporter)
    except SimpletuneError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    files.write_json(arguments.out / "report.json", report)
    files.write_text(arguments.out / "report.md", text)
    sys.stdout.write(text)
    return 0


def evaluate(arguments: argparse.Namespace, reporter: Reporter) -> tuple[dict[str, Any], str]:
    """The sections asked for, as JSON and as Markdown."""
    started = time.monotonic()
    repeatable()
    arguments.out.mkdir(parents=True, exist_ok=True)
    training, held_out = (pictures.load(arguments.prepared, split) for split in (TRAIN, HELD_OUT))
    painter = open_painter(QUICKSTART / "config.json", [*_overrides(arguments), "base_model_precision=no_change"])
    report: dict[str, Any] = {"device": _device_name(painter.device), "seed": arguments.seed}
    texts = []
    if "vae" in arguments.only:
        found = reconstruction.measure(painter, held_out, arguments.out, reporter)
        report["vae"] = found.as_json()
        texts.append("## VAE\n\n" + found.markdown())
    if {"base", "style"} & set(arguments.only):
        effort = _EFFORT.get(painter.device.type, _EFFORT["cpu"])
        judge = train_judge(training, held_out, CATEGORIES, painter.device, reporter, effort)
    if "base" in arguments.only:
        accuracy = base_accuracy.measure(
            painter, judge, training, held_out, arguments.out, reporter,
            each=arguments.each, scales=arguments.guidance, steps=arguments.steps, seed=arguments.seed,
        )  # fmt: skip
        report["base"] = accuracy.as_json()
        texts.append("## Base\n\n" + accuracy.markdown())
    if "style" in arguments.only:
        report["style"], text = _styles(arguments, painter, judge, training, held_out, reporter)
        texts.append("## Style\n\n" + text)
    report["seconds"] = round(time.monotonic() - started, 1)
    return report, "\n".join(texts)


def _styles(
    arguments: argparse.Namespace,
    painter: Painter,
    judge: Judge,
    training: Pictures,
    held_out: Pictures,
    reporter: Reporter,
) -> tuple[list[dict[str, Any]], str]:
    """Every style at every precision asked for."""
    results: list[StyleResult] = []
    judges, entries = [], []
    for name in arguments.style:
        style = read_style(STYLES[name] / "pictures")
        effort = _STYLE_EFFORT.get(painter.device.type, _STYLE_EFFORT["cpu"])
        style_judge = train_style_judge(painter, style, training, held_out, reporter, effort)
        categories = train_category_judges(
            painter, style, judge, training, held_out, reporter, _EFFORT.get(painter.device.type, _EFFORT["cpu"])
        )
        judges += [judge_markdown(name, style_judge), category_judges_markdown(name, categories)]
        drawn, labels = drawn_from(foreign(training, style), judge.categories, arguments.style_each, arguments.seed)
        prompts = [texts[0] for texts in drawn.texts]
        for precision in arguments.base_precision:
            folder = arguments.out / f"{name}-{precision}"
            overrides = [*_overrides(arguments), *_precision(precision), "validation_prompt=null"]
            run = prepare_training(STYLES[name], folder, overrides)
            results.append(
                style_experiment.measure(
                    run, style, precision, style_judge, categories, (prompts, labels), reporter,
                    guidance=arguments.style_guidance, steps=arguments.steps, seed=arguments.seed + 500,
                )
            )  # fmt: skip
            entries.append({"judge": _shares(style_judge), "categories": _shares(categories), **results[-1].as_json()})
    return entries, "\n".join([style_experiment.markdown(results), *judges])


def _shares(judge: StyleJudge | CategoryJudges) -> dict[str, Any]:
    return {name: value.as_json() for name, value in vars(judge).items() if isinstance(value, Share)}


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """What the command line says of the config."""
    model = [] if arguments.model is None else [f"pretrained_model_name_or_path={arguments.model.resolve()}"]
    return [f"device={arguments.device}", *model, *arguments.set]


def _precision(name: str) -> list[str]:
    if name == "bf16":
        return ["mixed_precision=bf16", "base_model_precision=no_change"]
    return [f"base_model_precision={name}"]


def repeatable() -> None:
    """Let the same command give the same figures, on a GPU too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path, help="the folder that prepare.py wrote")
    parser.add_argument("out", type=Path, help="where the report and its sheets go")
    parser.add_argument("--model", type=Path, help="a pipeline folder; without it the built-in model")
    parser.add_argument("--only", type=_words(SECTIONS), default=list(SECTIONS), help="vae,base,style")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--each", type=int, default=25, help="pictures a category (25)")
    parser.add_argument("--guidance", type=_scales, default=[1.0, 3.0, 5.0], help="guidance scales (1,3,5)")
    parser.add_argument("--steps", type=int, default=20, help="Euler steps a picture (20)")
    parser.add_argument("--style", type=_words(tuple(STYLES)), default=list(STYLES), help=",".join(STYLES))
    parser.add_argument("--style-each", type=int, default=8, help="prompts a category for a style (8)")
    parser.add_argument("--style-guidance", type=float, default=2.5, help="for base and tuned (2.5)")
    parser.add_argument(
        "--base-precision", type=lambda text: text.split(","), default=["no_change"],
        help="base_model_precision of the style's training, several with commas; bf16 sets mixed_precision too",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for simpletune train")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _words(known: tuple[str, ...]) -> Any:
    def words(text: str) -> list[str]:
        given = text.split(",")
        if unknown := sorted(set(given) - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return given

    return words


def _scales(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
