"""Learning, measured on pictures by stock diffusers with the adapter file: one picture by heart, two styles apart.

Shapes: N noises, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain_loop import stock_pipeline
from small_runs import Run, make_run
from tallies import Tally
from torch import Tensor

pytestmark = pytest.mark.fault

SIGMA, SIDE = 0.3, 128
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
SUBJECTS = (
    "an apple", "a butterfly", "a cat", "a fish", "a flower", "a guitar",
    "a hammer", "a heart", "a horse", "a house", "a ship", "a tree",
)  # fmt: skip
STYLES = ("style one", "style two")


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """In dB, of pictures of 0 .. 255."""
    return float(10 * np.log10(255**2 / np.square(found - expected).mean()))


@dataclass(frozen=True)
class Known:
    """How well a picture is known, in dB: its PSNR and, as the VAE loses some of any, that of what the VAE shows."""

    picture: float
    decoded: float


@torch.no_grad()
def known(pipeline: Any, picture: Image.Image, caption: str) -> Known:
    """Noised to SIGMA and taken back in a single step, with 8 noises."""
    vae, config = pipeline.vae, pipeline.vae.config
    latent_1CHW = vae.encode(pipeline.image_processor.preprocess(picture)).latent_dist.mean
    clean_1CHW = (latent_1CHW - config.shift_factor) * config.scaling_factor
    noise_NCHW = torch.randn(8, *clean_1CHW.shape[1:], generator=torch.Generator().manual_seed(3))
    noisy_NCHW = (1 - SIGMA) * clean_1CHW + SIGMA * noise_NCHW
    states, _, pooled, _ = pipeline.encode_prompt(
        caption, None, None, do_classifier_free_guidance=False, max_sequence_length=32, device="cpu"
    )
    velocity_NCHW = pipeline.transformer(
        noisy_NCHW, states.expand(8, -1, -1), pooled.expand(8, -1), torch.full((8,), 1000 * SIGMA), return_dict=False
    )[0]
    found_NCHW = (noisy_NCHW - SIGMA * velocity_NCHW) / config.scaling_factor + config.shift_factor
    found, best = (255 * pixels_of(pipeline, latents) for latents in (found_NCHW, latent_1CHW))
    return Known(psnr(found, np.asarray(picture).astype(float)), psnr(found, best))


def pixels_of(pipeline: Any, latents: Tensor) -> np.ndarray:
    decoded = pipeline.vae.decode(latents, return_dict=False)[0]
    pixels: np.ndarray = pipeline.image_processor.postprocess(decoded, output_type="np")
    return pixels


def learning(folder: Path, steps: int, **keys: Any) -> Run:
    return make_run(
        folder,
        train_batch_size=4,
        max_train_steps=steps,
        lora_rank=16,
        lora_target="blocks",
        learning_rate=2e-3,
        lr_scheduler="cosine",
        resolution=SIDE,
        **keys,
    )


def test_one_picture_is_learned_by_heart(tmp_path: Path, tiny_model: Path, tally: Tally) -> None:
    evenly = {"timestep_sampling": "uniform", "flow_schedule_shift": 1.0}
    run = learning(tmp_path / "run", 120, pictures=1, first={"repeats": 3}, **evenly)
    (file,) = (run.folder / "balls").glob("*.png")
    picture = Image.open(QUICKSTART / "pictures" / "bus.png").convert("RGB").resize((SIDE, SIDE))
    picture.save(file)
    stock, caption = stock_pipeline(tiny_model), file.with_suffix(".txt").read_text()
    before = known(stock, picture, caption)
    adapter = run.train().adapter
    stock.load_lora_weights(adapter.parent, weight_name=adapter.name)
    after = known(stock, picture, caption)
    for name in ("picture", "decoded"):
        tally.most(f"dB of one picture ({name}), before", round(getattr(before, name), 1))
        tally.most(f"dB of one picture ({name}), learned by heart", round(getattr(after, name), 1))
    assert after.picture > before.picture + 1.5
    assert after.decoded > before.decoded + 5


def draw_styles(folder: Path) -> None:
    """The quickstart's blue drawings, and the same in red, each with its style's words in the caption."""
    for place, style in enumerate(STYLES):
        (folder / str(place)).mkdir(parents=True)
        for file in sorted((QUICKSTART / "pictures").glob("*.png")):
            pixels = np.asarray(Image.open(file).convert("RGB"))
            Image.fromarray(pixels[..., ::-1] if place else pixels).save(folder / str(place) / file.name)
            caption = file.with_suffix(".txt").read_text("utf-8").strip()
            (folder / str(place) / file.with_suffix(".txt").name).write_text(f"{caption} {style}", "utf-8")


def redness(pipeline: Any, style: str) -> np.ndarray:
    """How much more red than blue what is dark in each picture of SUBJECTS is, in levels; from the same noises."""
    images = pipeline(
        [f"a drawing of {subject} {style}" for subject in SUBJECTS],
        width=SIDE,
        height=SIDE,
        num_inference_steps=12,
        guidance_scale=2.5,
        max_sequence_length=32,
        generator=[torch.Generator().manual_seed(number) for number in range(len(SUBJECTS))],
        output_type="np",
    ).images
    found = []
    for pixels in 255 * images:
        dark = pixels[pixels.mean(-1) < 170]
        found.append(float((dark[:, 0] - dark[:, 2]).mean()) if len(dark) else 0.0)
    return np.array(found)


def told_apart(pipeline: Any) -> float:
    """The share of subjects that are blue in the first style and red in the second."""
    first, second = (redness(pipeline, style) for style in STYLES)
    return float(np.mean((first < 0) & (second > 0)))


def test_two_styles_in_one_adapter_are_told_apart_by_their_words(
    tmp_path: Path, tiny_model: Path, tally: Tally
) -> None:
    run = learning(
        tmp_path / "run",
        160,
        first={"instance_data_dir": "styles/0"},
        more=[{"id": "second", "instance_data_dir": "styles/1"}],
    )
    draw_styles(run.folder / "styles")
    stock = stock_pipeline(tiny_model)
    before = told_apart(stock)
    adapter = run.train().adapter
    stock.load_lora_weights(adapter.parent, weight_name=adapter.name)
    after = told_apart(stock)
    tally.most("share of subjects whose two styles are told apart, before", before)
    tally.most("share of subjects whose two styles are told apart, learned", after)
    assert before <= 0.1
    assert after >= 0.75
