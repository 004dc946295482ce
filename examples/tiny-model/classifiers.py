"""A small picture classifier, trained from nothing in a minute: the judge of what was painted.

It sees pictures at 64 x 64, varied in place, size, angle, colour and sharpness, so that none of these decides;
categories are drawn equally often.

Shapes: N pictures, B batch, P the pictures' side in pixels, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from simpletune.progress import Reporter, SilentReporter

SIDE = 64
_RATE = 3e-3
_WEIGHT_DECAY = 0.05
_SMOOTHING = 0.1
_LOOKED_AT_TOGETHER = 256


@dataclass(frozen=True)
class Effort:
    """How long a classifier is trained, and how many channels its first layer has."""

    steps: int = 700
    batch: int = 64
    width: int = 24


class _Block(nn.Module):
    """Two convolutions to half the size, around which the input is carried (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.around = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.around(functional.avg_pool2d(x, 2)) + self.second_norm(self.second(inner)))


class Net(nn.Module):
    """At a width of 24 it has 0.7 million weights and 26 million multiplications a picture."""

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.blocks = nn.Sequential(*(_Block(inputs, outputs) for inputs, outputs in pairwise(widths)))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(widths[-1], kinds))

    def forward(self, x_B3PP: Tensor) -> Tensor:
        """Pictures in -1 .. 1 of SIDE x SIDE -> logits (B, K)."""
        features: Tensor = self.blocks(self.stem(x_B3PP))
        return self.head(features.mean(dim=(2, 3)))


def train_classifier(
    pixels_N3PP: Tensor,
    labels_N: Tensor,
    kinds: int,
    device: torch.device,
    *,
    effort: Effort = Effort(),
    seed: int = 0,
    reporter: Reporter | None = None,
    title: str = "training the classifier",
) -> Net:
    """A net for uint8 pictures and their labels, int64 in 0 .. K - 1. The same on every run on one machine."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Net(kinds, effort.width).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_WEIGHT_DECAY)
    pixels = shrunk(pixels_N3PP, device)
    labels = labels_N.to(device)
    drawn_SB = _drawn(labels_N, kinds, effort, generator).to(device)
    with (reporter or SilentReporter()).phase(title, effort.steps, "step") as phase:
        for step, index_B in enumerate(drawn_SB):
            optimizer.param_groups[0]["lr"] = _RATE * _warm_cosine(step / effort.steps)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                logits_BK = net(varied(pixels[index_B], generator))
            loss = functional.cross_entropy(logits_BK.float(), labels[index_B], label_smoothing=_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            phase.advance()
    return net.eval()


def shrunk(pixels_N3PP: Tensor, device: torch.device) -> Tensor:
    """uint8 pictures as the net sees them, (N, 3, SIDE, SIDE) in -1 .. 1 on the device, each pixel a mean."""
    parts = [
        functional.interpolate(part.to(device).float(), (SIDE, SIDE), mode="area") / 127.5 - 1
        for part in pixels_N3PP.split(_LOOKED_AT_TOGETHER)
    ]
    return torch.cat(parts)


@torch.no_grad()
def probabilities(nets: Sequence[Net], pixels_N3PP: Tensor) -> Tensor:
    """What the nets think of uint8 pictures together, (N, K) on the CPU: the mean over nets and mirrorings."""
    device = next(nets[0].parameters()).device
    parts = []
    for part in shrunk(pixels_N3PP, device).split(_LOOKED_AT_TOGETHER):
        looks = [net(seen).softmax(1) for net in nets for seen in (part, part.flip(3))]
        parts.append(torch.stack(looks).mean(0).cpu())
    return torch.cat(parts)


def accuracy(nets: Sequence[Net], pixels_N3PP: Tensor, labels_N: Tensor) -> float:
    """The share of pictures that the nets put into the right category."""
    return (probabilities(nets, pixels_N3PP).argmax(1) == labels_N.cpu()).float().mean().item()


def folds(labels_N: Tensor, count: int, seed: int = 0) -> Tensor:
    """A fold for each picture, int64 (N,) in 0 .. count - 1, every category spread evenly over the folds."""
    generator = torch.Generator().manual_seed(seed)
    fold_N = torch.empty_like(labels_N)
    start = 0
    for kind in labels_N.unique():
        members = (labels_N == kind).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        fold_N[members] = (torch.arange(len(members)) + start) % count
        start += len(members)  # the odd ones out of each category shall not all fall into the first fold
    return fold_N


def varied(x_B3PP: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in -1 .. 1, each mirrored or not, turned, resized, moved, recoloured, and softened a little."""
    random_BR = torch.rand(len(x_B3PP), 12, generator=generator).to(x_B3PP.device)
    return _softened(_recoloured(_moved(x_B3PP, random_BR[:, :5]), random_BR[:, 5:11]), random_BR[:, 11])


