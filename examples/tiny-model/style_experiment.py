"""Whether a LoRA learns a style: trained by the project's own trainer, painted beside its base, judged by a classifier.

Both are painted from the same prompts and noise, of subjects that the style set lacks. The judge of style has seen the
style's pictures against pictures of the base's training set, both also after a way through the VAE: its softness is
then no sign of either. Some of the base's were in grey or on the ground of the style's pictures, so that neither alone
makes a style.

What is painted is judged by two judges of categories. One has seen real pictures as they are; the other has seen them
in the style's colours too, so that it can go by shape. How often they are right about the base's own pictures in those
colours says what a LoRA could reach that changes nothing but the look.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from base_accuracy import Judge, labelled, right_unseen, train_judge
from classifiers import Effort, Net, folds, probabilities, train_classifier
from measures import Share, markdown_table, share_of
from pictures import Pictures
from recolour import recoloured, tones_of
from reconstruction import as_tensor, through_vae
from sampler import Painter, open_painter
from sheets import sheet
from style_set import StyleSet

from simpletune import files
from simpletune.progress import Reporter
from simpletune.trainer.launch import launch

_FOLDS = 4
_OTHERS = 600  # pictures of the base's training set that the style is told from
_BASE, _STYLE = 0, 1


@dataclass(frozen=True)
class StyleJudge:
    """Tells a style from the base's pictures: nets of as many folds, each of which never saw its fold."""

    nets: tuple[Net, ...]
    style_found: Share  # real pictures of the style, each by the net that never saw it
    base_mistaken: Share  # held-out pictures of the base's set that are called style
    grey_mistaken: Share  # the same without their colours
    ground_mistaken: Share  # the same on the ground that the style's pictures have

    def called_style(self, pixels_N3PP: torch.Tensor) -> torch.Tensor:
        """Whether each uint8 picture is called style, bool (N,)."""
        return _called_style(self.nets, pixels_N3PP)


def train_style_judge(
    painter: Painter, style: StyleSet, training: Pictures, held_out: Pictures, reporter: Reporter, effort: Effort
) -> StyleJudge:
    """Four nets, each without a quarter of the pictures."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:_OTHERS]
    others = training.pixels[order]
    fourth = len(others) // 4
    others[:fourth] = greyed(others[:fourth])
    others[fourth : 2 * fourth] = torch.minimum(others[fourth : 2 * fourth], style.ground)
    real = torch.cat([others, style.pixels])
    labels = torch.tensor([_BASE] * len(others) + [_STYLE] * len(style.pixels))
    fold = folds(labels, _FOLDS)
    soft = through_vae(painter, real, reporter, "the judge's pictures through the VAE")
    nets, found = [], torch.zeros(len(real), dtype=torch.bool)
    for number in range(_FOLDS):
        seen = fold != number
        pixels, truth = torch.cat([real[seen], soft[seen]]), labels[seen].repeat(2)
        title = f"training style judge {number + 1} of {_FOLDS}"
        net = train_classifier(
            pixels, truth, 2, painter.device, effort=effort, seed=number, reporter=reporter, title=title
        )
        nets.append(net)
        found[~seen] = _called_style([net], real[~seen])
    unseen = held_out.pixels
    looks = (unseen, greyed(unseen), torch.minimum(unseen, style.ground))
    mistaken = [share_of(_called_style(nets, pixels).numpy()) for pixels in looks]
    return StyleJudge(tuple(nets), share_of(found[labels == _STYLE].numpy()), *mistaken)


def greyed(pixels_N3PP: torch.Tensor) -> torch.Tensor:
    """uint8 pictures without their colours."""
    return pixels_N3PP.float().mean(1, keepdim=True).round().to(torch.uint8).expand(-1, 3, -1, -1)


def _called_style(nets: Sequence[Net], pixels_N3PP: torch.Tensor) -> torch.Tensor:
    return probabilities(nets, pixels_N3PP)[:, _STYLE] > 0.5


@dataclass(frozen=True)
class CategoryJudges:
    """Two judges of category, and the look of a style as the painter's VAE shows it."""

    as_they_are: Judge
    by_shape: Judge
    look: Callable[[torch.Tensor], torch.Tensor]
    recoloured_as_they_are: Share  # real pictures in the style's colours, unseen, called right by the first judge
    recoloured_by_shape: Share  # by the second


def train_category_judges(
    painter: Painter, style: StyleSet, judge: Judge, training: Pictures, held_out: Pictures, reporter: Reporter,
    effort: Effort,
) -> CategoryJudges:  # fmt: skip
    """The second judge, for a style, beside the first; it sees three versions of each picture, in half as many more
    steps: as it is, in the style's colours, and those as the VAE shows them."""
    tones = tones_of(style)

    def painted(pixels_N3PP: torch.Tensor) -> torch.Tensor:
        return through_vae(painter, recoloured(pixels_N3PP, tones), reporter, "recoloured pictures through the VAE")

    real = labelled(training, judge.categories)[0].pixels
    looks = (recoloured(real, tones), painted(real))
    longer = replace(effort, steps=effort.steps * 3 // 2)
    by_shape = train_judge(training, held_out, judge.categories, painter.device, reporter, longer, looks)
    right = [right_unseen(one, training, looks[1]) for one in (judge, by_shape)]
    return CategoryJudges(judge, by_shape, painted, *right)


@dataclass(frozen=True)
class Right:
    """Shares of pictures in their prompt's category, by one judge; `recoloured` are the base's in the style's colours,
    the most that a change of look alone can keep."""

    tuned: Share
    base: Share
    recoloured: Share

    def as_json(self) -> dict[str, Any]:
        return {name: share.as_json() for name, share in vars(self).items()}


@dataclass(frozen=True)
class StyleResult:
    """One training: the shares called style, and of prompts' categories that are right, by both judges."""

    style: str
    precision: str
    tuned_style: Share
    base_style: Share
    recoloured_style: Share
    right: Right
    right_by_shape: Right
    training_seconds: float
    whole_seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            name: value.as_json() if isinstance(value, (Share, Right)) else value for name, value in vars(self).items()
        }


