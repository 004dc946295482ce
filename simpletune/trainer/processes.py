"""The device and the processes of a run, as accelerate reports them: the door to several GPUs and, later, DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from simpletune.config.settings import Settings
from simpletune.models.runtime import check_device, limit_memory

_STEPS_BETWEEN_QUESTIONS = 10


class Processes:
    """This process among its peers.

    Gradients are summed by hand over the LoRA's parameters alone, so the model needs no wrapper; every rank weighs its
    losses by the samples of the whole step, which makes the sum equal to one process seeing all of them.
    """

    def __init__(self, settings: Settings) -> None:
        check_device(settings.device)
        # The others wait while the main process downloads, encodes and samples: hours, where the default is minutes.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        self._accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision="no", kwargs_handlers=[patience])
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        limit_memory(settings, self.device)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place, in one message."""
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        flat = self._accelerator.reduce(flat, reduction="sum")
        offset = 0
        for tensor in tensors:
            piece = flat[offset : offset + tensor.numel()]
            tensor.copy_(piece.view_as(tensor))
            offset += tensor.numel()

    def wait(self) -> None:
        """Return once every process is here."""
        self._accelerator.wait_for_everyone()

    def agree(self, number: int, step: int) -> int:
        """The largest `number` of any process, so that a signal that reached only one stops all at the same step.

        Asking waits for the device, so several processes ask only every tenth step; in between the answer is 0.
        """
        if self.world_size == 1:
            return number
        if step % _STEPS_BETWEEN_QUESTIONS:
            return 0
        numbers = self._accelerator.gather(torch.tensor([number], device=self.device))
        return int(numbers.max().item())

    def close(self) -> None:
        """Leave the process group, so that launchers see a clean end."""
        self._accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