def _moved(x_B3PP: Tensor, random_B5: Tensor) -> Tensor:
    """Mirrored or not, turned by up to 12 degrees, 0.8 to 1.15 times the size, moved by up to a tenth; on white."""
    mirrored_B = torch.where(random_B5[:, 0] < 0.5, -1.0, 1.0)
    angle_B = (random_B5[:, 1] - 0.5) * 2 * math.radians(12)
    zoom_B = 1 / (0.8 + 0.35 * random_B5[:, 2])
    shift_B2 = (random_B5[:, 3:5] - 0.5) * 0.4
    cosine_B, sine_B = angle_B.cos() * zoom_B, angle_B.sin() * zoom_B
    across_B3 = torch.stack([mirrored_B * cosine_B, -mirrored_B * sine_B, shift_B2[:, 0]], dim=1)
    down_B3 = torch.stack([sine_B, cosine_B, shift_B2[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([across_B3, down_B3], dim=1), list(x_B3PP.shape), align_corners=False)
    return functional.grid_sample(x_B3PP - 1, grid, mode="bilinear", align_corners=False) + 1


def _recoloured(x_B3PP: Tensor, random_B6: Tensor) -> Tensor:
    """Contrast, brightness and saturation vary; one in ten is grey, one in ten has its colours exchanged."""
    contrast, brightness, saturation = (random_B6[:, i, None, None, None] - 0.5 for i in range(3))
    grey_B1PP = x_B3PP.mean(1, keepdim=True)
    keep = torch.where(random_B6[:, 3, None, None, None] < 0.1, 0.0, 1 + 0.8 * saturation)
    x_B3PP = grey_B1PP + keep * (x_B3PP - grey_B1PP)
    exchanged = random_B6[:, 4, None, None, None] < 0.1
    x_B3PP = torch.where(exchanged, x_B3PP.roll(1, dims=1), x_B3PP)
    # White stays white: both work on the distance from it.
    return (1 - (1 - x_B3PP) * (1 + 0.4 * contrast) + 0.1 * (brightness - 0.5).clamp(max=0)).clamp(-1, 1)


def _softened(x_B3PP: Tensor, random_B: Tensor) -> Tensor:
    """Half of the pictures mixed with their blurred selves: an autoencoder softens too, and that says nothing."""
    blurred = functional.avg_pool2d(functional.pad(x_B3PP, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(x_B3PP, blurred, (2 * random_B - 1).clamp(min=0)[:, None, None, None])


def _drawn(labels_N: Tensor, kinds: int, effort: Effort, generator: torch.Generator) -> Tensor:
    """The pictures of each step, (S, B): categories equally often, each category's pictures in shuffled rounds."""
    each = math.ceil(effort.steps * effort.batch / kinds)
    columns = []
    for kind in range(kinds):
        members = (labels_N == kind).nonzero()[:, 0].cpu()
        rounds = [
            members[torch.randperm(len(members), generator=generator)] for _ in range(math.ceil(each / len(members)))
        ]
        columns.append(torch.cat(rounds)[:each])
    return torch.stack(columns, dim=1).flatten()[: effort.steps * effort.batch].view(effort.steps, effort.batch)


def _warm_cosine(done: float) -> float:
    """From nothing to full over the first tenth, then down along a cosine."""
    return done / 0.1 + 1e-3 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
