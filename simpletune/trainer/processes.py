"""The device and the processes of a run, as accelerate reports them: the door to several GPUs and, later, DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from simpletune.config.settings import Settings
from simpletune.models.runtime import check_device, limit_memory, repeat_exactly
from simpletune.trainer.interrupt import CAUGHT


class Processes:
    """This process among its peers.

    Gradients are summed by hand over the LoRA's parameters alone, so the model needs no wrapper; every rank weighs its
    losses by the samples of the whole step, which makes the sum equal to one process seeing all of them.
    """

    def __init__(self, settings: Settings) -> None:
        check_device(settings.device)
        repeat_exactly(settings)
        # The others wait while the main process downloads, encodes and samples: hours, where the default is minutes.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        self._accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision="no", kwargs_handlers=[patience])
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._asked = torch.zeros(len(CAUGHT), device=self.device)
        limit_memory(settings, self.device)

    def ask(self, number: int) -> None:
        """Ask all processes to stop, for signal `number`; 0 asks for nothing. The next `sum` takes it along."""
        if self.world_size > 1 and number:
            self._asked[CAUGHT.index(number)] = 1.0

    @property
    def asked(self) -> Tensor | None:
        """float32 (len(CAUGHT),): how many processes had asked for each signal by the last sum, as the device knows it;
        None in a single process, which has nobody to agree with.

        Asking this way costs no message, and nobody waits for the device: whoever reads a step's numbers reads it too.
        """
        return self._asked if self.world_size > 1 else None

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank; every process has to call it."""
        if self.world_size == 1:
            return [value]
        every: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(every, value)
        return every

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place, in one message."""
        if self.world_size == 1:
            return
        tensors = [*tensors, self._asked]
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

    def close(self) -> None:
        """Leave the process group, so that launchers see a clean end."""
        self._accelerator.end_training()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
