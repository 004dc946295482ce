"""Keeping the host near the device, so that work can be called off: what is queued there can't be taken back."""

from __future__ import annotations

from collections import deque

import torch

_AHEAD = 2  # pieces of work that the device has before it, so that it never waits for the host


class Pace:
    """To be kept before each piece of work; waits until the device has only a few of them left."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queued: deque[torch.cuda.Event] = deque()

    def keep(self) -> None:
        if self._device.type != "cuda":
            return
        mark = torch.cuda.Event()
        mark.record(torch.cuda.current_stream(self._device))
        self._queued.append(mark)
        if len(self._queued) > _AHEAD:
            self._queued.popleft().synchronize()
