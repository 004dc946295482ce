"""torch.compile as the transformer's blocks need it: what is kept in memory, and from one run to the next."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch._dynamo import config as dynamo_config
from torch._functorch import config as functorch_config
from torch._functorch._aot_autograd import autograd_cache

_GRAPHS = 64  # of a function: three kinds of blocks, in sizes of picture and batch
# Whether torch's key for a kept graph holds the `cache_hash` of what selective checkpoints keep: not in older versions.
_KEYS_NAME_POLICIES = hasattr(autograd_cache, "_collect_context_fn_hashes")


@cache
def compile_for_all(function: Any, **fixed: Any) -> Any:
    """function(..., **fixed), compiled on first use. One for all who ask, so that what was compiled for one is there
    for the next."""
    made = torch.compile(partial(function, **fixed), fullgraph=True)

    def run(*inputs: Any) -> Any:
        # Numbers are what blocks are made of, such as bits; without this a second value would make them variables.
        with _settings(), dynamo_config.patch(recompile_limit=_GRAPHS, specialize_int=True):
            return made(*inputs)

    return run


def why_not(error: Exception) -> str:
    """What torch.compile's error says is wrong, in a line: not which of its parts says so, which may come first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("backend=")), type(error).__name__)


def _settings() -> Any:
    """The partitioner's settings while blocks are compiled; at other times they change nothing.

    By default it keeps whatever the backward pass has to have in memory anyway, such as each unpacked weight; with this
    it keeps what is smallest, such as the packed one. Equal blocks share graphs, of which there are few kinds.

    Graphs with autograd functions of our own are kept for the next run too, which then needn't divide them anew: their
    keys hold both passes of such a function. But without a checkpoint's policy in its key, a graph that keeps attention
    could come where there is no room for it.
    """
    kept = {"autograd_cache_allow_custom_autograd_functions": True} if _KEYS_NAME_POLICIES else {}
    return functorch_config.patch(ban_recompute_materialized_backward=False, **kept)
