"""Sources that go wrong in the process that reads them; worker processes import this file."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from simpletune.data.sources import SourceError
from simpletune.data.sources.local import Folder


@dataclass(frozen=True)
class Deadly(Folder):
    """Reading `victim` ends the process by signal `number`, so many `times`; each leaves a file in `deaths`."""

    victim: str
    number: int
    times: int
    deaths: str

    def read(self, name: str) -> bytes:
        if name == self.victim and len(list(Path(self.deaths).iterdir())) < self.times:
            (Path(self.deaths) / str(os.getpid())).touch()
            os.kill(os.getpid(), self.number)
        return super().read(name)


@dataclass(frozen=True)
class Broken(Folder):
    """Can't be read at all; or raises what no source should, when it has a `bug`."""

    bug: bool

    def read(self, name: str) -> bytes:
        if self.bug:
            raise ZeroDivisionError(name)
        raise SourceError("the bucket is gone", "log in again")


@dataclass(frozen=True)
class Slow(Folder):
    """Says in `begun` which process reads, and never comes to an end."""

    begun: str

    def read(self, name: str) -> bytes:
        (Path(self.begun) / str(os.getpid())).touch()
        while True:
            signal.pause()
