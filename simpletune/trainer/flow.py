"""Rectified flow: how noisy a training sample is, what the model is asked for, and how far off it was.

Pure functions of tensors without host synchronization, so that they run inside a captured CUDA graph. Sources:
SD3 paper, Esser et al. 2024, arXiv 2403.03206; Style-Friendly SNR, Choi et al. 2024, arXiv 2411.14793.

Shapes: B batch, C latent channels, H and W latent height and width. sigma runs from 0 (clean) to 1 (pure noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from simpletune.config.settings import Settings

SIGMA_MARGIN = 1e-5
"""sigma stays this far from 0 and 1, where a sample carries no noise or no picture at all."""

_REFERENCE_TOKENS = 4096  # a picture of 1024x1024 pixels
_REFERENCE_SHIFT = 3.0  # what the SD3 paper's raters preferred at that size

Quantile = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SigmaSampler:
    """A distribution of sigma as its inverse CDF: uniform numbers in, sigmas out.

    One uniform number a sample serves every distribution, and evenly spaced ones give its quantiles.
    """

    quantile: Quantile
    shifted: bool

    def __call__(self, uniform_B: Tensor, shift: float | Tensor) -> Tensor:
        """Uniform numbers in (0, 1) of any shape -> float32 sigmas of that shape, inside (0, 1).

        `shift` is left out for distributions that are stated for the final sigma (style_friendly).
        """
        sigma_B = self.quantile(uniform_B.float())
        if self.shifted:
            sigma_B = shift_sigma(sigma_B, shift)
        return sigma_B.clamp(SIGMA_MARGIN, 1 - SIGMA_MARGIN)


def sigma_sampler(settings: Settings, device: torch.device | str = "cpu") -> SigmaSampler:
    """The distribution that `timestep_sampling` names, with its parameters; tables it needs are put on `device`."""
    match settings.timestep_sampling:
        case "logit_normal":
            mean, scale = settings.timestep_mean, settings.timestep_scale
            return SigmaSampler(lambda u_B: logit_normal_quantile(u_B, mean, scale), shifted=True)
        case "uniform":
            return SigmaSampler(lambda u_B: u_B, shifted=True)
        case "mode":
            mode_scale = settings.timestep_mode_scale
            return SigmaSampler(lambda u_B: mode_quantile(u_B, mode_scale), shifted=True)
        case "beta":
            return SigmaSampler(
                BetaQuantile(settings.timestep_beta_alpha, settings.timestep_beta_beta, device), shifted=True
            )
        case "style_friendly":
            mean, scale = settings.timestep_logsnr_mean, settings.timestep_logsnr_scale
            return SigmaSampler(lambda u_B: style_friendly_quantile(u_B, mean, scale), shifted=False)
        case other:
            raise ValueError(f"unknown timestep_sampling {other!r}")


def logit_normal_quantile(uniform_B: Tensor, mean: float, scale: float) -> Tensor:
    """sigma = sigmoid(mean + scale * z) with z standard normal; a positive mean is more noise. SD3 paper, eq. 19."""
    return torch.sigmoid(mean + scale * torch.special.ndtri(uniform_B))


def mode_quantile(uniform_B: Tensor, scale: float) -> Tensor:
    """Mode sampling with heavy tails, SD3 paper eq. 20, f(1 - u) so that it rises with u.

    `scale` in [-1, 2 / (pi - 2)] keeps it monotonic; positive favours the middle, 0 is uniform.
    """
    return uniform_B - scale * (torch.sin(0.5 * math.pi * uniform_B).square() - uniform_B)


def style_friendly_quantile(uniform_B: Tensor, logsnr_mean: float, logsnr_scale: float) -> Tensor:
    """log SNR ~ N(mean, scale), and log SNR = 2 log((1 - sigma) / sigma), so sigma = sigmoid(-log SNR / 2).

    Style-Friendly SNR, section 4; its N(-6, 2) puts the median sigma at 0.953.
    """
    logsnr_B = logsnr_mean - logsnr_scale * torch.special.ndtri(uniform_B)
    return torch.sigmoid(-0.5 * logsnr_B)


class BetaQuantile:
    """Inverse CDF of Beta(alpha, beta) by table, within 1e-6 for parameters of 0.1 and above.

    The table holds logit(sigma) over evenly spaced normal scores: in these coordinates the curve is smooth with gentle
    tails whatever the parameters, so linear interpolation is exact enough.
    """

    _POINTS = 1 << 15
    _LARGEST_SCORE = 6.0  # uniform numbers of 24 bits reach 5.4

    def __init__(self, alpha: float, beta: float, device: torch.device | str = "cpu") -> None:
        table = self._table(alpha, beta)
        self._logits = torch.from_numpy(table).to(device=device, dtype=torch.float32)

    def __call__(self, uniform_B: Tensor) -> Tensor:
        spacing = 2 * self._LARGEST_SCORE / (self._POINTS - 1)
        place_B = (torch.special.ndtri(uniform_B) + self._LARGEST_SCORE) / spacing
        left_B = place_B.floor().clamp(0, self._POINTS - 2)
        index_B = left_B.long()
        return torch.sigmoid(torch.lerp(self._logits[index_B], self._logits[index_B + 1], place_B - left_B))

    @classmethod
    def _table(cls, alpha: float, beta: float) -> np.ndarray:
        """Integrate the density of y = logit(sigma), x^alpha (1 - x)^beta / B, from both tails inwards."""
        centre, spread = math.log(alpha / beta), 12 * math.sqrt(1 / alpha + 1 / beta)
        y = np.linspace(centre - spread - 50 / alpha, centre + spread + 50 / beta, 400_001)
        log_density = -alpha * np.logaddexp(0, -y) - beta * np.logaddexp(0, y)
        density = np.exp(log_density - log_density.max())
        pieces = 0.5 * (density[1:] + density[:-1])
        below = np.concatenate([[0.0], np.cumsum(pieces)])
        above = np.concatenate([np.cumsum(pieces[::-1])[::-1], [0.0]])
        total = below[-1]
        tail = torch.from_numpy(np.minimum(below, above) / total).clamp_min(1e-300)
        score = torch.special.ndtri(tail).numpy() * np.where(below <= above, 1.0, -1.0)
        return np.interp(np.linspace(-cls._LARGEST_SCORE, cls._LARGEST_SCORE, cls._POINTS), score, y)


def shift_sigma(sigma_B: Tensor, shift: float | Tensor) -> Tensor:
    """sigma' = s sigma / (1 + (s - 1) sigma): more noise for s > 1, as larger pictures need. SD3 paper, eq. 23."""
    return shift * sigma_B / (1 + (shift - 1) * sigma_B)


