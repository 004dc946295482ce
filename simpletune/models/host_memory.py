"""Host memory that a card copies from and to by itself, at the full speed of its link, while both sides do other work.

PyTorch's own pinned memory is handed out in powers of two, which wastes up to half of it: here memory is ordinary, and
its pages are registered with the driver.
"""

from __future__ import annotations

import mmap
import sys
import weakref
from contextlib import suppress

import torch
from torch import Tensor


class HostMemory:
    """`bytes`: uint8 (size,), at the begin of a page. `is_pinned`: registered with the card; it is given back with
    this object, and what still uses the memory then uses it unpinned.

    Where the device isn't a CUDA one, or the system lets nobody pin that much, it is ordinary memory: copies wait for
    the host then, and are right all the same.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        pages = _pages(size)
        self.bytes = pages[:size]
        self.is_pinned = size > 0 and device.type == "cuda" and _register(pages, device)
        if self.is_pinned:
            weakref.finalize(self, _unregister, pages, device).atexit = False


def _pages(size: int) -> Tensor:
    """Whole pages that are nobody else's, uint8.

    The tensor's memory has to begin where the registered pages do: PyTorch asks about its first byte, whichever part is
    copied, and refuses to capture a copy of what it takes for unpinned.
    """
    length = max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
    own = mmap.mmap(-1, length) if sys.platform == "win32" else mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANON)
    return torch.frombuffer(own, dtype=torch.uint8)


def _register(pages: Tensor, device: torch.device) -> bool:
    with torch.cuda.device(device):
        error = int(torch.cuda.cudart().cudaHostRegister(pages.data_ptr(), pages.numel(), 0))
        if error:
            with suppress(RuntimeError):  # the next kernel would be blamed for it
                torch.zeros(1, device=device)
    return error == 0


def _unregister(pages: Tensor, device: torch.device) -> None:
    """The memory itself lives until this is done: it is an argument."""
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # a copy may be under way
        torch.cuda.cudart().cudaHostUnregister(pages.data_ptr())
