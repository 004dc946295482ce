"""Weights in training: float32 masters of a model that computes in bfloat16, their average, and a clock for the rate.

The master weights and AdamW's moments are kept in float32: bfloat16 has 8 bits of fraction, and a step of a trained
weight is smaller than that. The exponential moving average is what is shipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Clock:
    """Time that a phase may take; rates fall with its share that has gone by, so that a run ends cooled down."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        """0 at the start, 1 when the time is up."""
        return min(1.0, (time.monotonic() - self.started) / self.seconds)

    @property
    def up(self) -> bool:
        return self.share >= 1

    def rate(self, peak: float, step: int, warmup_steps: int, final: float = 0.01) -> float:
        """Linear warmup in steps, then half a cosine in time down to `final` times the peak."""
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * self.share)))


class MasterWeights:
    """AdamW over float32 copies of the modules' parameters, with their moving average."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        dtype: torch.dtype,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        average_decay: float,
    ) -> None:
        self._modules = list(modules)
        self.names = [f"{i}.{name}" for i, m in enumerate(self._modules) for name, _ in m.named_parameters()]
        masters = [p.detach().clone().float() for module in self._modules for p in module.parameters()]
        for module in self._modules:
            nn.Module.to(module, dtype)  # diffusers' own .to() warns of what is meant here
        self.parameters = [p for module in self._modules for p in module.parameters()]
        self.masters, self.average = masters, [master.clone() for master in masters]
        fused = masters[0].device.type == "cuda"
        self.optimizer = torch.optim.AdamW(masters, lr=0, betas=betas, weight_decay=weight_decay, fused=fused)
        self._average_decay, self._steps = average_decay, 0

    def step(self, rate: float, clip: float) -> Tensor:
        """Take the gradients the parameters hold; returns their norm, (), without waiting for the device."""
        gradients = [
            torch.zeros_like(master) if p.grad is None else p.grad.float()
            for p, master in zip(self.parameters, self.masters, strict=True)
        ]
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.masters, clip, foreach=True)
        self.optimizer.param_groups[0]["lr"] = rate
        if norm.device.type == "cuda":  # the fused kernel leaves everything as it is when told so, without a wait
            self.optimizer.found_inf = (~norm.isfinite()).float()
        self.optimizer.step()
        torch._foreach_copy_([p.data for p in self.parameters], self.masters)
        self._steps += 1
        # A young average follows closely, else it would remember the random start.
        decay = min(self._average_decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self.average, self.masters, 1 - decay)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def use_average(self) -> None:
        """Put the average into the modules, in float32."""
        for module in self._modules:
            nn.Module.to(module, torch.float32)
        torch._foreach_copy_([p.data for p in self.parameters], self.average)

    def state(self) -> dict[str, Tensor]:
        """What to go on with beside the average, which is the saved model: masters in float32, moments in bfloat16."""
        state = {}
        for number, name in enumerate(self.names):
            state[f"master.{name}"] = self.masters[number]
            moments = self.optimizer.state.get(self.masters[number], {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in moments:
                    state[f"{key}.{name}"] = moments[key].bfloat16()
        state["steps"] = torch.tensor(self._steps)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave; the average is what the modules held at the start, a saved model."""
        self._steps = int(state["steps"])
        device = self.masters[0].device
        for number, name in enumerate(self.names):
            self.masters[number].copy_(state[f"master.{name}"])
            if f"exp_avg.{name}" in state:
                self.optimizer.state[self.masters[number]] = {
                    "step": torch.tensor(float(self._steps), device=device),
                    "exp_avg": state[f"exp_avg.{name}"].to(device).float(),
                    "exp_avg_sq": state[f"exp_avg_sq.{name}"].to(device).float(),
                }
        torch._foreach_copy_([p.data for p in self.parameters], self.masters)