def auto_shift(image_tokens: int) -> float:
    """The shift for a picture of that many tokens: 3 at 4096, growing with the root. SD3 paper, section 5.3.2."""
    return _REFERENCE_SHIFT * math.sqrt(image_tokens / _REFERENCE_TOKENS)


def shift_for(settings: Settings, image_tokens: int) -> float:
    """The configured shift, or the one that fits the token count when `flow_schedule_auto_shift` is on."""
    return auto_shift(image_tokens) if settings.flow_schedule_auto_shift else settings.flow_schedule_shift


def interpolate(clean_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """x_t = (1 - sigma) x + sigma eps, in float32. SD3 paper, eq. 13."""
    sigma_B111 = sigma_B.float().view(-1, 1, 1, 1)
    return (1 - sigma_B111) * clean_BCHW.float() + sigma_B111 * noise_BCHW.float()


def velocity(clean_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """What the model is asked for: d x_t / d sigma = eps - x, in float32."""
    return noise_BCHW.float() - clean_BCHW.float()


def flow_loss(
    prediction_BCHW: Tensor, target_BCHW: Tensor, loss_type: str, huber_c: float, mask_B1HW: Tensor | None = None
) -> Tensor:
    """The loss of each sample, (B,), float32, unweighted by sigma; the caller takes the mean.

    l2 is the mean squared error. huber and smooth_l1 are their smooth (pseudo-Huber) forms, as other trainers define
    them: 2 c (sqrt(d^2 + c^2) - c), which is l2 for errors well below c, and 2 (sqrt(d^2 + c^2) - c).

    A mask weighs the places, w from 0 (ignored) to 1, not all 0: the loss is sum(w l) / sum(w), so that every picture
    counts alike, however little of it is seen. The alternative, mean(w l), makes a picture count by the share of it
    that is seen, and its gradient vanish with that share.
    """
    squared_BCHW = (prediction_BCHW.float() - target_BCHW.float()).square()
    match loss_type:
        case "l2":
            loss_BCHW = squared_BCHW
        case "huber":
            loss_BCHW = 2 * huber_c * _root_excess(squared_BCHW, huber_c)
        case "smooth_l1":
            loss_BCHW = 2 * _root_excess(squared_BCHW, huber_c)
        case other:
            raise ValueError(f"unknown loss_type {other!r}")
    if mask_B1HW is None:
        return loss_BCHW.flatten(1).mean(1)
    weight_B1HW = mask_B1HW.float()
    weighted_B1HW = weight_B1HW * loss_BCHW.mean(1, keepdim=True)
    return weighted_B1HW.flatten(1).sum(1) / weight_B1HW.flatten(1).sum(1)


def _root_excess(squared: Tensor, c: float) -> Tensor:
    """sqrt(squared + c^2) - c, written so that small errors do not cancel away."""
    return squared / (torch.sqrt(squared + c * c) + c)
