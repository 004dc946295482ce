"""The main memory that a process and those it started take, by kind, at its highest.

From /proc/PID/status, in GiB: `anonymous` is RssAnon, what the system would have to swap out. `shared` is RssShmem:
memory that CUDA pins is mapped from /dev/zero and shows there, or in `driver`, the size of mappings of /dev/nvidia0 and
/dev/nvidiactl, depending on the driver. `files` is RssFile, pages of mapped files, which the system takes back at will.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

_FIELDS = {"RssAnon": "anonymous", "RssShmem": "shared", "RssFile": "files"}
_EVERY, _MAPS_EVERY = 0.1, 20  # seconds; samples between looks at the mappings, which take longer
_DRIVER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .* /dev/nvidia(?:ctl|\d+)$", re.MULTILINE)


class HostMemory(threading.Thread):
    """Watches a process until it ends: `own` is the process itself, `tree` all of them together."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.own: dict[str, float] = {}
        self.tree: dict[str, float] = {}

    def run(self) -> None:
        look = 0
        while self._process.poll() is None:
            try:
                tree = [self._process.pid, *(p.pid for p in psutil.Process(self._process.pid).children(recursive=True))]
            except psutil.Error:
                return
            sizes = [_status(pid) for pid in tree]
            _raise(self.own, sizes[:1])
            _raise(self.tree, sizes)
            if look % _MAPS_EVERY == 0:
                _raise(self.own, [{"driver": _driver(tree[0])}])
            look += 1
            self._process_ended(_EVERY)

    def _process_ended(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return


def _raise(highest: dict[str, float], sizes: Iterable[dict[str, float]]) -> None:
    total: dict[str, float] = {}
    for each in sizes:
        for kind, size in each.items():
            total[kind] = total.get(kind, 0.0) + size
    for kind, size in total.items():
        highest[kind] = round(max(highest.get(kind, 0.0), size), 3)


def _status(pid: int) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {kind: int(fields[name].split()[0]) / 2**20 for name, kind in _FIELDS.items() if name in fields}


def _driver(pid: int) -> float:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return 0.0
    return sum(int(end, 16) - int(start, 16) for start, end in _DRIVER.findall(maps)) / 2**30
