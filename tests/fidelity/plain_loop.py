"""Training written out plainly, to compare with: stock diffusers, PEFT and torch.autograd, in fp32.

From the program's run it takes only which pictures each step sees, in which batches, and the random numbers drawn for
them. Pictures, captions and masks are read from their files and encoded by diffusers' own pipeline; sigma, target,
loss, mask, weights, dropped captions, clipping, optimizer, schedule and average are computed by closed formulas or by
the libraries that define them.

Shapes: B samples of a micro batch, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from PIL import Image
from small_runs import Run
from torch import Tensor, nn
from watching import Micro, Watched

NOT_QUANTIZED = ["pos_embed*", "time_text_embed*", "context_embedder", "norm_out*", "proj_out"]
PRECISIONS = {"int8-quanto": "qint8", "int4-quanto": "qint4", "int2-quanto": "qint2", "fp8-quanto": "qfloat8_e4m3fn"}


@dataclass
class Computed:
    """What the plain loop finds for one step."""

    loss: float
    grad_norm: float
    gradients: list[Tensor]
    after: list[Tensor]


def stock_pipeline(model: Path, precision: str = "no_change") -> Any:
    """diffusers' own, fp32; quantized bases as ordinary layers that hold what quanto's own layers dequantize to."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if precision != "no_change":
        dequantize(pipeline.transformer, precision)
    return pipeline


def dequantize(transformer: nn.Module, precision: str) -> None:
    from optimum import quanto

    quanto.quantize(transformer, weights=getattr(quanto, PRECISIONS[precision]), exclude=NOT_QUANTIZED)
    quanto.freeze(transformer)
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, quanto.nn.QLinear):
            parent, _, leaf = name.rpartition(".")
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
            plain.weight, plain.bias = nn.Parameter(layer.weight.dequantize()), layer.bias
            setattr(transformer.get_submodule(parent), leaf, plain)


def picture(pipeline: Any, *, seed: int, **how: Any) -> np.ndarray:
    """(H, W, 3) of 0 .. 255, in two steps at guidance 5, as the small runs' validation takes it."""
    generator = torch.Generator().manual_seed(seed)
    image = pipeline(num_inference_steps=2, guidance_scale=5.0, generator=generator, output_type="pil", **how).images[0]
    return np.asarray(image).astype(int)


def matrices(transformer: nn.Module) -> list[nn.Parameter]:
    """PEFT's A and B, layer by layer in the model's order."""
    layers = [layer for layer in transformer.modules() if hasattr(layer, "lora_A")]
    return [matrix.weight for layer in layers for matrix in (layer.lora_A["default"], layer.lora_B["default"])]


