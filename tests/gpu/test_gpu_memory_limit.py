"""`device_memory_gb` is what a run may take, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simpletune.trainer.processes import Processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def test_torch_gets_no_more_than_the_configured_memory() -> None:
    settings: Any = SimpleNamespace(device="cuda", device_memory_gb=1.0, deterministic=False)
    processes = Processes(settings)
    try:
        torch.empty(256 << 20, dtype=torch.uint8, device=processes.device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 << 30, dtype=torch.uint8, device=processes.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        processes.close()
