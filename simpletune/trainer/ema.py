"""A moving average of the LoRA weights, which is smoother than the weights themselves.

Update n, counted from 0, keeps min(decay, (1 + n) / (10 + n)) of the average, and the first one nothing: it forgets its
random start. That is diffusers' EMAModel. n follows from the step, so the averaged weights are the only state there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from simpletune.errors import TrainingFailed


class Ema:
    """The average of named LoRA weights, in float32 beside them whatever their own dtype."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, update_interval: int = 1) -> None:
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        self._decay = decay
        self._interval = update_interval
        self._average = [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: Tensor, halted: Tensor) -> None:
        """Follow the weights after optimizer step `step` (from 0); only every `update_interval`-th step counts.

        Both are 0-dim tensors, so that everything stays on the device, as a captured graph needs. `halted` is 1 when
        the step was left out, for numbers that aren't finite, and 0 otherwise.
        """
        moves = [p.float() - a for p, a in zip(self._parameters, self._average, strict=True)]
        torch._foreach_mul_(moves, self._weight(step) * (1 - halted))
        torch._foreach_add_(self._average, moves)

    def _weight(self, step: Tensor) -> Tensor:
        """How far the average moves towards the weights after `step`; 0 on the steps left out."""
        update = torch.div(step, self._interval, rounding_mode="floor").float()
        kept = torch.where(update > 0, ((1 + update) / (10 + update)).clamp(max=self._decay), 0.0)
        return torch.where((step + 1) % self._interval == 0, 1 - kept, 0.0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's weights are the averaged ones; afterwards they are what they were, bit for bit."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name, float32; the tensors are the average itself, not copies."""
        return dict(zip(self._names, self._average, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved averages, which may be among other tensors of an adapter. Raises TrainingFailed when they
        belong to another one."""
        own = self.state_dict()
        if not own.keys() <= state.keys() or any(state[name].shape != own[name].shape for name in own):
            raise TrainingFailed(
                "the checkpoint's averaged weights (EMA) belong to an adapter of another rank or other target layers",
                hint="Resume with the settings the run began with, or start in a new output_dir.",
            )
        for name, average in own.items():
            average.copy_(state[name])
