"""The figures by which the tiny model is judged: by hand, and the sampler against the stock pipeline."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES / "tiny-model"))

import base_accuracy  # noqa: E402
import classifiers  # noqa: E402
import measures  # noqa: E402
import recolour  # noqa: E402
import sampler  # noqa: E402
import style_set  # noqa: E402
from pictures import Pictures  # noqa: E402

from simpletune.progress import SilentReporter  # noqa: E402

CPU = torch.device("cpu")


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    black = np.zeros((3, 4, 4, 3), np.uint8)
    copies = black.copy()
    copies[0] = 51  # a fifth of white: 1 / 0.2^2 = 25
    copies[1, :2] = 51  # half of the pixels: twice that
    found = measures.psnr(black, copies)
    assert found[:2] == pytest.approx([10 * math.log10(25), 10 * math.log10(50)])
    assert 50 < found[2] < 80, "a perfect copy is finite"


def test_the_confusion_matrix_has_the_truth_in_rows() -> None:
    table = measures.confusion([0, 0, 0, 1, 2], [0, 0, 1, 1, 0], 3)
    assert table.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert measures.recall(table) == pytest.approx([2 / 3, 1, 0])


def test_a_shares_interval_is_the_binomials() -> None:
    found = measures.share_of([True] * 60 + [False] * 40)
    deviation = math.sqrt(0.6 * 0.4 / 100)
    assert found.share == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - 1.96 * deviation, abs=0.015)
    assert found.high == pytest.approx(0.6 + 1.96 * deviation, abs=0.015)
    assert measures.share_of([True] * 5) == measures.Share(1, 1, 1, 5)


def test_folds_spread_every_category() -> None:
    labels = torch.tensor([0] * 10 + [1] * 7)
    fold = classifiers.folds(labels, 5)
    assert all(int(((fold == number) & (labels == 0)).sum()) == 2 for number in range(5))
    assert {int(((fold == number) & (labels == 1)).sum()) for number in range(5)} == {1, 2}


def shapes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs and frames of any colour, place and size."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = torch.arange(count) % 2
    pictures = torch.full((count, 3, 64, 64), 255, dtype=torch.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        across, down, size = (torch.randint(*span, (), generator=generator) for span in ((24, 40), (24, 40), (10, 20)))
        edge = torch.maximum((x - across).abs(), (y - down).abs())
        inside = (edge < size) & (edge > size - 4) if label else (x - across) ** 2 + (y - down) ** 2 < size**2
        picture[:, inside] = torch.randint(0, 160, (3, 1), generator=generator, dtype=torch.uint8)
    return pictures, labels


def test_a_classifier_learns_and_repeats() -> None:
    pictures, labels = shapes(40, seed=0)
    unseen, truth = shapes(40, seed=1)
    nets = [
        classifiers.train_classifier(
            pictures, labels, 2, CPU, effort=classifiers.Effort(steps=20, batch=16, width=8), seed=3
        )
        for _ in range(2)
    ]
    assert classifiers.accuracy(nets[:1], unseen, truth) >= 0.9
    assert torch.equal(classifiers.probabilities(nets[:1], unseen), classifiers.probabilities(nets[1:], unseen))


def test_variation_keeps_the_ground_white_and_the_range() -> None:
    pictures, _ = shapes(8, seed=2)
    varied = classifiers.varied(classifiers.shrunk(pictures, CPU), torch.Generator().manual_seed(0))
    assert varied.min() >= -1
    assert varied.max() <= 1
    # What brightness takes off white is a tenth at most.
    assert varied[:, :, 0, 0].min() > 0.89


def test_subjects_of_a_style_are_left_out_of_its_prompts() -> None:
    style = style_set.StyleSet("lines", torch.zeros(2, 3, 8, 8), ("a drawing of two cats", "a drawing of a bus"))
    texts = [("a drawing of a cat",), ("a drawing of a line of trees", "bus"), ("a drawing of dogs",)]
    pictures = Pictures(torch.arange(3)[:, None, None, None].expand(3, 3, 8, 8), texts, ["x", "y", "z"])
    left = style_set.foreign(pictures, style)
    assert left.categories == ["y", "z"]
    assert left.pixels[:, 0, 0, 0].tolist() == [1, 2]


def test_a_recoloured_picture_keeps_its_shape_in_the_styles_three_tones() -> None:
    quickstart = style_set.read_style(EXAMPLES / "quickstart" / "pictures")
    tones = recolour.tones_of(quickstart)
    assert tones.dark[2] > tones.dark[0] + 60, "the signs are blue"
    assert tones.middle.mean() > tones.dark.mean()
    picture = torch.full((1, 3, 128, 128), 255, dtype=torch.uint8)
    picture[0, :, 34:94, 34:94] = torch.tensor([255, 220, 0], dtype=torch.uint8)[:, None, None]  # yellow
    picture[0, :, 54:74, 54:74] = 0
    found = recolour.recoloured(picture, tones)[0]
    assert torch.equal(found[:, :34], tones.ground[:, :34])
    assert torch.equal(found[:, 45, 45], tones.middle.to(torch.uint8))
    assert torch.equal(found[:, 64, 64], tones.dark.to(torch.uint8))


def test_no_net_has_seen_what_it_judges_in_any_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is one gray, its changed self another; a stand-in for a net knows the grays it was trained with."""
    pictures = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 4, 4)
    training = Pictures(pictures, [("",)] * 40, ["a", "b"] * 20)

    def train(pixels: torch.Tensor, labels: torch.Tensor, *_: object, **__: object) -> dict[int, int]:
        return dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))

    def said(nets: list[dict[int, int]], pixels: torch.Tensor) -> torch.Tensor:
        known = [gray in net for gray in pixels[:, 0, 0, 0].tolist() for net in nets[:1]]
        return torch.tensor([[0.0, 1.0] if one else [1.0, 0.0] for one in known])

    monkeypatch.setattr(base_accuracy, "train_classifier", train)
    monkeypatch.setattr(base_accuracy, "probabilities", said)
    changed = pictures + 100
    judge = base_accuracy.train_judge(
        training, training, ("a", "b"), CPU, SilentReporter(), classifiers.Effort(), [changed]
    )
    assert all(len(net) == 60 and net[gray] == net[gray + 100] for net in judge.nets for gray in net if gray < 100)
    assert judge.table[:, 1].sum() == 0, "no net knew a picture it judged"
    assert base_accuracy.right_unseen(judge, training, changed).share == 0.5


def test_a_batch_is_what_the_stock_pipeline_paints_one_by_one(tiny_model: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    options = ["device=cpu", "base_model_precision=no_change", "text_encoder_3_precision=no_change"]
    painter = sampler.open_painter(EXAMPLES / "quickstart" / "config.json", options)
    captions, seeds = ["a drawing of a cat", "a red ball", "a drawing of a cat"], [5, 6, 7]
    ours = painter.paint(captions, seeds, guidance=4.0, steps=2)
    pipeline = StableDiffusion3Pipeline.from_pretrained(painter.files.root, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        captions[1],
        width=128,
        height=128,
        num_inference_steps=2,
        guidance_scale=4.0,
        max_sequence_length=painter.settings.tokenizer_max_length,
        generator=torch.Generator().manual_seed(6),
        output_type="np",
    ).images[0]
    assert np.abs(ours[1] - (stock * 255).round()).max() <= 1
    assert np.abs(ours[0].astype(int) - ours[2].astype(int)).max() > 0, "the seed decides too"
    plain = painter.paint(captions[:1], seeds[:1], guidance=1.0, steps=2)
    assert np.abs(plain[0].astype(int) - ours[0].astype(int)).max() > 0, "guidance decides too"
