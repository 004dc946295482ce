"""Which way pictures are sampled. Imports no torch."""

from __future__ import annotations

from simpletune.machine.execution import Known, Way, expected_way

# Measured on an H100 with SD3-Medium on an int8 base (docs/performance.md): plain calls beside compiled blocks at four
# pictures, where launching doesn't count. A pass is one forward pass of one picture, with its prompt or without it.
COMPILING = 16.0
"""Seconds until the first compiled step when nothing is kept."""
SAVED = 0.00027
"""Seconds a block and pass that compiled kernels save beside eager ones in a CUDA graph."""


def sampling_way(wanted: str, known: Known) -> Way:
    """How pictures are sampled for a value of "execution", which is about training first of all.

    "eager" is plain PyTorch calls here, too, and "compile" means no CUDA graph. Else on CUDA a step is a graph, and the
    blocks are compiled where that takes less time than it saves over `known.passes`: those of all pictures together.
    """
    if known.device != "cuda" or wanted == "eager":
        return Way(captured=False, compiled=False)
    worthwhile = known.passes * known.blocks * SAVED > COMPILING
    return Way(wanted != "compile", worthwhile and expected_way("compile", known).compiled)


def passes(pictures: int, steps: int, guidance: float) -> int:
    """Forward passes of so many pictures; skipped layers' are left out."""
    return pictures * steps * (2 if guidance > 1 else 1)
