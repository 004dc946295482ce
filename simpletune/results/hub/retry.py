"""Trying again, a few times, later each time, and only where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from simpletune.results.hub.refusals import may_pass, said

T = TypeVar("T")
ASKING, SENDING = (1.0, 3.0), (2.0, 8.0, 30.0)
"""Seconds to wait before each further try, for a question and for an upload."""


def patiently(action: Callable[[], T], token: str, tell: Callable[[str], None], what: str, waits: Sequence[float]) -> T:
    """What `action` returns. It is called again after each of `waits` while it raises what may pass; `tell` is told."""
    for wait in waits:
        try:
            return action()
        except Exception as error:
            if not may_pass(error):
                raise
            tell(f"{what} broke off ({said(error, token)}): trying again in {wait:g} s")
        time.sleep(wait)
    return action()
