"""Waiting for something that may never answer, for so long and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Run `work` in a thread of its own; whether it ended in time.

    One that hangs is left behind: the thread is a daemon, so it doesn't keep the program from ending. `work` must not
    raise, and must leave what it found where the caller sees it half done.
    """
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
