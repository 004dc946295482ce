"""Whether training teaches a style: the quickstart, shortened, with measures that see the usual silent mistakes.

The loss that training reports is not asked: it falls for wrong targets and wrong latents too. Everything is measured
from the finished adapter file and the style's own pictures, encoded and noised here by the formulas of the paper and of
diffusers, not by the trainer's code. What each mistake does to these figures stands in docs/tiny-model.md.

Shapes: N pictures, C latent channels, H and W latent height and width, L tokens, D text features, E pooled features.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from simpletune.config.load import load
from simpletune.config.settings import Settings
from simpletune.models.adapters import attach_factors
from simpletune.models.family import Family, TextEncoding
from simpletune.models.lora_file import read_adapter
from simpletune.models.registry import get_family
from simpletune.progress import SilentReporter
from simpletune.results.generate import generate, order_of
from simpletune.trainer.launch import launch

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
SIDE = 128
STEPS = 120
SHORTENED = (
    f"max_train_steps={STEPS}",
    "validation_prompt=null",
    "validation_step_interval=1000",
    "checkpoint_step_interval=1000",
)
# Subjects that the style's pictures don't show.
SUBJECTS = (
    "an apple", "a butterfly", "a cat", "a fish", "a flower", "a guitar",
    "a hammer", "a heart", "a horse", "a house", "a ship", "a tree",
)  # fmt: skip
PROMPTS = tuple(f"a drawing of {subject}" for subject in SUBJECTS)
# How a picture looks is decided at little noise, what it shows while there is much.
SIGMAS, SIGMAS_OF_SUBJECTS = (0.35, 0.6), (0.75, 0.85, 0.95)


@dataclass(frozen=True)
class Fit:
    """The mean squared error of the velocity on the style's pictures: at SIGMAS, and how many times larger it is with
    other pictures' captions at SIGMAS_OF_SUBJECTS."""

    error: float
    factor_of_others: float


@dataclass(frozen=True)
class Learned:
    base_pictures: np.ndarray  # uint8 (N, SIDE, SIDE, 3)
    tuned_pictures: np.ndarray
    base: Fit
    tuned: Fit


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Train once; paint and measure with the adapter that was saved, and without."""
    folder = tmp_path_factory.mktemp("style") / "quickstart"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("output", "cache"))
    outcome = launch(folder / "config.json", SHORTENED, SilentReporter())
    assert outcome is not None
    settings, _ = load(folder / "config.json", SHORTENED)
    order = order_of(settings, prompts=PROMPTS, seeds=[1], steps=12, guidance=2.0, adapter=outcome.adapter, base=True)
    made = generate(settings, order, folder / "painted", SilentReporter(), sheet=False).pictures
    base, tuned = fits(settings, outcome.adapter, folder / "pictures")
    return Learned(
        pixels([one.path for one in made if one.variant == "base"]),
        pixels([one.path for one in made if one.variant != "base"]),
        base,
        tuned,
    )


def pixels(paths: Sequence[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path in paths])


@torch.no_grad()
def fits(settings: Settings, adapter: Path, folder: Path) -> tuple[Fit, Fit]:
    """How well base and tuned know the style's pictures, each with its own caption and with other pictures'."""
    paths = sorted(folder.glob("*.png"))
    captions = [path.with_suffix(".txt").read_text("utf-8").strip() for path in paths]
    family, device = get_family(settings.model_family), torch.device("cpu")
    files = family.locate(settings)
    clean_NCHW = latents(files.root, pixels(paths))
    own = family.load_text_encoders(files, settings, device).encode(captions)
    transformer = family.load_transformer(files, settings, device)
    base = fit(family, transformer, clean_NCHW, own)
    attach_factors(transformer, read_adapter(adapter))
    return base, fit(family, transformer, clean_NCHW, own)


def fit(family: Family, transformer: nn.Module, clean_NCHW: Tensor, own: TextEncoding) -> Fit:
    others = [
        TextEncoding(own.prompt_embeds.roll(places, 0), own.pooled_prompt_embeds.roll(places, 0)) for places in (1, 7)
    ]
    error, subjects, *wrong = (
        velocity_error(family, transformer, clean_NCHW, text, sigmas)
        for text, sigmas in [(own, SIGMAS), *((text, SIGMAS_OF_SUBJECTS) for text in (own, *others))]
    )
    return Fit(error, float(np.mean(wrong)) / subjects)


def latents(model: Path, pictures: np.ndarray) -> Tensor:
    """As diffusers' own SD3 training script makes them: (mean - shift_factor) * scaling_factor, (N, C, H, W)."""
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32)
    x_N3PP = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (vae.encode(x_N3PP).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor


def velocity_error(
    family: Family, transformer: nn.Module, clean_NCHW: Tensor, text: TextEncoding, sigmas: Sequence[float]
) -> float:
    """Over `sigmas`, with noise that is the same every time; the target is noise less picture (arXiv 2403.03206)."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for sigma in sigmas:
        noise_NCHW = torch.randn(clean_NCHW.shape, generator=generator)
        noisy_NCHW = (1 - sigma) * clean_NCHW + sigma * noise_NCHW
        velocity_NCHW = family.predict(transformer, noisy_NCHW, torch.full((len(clean_NCHW),), sigma), text)
        errors.append((velocity_NCHW - (noise_NCHW - clean_NCHW)).square().mean().item())
    return float(np.mean(errors))


def is_sign(picture: np.ndarray) -> bool:
    """Whether a picture, uint8 (SIDE, SIDE, 3), looks like the style's: dark blue things on a tile with a dark edge.

    Near each of its four sides there is an edge, and what is dark is bluer than red. All 40 pictures of the style are
    so, themselves and out of the VAE, which turns the tile's gray to white; of the base's training set 2% are.
    """
    rgb = picture.astype(float)
    lightness = rgb.mean(axis=2)
    edges = [np.median(255 - np.rot90(lightness, side)[2:12, 20:-20].min(axis=0)) for side in range(4)]
    dark = rgb[lightness < 140]
    return min(edges) > 30 and len(dark) > 0 and float((dark[:, 2] - dark[:, 0]).mean()) > 10


def share_of_signs(pictures: np.ndarray) -> float:
    return float(np.mean([is_sign(picture) for picture in pictures]))


def test_the_style_itself_is_recognized() -> None:
    assert share_of_signs(pixels(sorted((QUICKSTART / "pictures").glob("*.png")))) == 1


def test_subjects_that_were_not_trained_get_the_style(learned: Learned) -> None:
    assert share_of_signs(learned.base_pictures) <= 0.1
    assert share_of_signs(learned.tuned_pictures) >= 0.6


def test_the_styles_pictures_are_known_better(learned: Learned) -> None:
    assert learned.tuned.error < 0.7 * learned.base.error


def test_each_picture_was_learned_with_its_own_caption(learned: Learned) -> None:
    assert learned.tuned.factor_of_others > 1.05
