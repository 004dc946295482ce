"""Which of a transformer's blocks keep their weights in host memory, for the program and for its estimates."""

from __future__ import annotations

STAGED = 2
"""Blocks that the device has room for at once: one that computes, and the next one, which is copied meanwhile."""


def offloaded_blocks(count: int, blocks: int) -> tuple[int, ...]:
    """The numbers of `count` of a model's `blocks` (all, where it has no more), in order.

    Spread evenly: while one computes, and those behind it that stay on the device, the next one is copied, so that a
    copy has the time of several blocks. Side by side each would have that of one, and the link would idle beside the
    rest. The last block is always one: the first copy then has a run of blocks to hide behind, and the backward pass
    begins with a block that is still there.
    """
    count = min(count, blocks)  # 0 gives none
    return tuple(-(-(place + 1) * blocks // count) - 1 for place in range(count))