def markdown(results: Sequence[StyleResult]) -> str:
    looks = [
        [one.style, one.precision, one.tuned_style, one.base_style, one.recoloured_style,
         f"{one.training_seconds:.0f} s"]
        for one in results
    ]  # fmt: skip
    head = ["style", "base precision", "tuned called style", "base called style", "base recoloured", "training"]
    rows = [
        [one.style, one.precision, judge, right.tuned, right.base, right.recoloured]
        for one in results
        for judge, right in (("as they are", one.right), ("by shape", one.right_by_shape))
    ]
    subjects = ["style", "base precision", "judge", "tuned in category", "base in category", "base recoloured"]
    return markdown_table(head, looks) + "\n" + markdown_table(subjects, rows)


def judge_markdown(name: str, judge: StyleJudge) -> str:
    row = [name, judge.style_found, judge.base_mistaken, judge.grey_mistaken, judge.ground_mistaken]
    head = ["style", "its real pictures, unseen, called style", "held-out base pictures so called", "those in grey",
            "those on the style's ground"]  # fmt: skip
    return markdown_table(head, [row])


def category_judges_markdown(name: str, judges: CategoryJudges) -> str:
    rows = [
        [name, "as they are", judges.as_they_are.accuracy, judges.recoloured_as_they_are],
        [name, "by shape", judges.by_shape.accuracy, judges.recoloured_by_shape],
    ]
    return markdown_table(["style", "judge", "real pictures, unseen", "in the style's colours, unseen"], rows)


@dataclass(frozen=True)
class Training:
    """One LoRA's training: a copy of the config's folder with the style's pictures in it."""

    folder: Path
    config: Path
    overrides: tuple[str, ...]


def prepare_training(example: Path, folder: Path, overrides: Sequence[str]) -> Training:
    """Copy an example's config, data file and pictures into `folder`, where caches and outputs are written too."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("output", "cache"))
    return Training(folder, folder / "config.json", tuple(overrides))


def measure(
    training: Training,
    style: StyleSet,
    precision: str,
    style_judge: StyleJudge,
    judges: CategoryJudges,
    prompts: tuple[Sequence[str], torch.Tensor],
    reporter: Reporter,
    *,
    guidance: float,
    steps: int,
    seed: int,
) -> StyleResult:
    """Train, paint tuned and base at the same seeds, judge both; leaves base-and-tuned.png in the folder."""
    started = time.monotonic()
    outcome = launch(training.config, training.overrides, reporter)
    assert outcome is not None
    whole = time.monotonic() - started
    painter = open_painter(training.config, training.overrides, adapter=outcome.adapter)
    captions, labels = prompts
    seeds = [seed + number for number in range(len(captions))]
    base, tuned = (
        as_tensor(painter.paint(captions, seeds, guidance, steps, adapter=adapter, reporter=reporter, title=title))
        for adapter, title in ((False, "painting with the base"), (True, "painting with the LoRA"))
    )
    recoloured_base = judges.look(base)
    _sheet(base, tuned, captions, labels.tolist(), training.folder / "base-and-tuned.png")
    return StyleResult(
        style=style.name,
        precision=precision,
        tuned_style=share_of(style_judge.called_style(tuned).numpy()),
        base_style=share_of(style_judge.called_style(base).numpy()),
        recoloured_style=share_of(style_judge.called_style(recoloured_base).numpy()),
        right=_right(judges.as_they_are, labels, tuned, base, recoloured_base),
        right_by_shape=_right(judges.by_shape, labels, tuned, base, recoloured_base),
        training_seconds=_training_seconds(outcome.adapter.parent),
        whole_seconds=whole,
    )


def _right(judge: Judge, labels: torch.Tensor, *pictures: torch.Tensor) -> Right:
    return Right(*(judge.right(pixels, labels) for pixels in pictures))


def _training_seconds(output: Path) -> float:
    """What the run's own clock says of its loop."""
    phases = json.loads((output / "phases.json").read_text("utf-8"))
    return next(float(phase["seconds"]) for phase in phases if phase["phase"] == "train")


def _sheet(base: torch.Tensor, tuned: torch.Tensor, captions: Sequence[str], labels: list[int], path: Path) -> None:
    """Base above tuned, one prompt of each category."""
    firsts = [labels.index(kind) for kind in sorted(set(labels))]
    rows = []
    for start in range(0, len(firsts), 8):
        part = firsts[start : start + 8]
        rows.append(([base[index] for index in part], [captions[index] for index in part]))
        rows.append(([tuned[index] for index in part], ["with the LoRA"] * len(part)))
    files.write_with(path, lambda temporary: sheet(rows).save(temporary, format="PNG"))
