"""Every adapter there can be, saved and loaded into stock diffusers: the picture is the one that training takes.

The matrices are random, as training might leave them. On a quantized base, stock diffusers gets ordinary layers that
hold what the quantized ones stand for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_kinds import shake
from plain_loop import PRECISIONS, picture, stock_pipeline
from small_runs import make_run
from tallies import Tally

from simpletune.config.load import load
from simpletune.config.settings import Settings
from simpletune.machine.execution import Way
from simpletune.models.adapters import attach_lora, detach, final_state, trainable_parameters
from simpletune.models.family import SamplingRequest, TextEncoding
from simpletune.models.registry import get_family

CPU = torch.device("cpu")
STEPS, GUIDANCE, SEED, WIDTH, HEIGHT = 2, 5.0, 42, 48, 32
ONE_LEVEL = 1
"""Of 255, in a channel of a pixel: rounded the other way."""

RANKS = (1, 7, 200)  # 200: more than any layer of the tiny model is wide
ALPHAS = (
    {"lora_alpha": None},
    {"lora_alpha": 2.5},
    {"lora_alpha": 9.0, "use_rslora": True},
    {"lora_alpha": 2.5, "use_dora": True},
)
TARGETS = ("attention", "attention-image", "blocks", ("*.norm1.linear", "*.attn.to_k", "proj_out"))
INITS = ("default", "gaussian", "pissa", "olora")
LYCORIS: tuple[dict[str, Any], ...] = (
    {"algo": "locon", "linear_dim": 4, "linear_alpha": 2},
    {"algo": "loha", "linear_dim": 4, "linear_alpha": 2},
    {"algo": "lokr", "linear_dim": 2, "linear_alpha": 3, "factor": 4},
    {"algo": "lokr", "linear_dim": 10_000, "linear_alpha": 1, "factor": 8, "multiplier": 0.5},
    {"algo": "lokr", "linear_dim": 2, "linear_alpha": 2, "decompose_both": True},
)


def choices(precision: str) -> Iterator[dict[str, Any]]:
    """pissa and olora start from the base's own weights: those of an unquantized one, up to the narrowest's width.
    DoRA is refused over 2 bits."""
    for rank, alpha, target, init in itertools.product(RANKS, ALPHAS, TARGETS, INITS):
        if alpha.get("use_dora") and precision == "int2-quanto":
            continue
        if init in ("default", "gaussian") or (precision == "no_change" and rank < 64):
            alpha = {**alpha, "lora_alpha": alpha["lora_alpha"] or rank}
            yield {"lora_rank": rank, "lora_target": target, "lora_init_type": init, **alpha}


class Bench:
    """The program's model and stock diffusers' side by side, on one precision."""

    def __init__(self, folder: Path, model: Path, precision: str) -> None:
        run = make_run(folder / "run", base_model_precision=precision)
        self.settings, _ = load(run.config, ())
        self.folder = folder
        self.family = get_family("sd3")
        self.files = self.family.locate(self.settings)
        self.transformer = self.family.load_transformer(self.files, self.settings, CPU)
        self.vae = self.family.load_vae(self.files, self.settings, CPU)
        self.stock = stock_pipeline(model, precision)
        states, negative, pooled, negative_pooled = self.stock.encode_prompt(
            "a red ball", None, None, device="cpu", max_sequence_length=32
        )
        self.text = TextEncoding(states, pooled)
        self.negative = TextEncoding(negative, negative_pooled)

    def trained(self, settings: Settings) -> tuple[np.ndarray, Path]:
        """The picture the program takes with a LoRA on, and the file it saves of it."""
        attach_lora(self.transformer, settings)
        generator = torch.Generator().manual_seed(1)
        scale = settings.lora_alpha / (settings.lora_rank**0.5 if settings.use_rslora else settings.lora_rank)
        with torch.no_grad():
            for name, weight in trainable_parameters(self.transformer):
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim == 1:  # a DoRA's lengths
                    weight *= 1 + 0.1 * noise
                elif "lora_B" in name:
                    weight += noise / (scale * settings.lora_rank**0.5)
                else:
                    weight += 0.3 * noise / weight.shape[1] ** 0.5
        return self.saved(settings)

    def saved(self, settings: Settings) -> tuple[np.ndarray, Path]:
        """The picture with the adapter that is on, and its file; it is off afterwards."""
        picture = self.ours()
        state, metadata = final_state(self.transformer, settings)
        file = self.family.save_lora(self.folder, state, metadata)
        detach(self.transformer)
        return picture, file

    def ours(self) -> np.ndarray:
        way = Way(captured=False, compiled=False)
        sampler = self.family.sampler(self.files, self.transformer.eval(), CPU, way, pytest.fail)
        request = SamplingRequest(
            self.text, self.negative, WIDTH, HEIGHT, (SEED,), STEPS, GUIDANCE, None, 0.01, 0.2, 2.8
        )
        return self.vae.decode(sampler.latents(request))[0].astype(int)

    def loaded(self, file: Path) -> np.ndarray:
        """What somebody gets who loads the file into stock diffusers."""
        self.stock.load_lora_weights(file.parent, weight_name=file.name)
        picture = self.theirs()
        self.stock.unload_lora_weights()
        return picture

    def theirs(self) -> np.ndarray:
        return picture(
            self.stock,
            prompt_embeds=self.text.prompt_embeds,
            pooled_prompt_embeds=self.text.pooled_prompt_embeds,
            negative_prompt_embeds=self.negative.prompt_embeds,
            negative_pooled_prompt_embeds=self.negative.pooled_prompt_embeds,
            width=WIDTH,
            height=HEIGHT,
            seed=SEED,
        )


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Callable[[str], Bench]:
    return lambda precision: Bench(tmp_path, tiny_model, precision)


@pytest.mark.fault
@pytest.mark.parametrize("precision", ["no_change", *PRECISIONS])
def test_stock_diffusers_takes_the_picture_of_every_adapter(
    bench: Callable[[str], Bench], precision: str, tally: Tally
) -> None:
    made = bench(precision)
    base = made.ours()
    assert np.abs(base - made.theirs()).max() <= ONE_LEVEL
    for chosen in choices(precision):
        ours, file = made.trained(replace(made.settings, **chosen))
        assert np.abs(ours - made.loaded(file)).max() <= ONE_LEVEL, chosen
        assert np.abs(ours - base).max() > 8, f"the adapter changes nothing, so nothing was compared: {chosen}"
        tally("adapters compared with stock diffusers", 1)
    assert np.array_equal(made.ours(), base)


@pytest.mark.fault
@pytest.mark.parametrize("precision", ["no_change", *PRECISIONS])
def test_the_lycoris_library_takes_the_picture_of_every_kind(
    bench: Callable[[str], Bench], precision: str, tally: Tally
) -> None:
    library = pytest.importorskip("lycoris")
    made = bench(precision)
    base = made.ours()
    for kind in LYCORIS:
        config = {**kind, "apply_preset": {"target_module": ["Attention", "FeedForward"]}}
        settings = replace(made.settings, lora_type="lycoris", lycoris_config=config)
        attach_lora(made.transformer, settings)
        shake(made.transformer)
        ours, file = made.saved(settings)
        network, _ = library.create_lycoris_from_weights(1.0, str(file), made.stock.transformer)
        network.apply_to()
        theirs = made.theirs()
        network.restore()
        assert np.abs(ours - theirs).max() <= ONE_LEVEL, kind
        assert np.abs(ours - base).max() > 8, f"the adapter changes nothing, so nothing was compared: {kind}"
        tally("adapters compared with the LyCORIS library", 1)
    assert np.array_equal(made.ours(), base)
