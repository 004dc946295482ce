"""Whether the base paints what the caption says: pictures from captions, judged by a classifier of real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from classifiers import Effort, Net, probabilities, train_classifier
from measures import Share, confusion, markdown_table, recall, share_of
from pictures import Pictures
from reconstruction import as_tensor
from sampler import Painter
from sheets import sheet

from simpletune import files
from simpletune.progress import Reporter

_NETS = 2
_ON_SHEET = 8  # categories


@dataclass(frozen=True)
class Judge:
    """Says which of its categories a picture belongs to; `accuracy` on real pictures it never saw."""

    categories: tuple[str, ...]
    nets: tuple[Net, ...]
    accuracy: Share
    table: Any  # (K, K) counts on the real held-out pictures

    def said(self, pixels_N3PP: torch.Tensor) -> torch.Tensor:
        """The category of each uint8 picture, int64 (N,)."""
        return probabilities(self.nets, pixels_N3PP).argmax(1)

    def right(self, pixels_N3PP: torch.Tensor, labels_N: torch.Tensor) -> Share:
        return share_of((self.said(pixels_N3PP) == labels_N).numpy())


def labelled(pictures: Pictures, categories: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The pictures of these categories: uint8 (N, 3, P, P), labels (N,), and the first caption of each."""
    place = {name: index for index, name in enumerate(categories)}
    chosen = [index for index, name in enumerate(pictures.categories) if name in place]
    labels = torch.tensor([place[pictures.categories[index]] for index in chosen])
    return pictures.pixels[chosen], labels, [pictures.texts[index][0] for index in chosen]


def train_judge(
    training: Pictures,
    held_out: Pictures,
    categories: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    effort: Effort,
) -> Judge:
    """Two nets of different seeds on the training split, which vote; their accuracy on the held-out one."""
    pixels, labels, _ = labelled(training, categories)
    nets = tuple(
        train_classifier(
            pixels, labels, len(categories), device, effort=effort, seed=seed, reporter=reporter,
            title=f"training classifier {seed + 1} of {_NETS}",
        )
        for seed in range(_NETS)
    )  # fmt: skip
    unseen, truth, _ = labelled(held_out, categories)
    said = probabilities(nets, unseen).argmax(1)
    table = confusion(truth.numpy(), said.numpy(), len(categories))
    return Judge(tuple(categories), nets, share_of((said == truth).numpy()), table)


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
            "classifier_on_real_held_out": self.judge.accuracy.as_json(),
            "classifier_confusion": self.judge.table.tolist(),
            "guidance": {f"{scale:g}": share.as_json() for scale, share in self.shares.items()},
            "captions_of_held_out_pictures": self.unseen_captions.as_json() | {"guidance": self.best},
            "confusion": {f"{scale:g}": table.tolist() for scale, table in self.tables.items()},
        }

    def markdown(self) -> str:
        rows = [["real held-out pictures", str(self.judge.accuracy), self.judge.accuracy.count]]
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
    captions, labels = drawn_captions(training, judge.categories, each, seed)
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
    others, truth = drawn_captions(held_out, judge.categories, each, seed)
    fresh = as_tensor(painter.paint(others, seeds[: len(others)], best, steps, reporter=reporter, title="new captions"))
    _sheet(painted, captions, labels.tolist(), out / "guidance.png")
    return BaseAccuracy(judge, shares, tables, judge.right(fresh, truth), best)


def drawn_captions(
    pictures: Pictures, categories: Sequence[str], each: int, seed: int
) -> tuple[list[str], torch.Tensor]:
    """Up to `each` captions of every category, of pictures drawn without repetition, and their labels (N,)."""
    _, labels, texts = labelled(pictures, categories)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for kind in range(len(categories)):
        members = (labels == kind).nonzero()[:, 0]
        chosen += members[torch.randperm(len(members), generator=generator)][:each].tolist()
    return [texts[index] for index in chosen], labels[chosen]


def _sheet(painted: dict[float, torch.Tensor], captions: Sequence[str], labels: list[int], path: Path) -> None:
    """A row for each guidance scale, a column for the first picture of each category."""
    firsts = [labels.index(kind) for kind in sorted(set(labels))]
    rows = []
    for start in range(0, len(firsts), _ON_SHEET):
        part = firsts[start : start + _ON_SHEET]
        for scale, pixels in painted.items():
            rows.append(([pixels[index] for index in part], [f"{captions[index]} ({scale:g})" for index in part]))
    files.write_with(path, lambda temporary: sheet(rows).save(temporary, format="PNG"))