@dataclass
class PlainLoop:
    """A run's files, and a stock pipeline that gets a LoRA of PEFT's on `targets`.

    `weights`: what the loss of a data set's samples is multiplied by, where it isn't 1.
    """

    run: Run
    pipeline: Any
    targets: Sequence[str]
    weights: dict[str, float] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=lambda: {"balls": "balls"})
    masks: str | None = None

    def __post_init__(self) -> None:
        self.settings = self.run.values()
        self.transformer = self.pipeline.transformer
        self.transformer.requires_grad_(False)
        rank = self.settings["lora_rank"]
        self.transformer.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=self.settings.get("lora_alpha", rank),
                use_rslora=self.settings.get("use_rslora", False),
                target_modules=list(self.targets),
            )
        )
        self.transformer.train()
        self.parameters = matrices(self.transformer)

    def take(self, steps: Sequence[Watched]) -> list[Computed]:
        """All steps, from the weights that the program began with."""
        self.begin(steps[0].before)
        if self.settings.get("lora_init_type") in ("pissa", "olora"):
            self.subtract_start()
        optimizer = torch.optim.AdamW(self.parameters, lr=1.0, **self.settings.get("optimizer_config", {}))
        found = []
        for step in steps:
            optimizer.param_groups[0]["lr"] = step.rate
            loss, norm = self.gradients(step)
            gradients = [parameter.grad.clone() for parameter in self.parameters]
            optimizer.step()
            found.append(Computed(loss, norm, gradients, [parameter.detach().clone() for parameter in self.parameters]))
        return found

    @torch.no_grad()
    def begin(self, weights: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            assert parameter.shape == value.shape
            parameter.copy_(value)

    @torch.no_grad()
    def subtract_start(self) -> None:
        """As published: what the matrices start from is taken out of the base, so that together they are the base."""
        for layer in self.transformer.modules():
            if hasattr(layer, "lora_A"):
                start = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
                layer.base_layer.weight -= layer.scaling["default"] * start

    def gradients(self, step: Watched) -> tuple[float, float]:
        """Leave the step's gradients, clipped, in the parameters; its loss, and their norm before clipping."""
        samples = sum(len(micro.refs) for micro in step.micros)
        for parameter in self.parameters:
            parameter.grad = None
        total = torch.zeros(())
        for micro in step.micros:
            for place in range(len(micro.refs)):
                total = total + self.loss(micro, place)
        (total / samples).backward()
        limit = self.settings.get("max_grad_norm", 1.0) or math.inf
        return (total / samples).item(), torch.nn.utils.clip_grad_norm_(self.parameters, limit).item()

    def loss(self, micro: Micro, place: int) -> Tensor:
        """One sample's loss, times its data set's weight; alone in its batch."""
        ref = micro.refs[place]
        file = self.run.folder / self.folders[ref.set_id] / ref.name
        clean = self.latents(file)
        sigma, noise = self.sigma(micro.sigma_number[place].item()), micro.noise[place : place + 1]
        dropped = micro.dropout_number is not None and (
            micro.dropout_number[place].item() < self.settings["caption_dropout_probability"]
        )
        states, pooled = self.text("" if dropped else file.with_suffix(".txt").read_text())
        velocity = self.transformer(
            hidden_states=(1 - sigma) * clean + sigma * noise,
            timestep=torch.tensor([1000 * sigma]),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return self.weights.get(ref.set_id, 1.0) * self.distance(velocity - (noise - clean), file)

    def distance(self, error_1CHW: Tensor, file: Path) -> Tensor:
        kind, c = self.settings.get("loss_type", "l2"), self.settings.get("huber_c", 0.1)
        if kind == "l2":
            each = error_1CHW**2
        else:
            each = 2 * (c if kind == "huber" else 1) * (torch.sqrt(error_1CHW**2 + c**2) - c)
        if self.masks is None:
            return each.mean()
        mask = np.asarray(Image.open(self.run.folder / self.masks / file.name), np.float64) / 255
        height, width = (side // 8 for side in mask.shape)
        seen_HW = torch.from_numpy(mask.reshape(height, 8, width, 8).mean(axis=(1, 3)))
        return ((each.mean(dim=(0, 1)) * seen_HW).sum() / seen_HW.sum()).float()

    def sigma(self, number: float) -> float:
        """SD3 paper, eq. 19 and 23, in float64."""
        mean, scale = self.settings.get("timestep_mean", 0.0), self.settings.get("timestep_scale", 1.0)
        shift = self.settings.get("flow_schedule_shift", 3.0)
        drawn = 1 / (1 + math.exp(-(mean + scale * NormalDist().inv_cdf(number))))
        return shift * drawn / (1 + (shift - 1) * drawn)

    @torch.no_grad()
    def latents(self, file: Path) -> Tensor:
        """(1, C, H, W): the middle of what the VAE makes of the picture, shifted and scaled as diffusers does."""
        vae = self.pipeline.vae
        pixels = self.pipeline.image_processor.preprocess(Image.open(file))
        latents: Tensor = (vae.encode(pixels).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def text(self, caption: str) -> tuple[Tensor, Tensor]:
        length = self.settings.get("tokenizer_max_length", 154)
        states, _, pooled, _ = self.pipeline.encode_prompt(
            caption, None, None, do_classifier_free_guidance=False, max_sequence_length=length, device="cpu"
        )
        return states, pooled
