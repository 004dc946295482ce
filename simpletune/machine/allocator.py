"""How torch is to manage a GPU's memory: said in the environment, which it reads while it is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch reads both; the second is the older name


def map_in_pages(environment: MutableMapping[str, str] = os.environ, platform: str = sys.platform) -> None:
    """Have torch map GPU memory in pages, so that what one phase leaves is given back though tensors lie between.

    Without this a few small tensors that outlive a phase hold on to gibibytes. To be called before torch is imported;
    what the user set stands. Only Linux has it.
    """
    if maps_in_pages(platform) and not any(environment.get(name) for name in _NAMES):
        environment[_NAMES[0]] = "expandable_segments:True"


def maps_in_pages(platform: str = sys.platform) -> bool:
    """Whether torch can map GPU memory in pages there."""
    return platform == "linux"
