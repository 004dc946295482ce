"""What a process computes on, and how loud its libraries are: the same for a run and for pictures made afterwards."""

from __future__ import annotations

import logging
import os

import torch

from simpletune.config.installed import INSTALL_CUDA
from simpletune.config.settings import Settings
from simpletune.errors import EnvironmentNotReady

_COMPILER_LOGS = ("torch._higher_order_ops", "torch._dynamo", "torch._inductor", "torch._functorch")


def check_device(device: str) -> None:
    """Raise EnvironmentNotReady when the configured device is not one this torch can use."""
    if device == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None:
            raise EnvironmentNotReady(
                "`device` is cuda, but the installed torch was built without CUDA",
                f"{INSTALL_CUDA}, which has CUDA on Linux; on Windows take the command that pytorch.org gives",
            )
        raise EnvironmentNotReady(
            "`device` is cuda, but torch finds no usable GPU",
            "see whether `nvidia-smi` lists the card and whether its driver is recent enough for this torch",
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentNotReady("`device` is mps, but torch finds no Apple GPU here", 'set "device" to "auto"')


def choose_device(settings: Settings) -> torch.device:
    """The device that one process alone uses for `device`; `auto` is the best there is, as accelerate chooses it.

    `device_memory_gb` holds from then on. Raises EnvironmentNotReady as `check_device`.
    """
    check_device(settings.device)
    if settings.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        limit_memory(settings, torch.device("cuda"))
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def repeat_exactly(settings: Settings) -> None:
    """With `deterministic`: let a GPU compute its sums in one fixed order, from now on in this process.

    torch then takes kernels with a fixed order (flash attention's backward pass instead of cuDNN's), or raises
    RuntimeError where an operation has none. To be called before CUDA is used: cuBLAS reads its setting then.
    """
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(settings.deterministic)


def limit_memory(settings: Settings, device: torch.device) -> None:
    """Let this process have no more of a card's memory than `device_memory_gb` says."""
    if settings.device_memory_gb is None or device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    # It takes no device without an index, and accelerate's has none for a single process.
    index = torch.cuda.current_device()
    torch.cuda.set_per_process_memory_fraction(min(1.0, settings.device_memory_gb * 2**30 / total), index)


def free_memory(settings: Settings, device: torch.device) -> float:
    """Bytes of a CUDA card that this process may still take: what nobody has, within `device_memory_gb`."""
    free, _total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_allocated(device)
    available = float(free + torch.cuda.memory_reserved(device) - own)
    if settings.device_memory_gb is None:
        return available
    return min(available, settings.device_memory_gb * 2**30 - own)


def quiet_libraries() -> None:
    """Keep the libraries' advice to programmers off the screen; their errors are raised all the same."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    if not os.environ.get("TORCH_LOGS"):
        for name in _COMPILER_LOGS:
            logging.getLogger(name).setLevel(logging.ERROR)
