"""Whether the base paints what the caption says: pictures from captions, judged by a classifier of real pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from classifiers import Effort, Net, folds, probabilities, train_classifier
from measures import Share, confusion, markdown_table, recall, share_of
from pictures import Pictures
from reconstruction import as_tensor
from sampler import Painter
from sheets import sheet

from simpletune import files
from simpletune.progress import Reporter

_FOLDS = 4
_ON_SHEET = 8  # categories


@dataclass(frozen=True)
class Judge:
    """Nets that say together which of the categories a picture belongs to; each was trained without one fold.

    `accuracy` and `table`, (K, K) counts, are those of the training split's pictures, each judged by the net that never
    saw it; `held_out` is all nets' accuracy on the held-out split, of which none of them saw anything.
    """

    categories: tuple[str, ...]
    nets: tuple[Net, ...]
    accuracy: Share
    table: Any
    held_out: Share

    def said(self, pixels_N3PP: torch.Tensor) -> torch.Tensor:
        """The category of each uint8 picture, int64 (N,)."""
        return probabilities(self.nets, pixels_N3PP).argmax(1)

    def right(self, pixels_N3PP: torch.Tensor, labels_N: torch.Tensor) -> Share:
        return share_of((self.said(pixels_N3PP) == labels_N).numpy())


def labelled(pictures: Pictures, categories: Sequence[str]) -> tuple[Pictures, torch.Tensor]:
    """The pictures of these categories, and their places in `categories`, int64 (N,)."""
    chosen = chosen_from(pictures, [index for index, name in enumerate(pictures.categories) if name in categories])
    return chosen, torch.tensor([categories.index(name) for name in chosen.categories])


def chosen_from(pictures: Pictures, places: Sequence[int]) -> Pictures:
    """The pictures at these places, in their order."""
    return Pictures(
        pictures.pixels[list(places)],
        [pictures.texts[place] for place in places],
        [pictures.categories[place] for place in places],
    )


def train_judge(
    training: Pictures,
    held_out: Pictures,
    categories: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    effort: Effort,
    looks: Sequence[torch.Tensor] = (),
) -> Judge:
    """A net for each fold of the training split, trained on the others; on their changed selves too, where `looks` has
    other versions of all pictures of these categories."""
    chosen, labels = labelled(training, categories)
    fold = folds(labels, _FOLDS)
    nets = []
    for number in range(_FOLDS):
        seen = fold != number
        pixels = torch.cat([look[seen] for look in (chosen.pixels, *looks)])
        truth = labels[seen].repeat(1 + len(looks))
        title = f"training classifier {number + 1} of {_FOLDS}"
        nets.append(
            train_classifier(
                pixels, truth, len(categories), device, effort=effort, seed=number, reporter=reporter, title=title
            )
        )
    said = _said_unseen(nets, chosen.pixels, fold)
    unseen, truth = labelled(held_out, categories)
    right = probabilities(nets, unseen.pixels).argmax(1) == truth
    table = confusion(labels.numpy(), said.numpy(), len(categories))
    accuracy = share_of((said == labels).numpy())
    return Judge(tuple(categories), tuple(nets), accuracy, table, share_of(right.numpy()))


def right_unseen(judge: Judge, training: Pictures, look: torch.Tensor) -> Share:
    """How often a judge of `train_judge` is right about the training split's pictures when they look like `look`, each
    judged by the net that saw it in no form."""
    _, labels = labelled(training, judge.categories)
    said = _said_unseen(judge.nets, look, folds(labels, _FOLDS))
    return share_of((said == labels).numpy())


def _said_unseen(nets: Sequence[Net], pixels_N3PP: torch.Tensor, fold_N: torch.Tensor) -> torch.Tensor:
    said_N = torch.empty_like(fold_N)
    for number, net in enumerate(nets):
        said_N[fold_N == number] = probabilities([net], pixels_N3PP[fold_N == number]).argmax(1)
    return said_N


@dataclass(frozen=True)
class BaseAccuracy:
    """For each guidance scale the share of pictures in the right category, and the counts (K, K) behind it."""

    judge: Judge
    shares: dict[float, Share]
    tables: dict[float, Any]
    unseen_captions: Share
    best: float

    def as_json(self) -> dict[str, Any]:
        return {
            "categories": list(self.judge.categories),
            "classifier_on_real_unseen": self.judge.accuracy.as_json(),
            "classifier_on_held_out_split": self.judge.held_out.as_json(),
            "classifier_confusion": self.judge.table.tolist(),
            "guidance": {f"{scale:g}": share.as_json() for scale, share in self.shares.items()},
            "captions_of_held_out_pictures": self.unseen_captions.as_json() | {"guidance": self.best},
            "confusion": {f"{scale:g}": table.tolist() for scale, table in self.tables.items()},
        }

    def markdown(self) -> str:
        rows = [
            ["real, unseen by the net that judges them", str(self.judge.accuracy), self.judge.accuracy.count],
            ["real, of the held-out split", str(self.judge.held_out), self.judge.held_out.count],
        ]
        rows += [[f"painted, guidance {scale:g}", str(share), share.count] for scale, share in self.shares.items()]
        rows.append([f"painted, guidance {self.best:g}, held-out captions", str(self.unseen_captions),
                     self.unseen_captions.count])  # fmt: skip
        whole = markdown_table(["pictures", "in the right category (95% interval)", "count"], rows)
        real = recall(self.judge.table)
        shares = {scale: recall(table) for scale, table in self.tables.items()}
        each = [
            [name, f"{real[index]:.0%}", *(f"{shares[scale][index]:.0%}" for scale in shares)]
            for index, name in enumerate(self.judge.categories)
        ]
        return whole + "\n" + markdown_table(["category", "real", *(f"guidance {scale:g}" for scale in shares)], each)


def measure(
    painter: Painter,
    judge: Judge,
    training: Pictures,
    held_out: Pictures,
    out: Path,
    reporter: Reporter,
    *,
    each: int,
    scales: Sequence[float],
    steps: int,
    seed: int,
) -> BaseAccuracy:
    """Paint `each` pictures a category from training captions at every guidance scale; leaves guidance.png in `out`."""
    drawn, labels = drawn_from(training, judge.categories, each, seed)
    captions = any_caption(drawn, seed)
    seeds = [seed + 1000 + number for number in range(len(captions))]
    painted, shares, tables = {}, {}, {}
    for scale in scales:
        title = f"painting at guidance {scale:g}"
        pixels = as_tensor(painter.paint(captions, seeds, scale, steps, reporter=reporter, title=title))
        said = judge.said(pixels)
        painted[scale] = pixels
        shares[scale] = share_of((said == labels).numpy())
        tables[scale] = confusion(labels.numpy(), said.numpy(), len(judge.categories))
    best = max(shares, key=lambda scale: shares[scale].share)
    unseen, truth = drawn_from(held_out, judge.categories, each, seed)
    others = any_caption(unseen, seed)
    fresh = as_tensor(painter.paint(others, seeds[: len(others)], best, steps, reporter=reporter, title="new captions"))
    _sheet(painted, captions, labels.tolist(), out / "guidance.png")
    return BaseAccuracy(judge, shares, tables, judge.right(fresh, truth), best)


def drawn_from(pictures: Pictures, categories: Sequence[str], each: int, seed: int) -> tuple[Pictures, torch.Tensor]:
    """Up to `each` pictures of every category, drawn without repetition, and their labels (N,)."""
    all_of_them, labels = labelled(pictures, categories)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for kind in range(len(categories)):
        members = (labels == kind).nonzero()[:, 0]
        chosen += members[torch.randperm(len(members), generator=generator)][:each].tolist()
    return chosen_from(all_of_them, chosen), labels[chosen]


def any_caption(pictures: Pictures, seed: int) -> list[str]:
    """One caption of each picture, as training draws them: each of its own equally likely."""
    draw = random.Random(seed)
    return [draw.choice(texts) for texts in pictures.texts]


def _sheet(painted: dict[float, torch.Tensor], captions: Sequence[str], labels: list[int], path: Path) -> None:
    """A row for each guidance scale, a column for the first picture of each category."""
    firsts = [labels.index(kind) for kind in sorted(set(labels))]
    rows = []
    for start in range(0, len(firsts), _ON_SHEET):
        part = firsts[start : start + _ON_SHEET]
        for scale, pixels in painted.items():
            rows.append(([pixels[index] for index in part], [f"{captions[index]} ({scale:g})" for index in part]))
    files.write_with(path, lambda temporary: sheet(rows).save(temporary, format="PNG"))
