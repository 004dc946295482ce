"""A device whose memory is full: telling that from other errors, and giving back what nobody holds any more."""

from __future__ import annotations

import gc

import torch

_SAYINGS = (
    "out of memory",  # torch's allocators on CUDA and on Apple's GPUs, CUDA itself, NCCL
    "alloc_failed",  # cuBLAS and cuDNN, when another process leaves them nothing for their workspaces
    "can't allocate memory",  # torch's allocator of main memory
    "not enough memory",  # the same on Windows
)


def ran_out(error: RuntimeError) -> bool:
    """Whether it says that memory is full; only torch's own allocator for CUDA has an exception for that."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(saying in said for saying in _SAYINGS)


def release(device: torch.device) -> None:
    """Give back the memory of what was dropped just before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
