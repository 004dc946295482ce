"""A long run watched from within: memory, descriptors, threads and files, every so many steps."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVERY = 10
"""Steps between two samples."""
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)


def watch(to: Path, folder: Path) -> Callable[[], None]:
    """Sample during the training; what is returned writes the samples to `to`, as a list of dicts."""
    from simpletune.trainer.session import Session

    advance, samples = Session.advance, list[dict[str, int]]()

    def sampled(self: Any, batch: Any) -> Any:
        if self.step % EVERY == 0:
            samples.append({"step": self.step, **state(folder)})
        return advance(self, batch)

    def write() -> None:
        to.write_text(json.dumps(samples))

    Session.advance = sampled  # type: ignore[method-assign]
    return write


def state(folder: Path) -> dict[str, int]:
    """KiB of memory that no file is behind, open descriptors, threads, and files below `folder`."""
    found = _ANONYMOUS.search(Path("/proc/self/status").read_text())
    assert found is not None
    return {
        "anonymous_kib": int(found[1]),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": threading.active_count(),
        "files": sum(len(names) for _, _, names in os.walk(folder)),
    }
