"""sweep.json: which runs of a sweep are done, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletune import files, outside
from simpletune.redact import redact
from simpletune.results.run_folder import FINISHED_FILE
from simpletune.sweep.plan import Planned

FILE = "sweep.json"
_FORMAT, _LARGEST_FILE = 1, 64 << 20


@dataclass
class Record:
    """What is done, by the runs' names: {"digest", "trained" (seconds), "evaluated" (the options)}."""

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Record:
        """The record in `folder`. One that is absent or can't be read is empty: then `train` says of each run that it
        is finished, which only takes longer."""
        path = folder / FILE
        try:
            found = outside.read_json(path, _LARGEST_FILE)
            done = found["runs"] if found["format"] == _FORMAT else {}
            return cls(path, {str(name): dict(entry) for name, entry in done.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(path)

    def is_trained(self, run: Planned) -> bool:
        """Whether the run was trained to its end with these settings, and is still there."""
        entry = self.done.get(run.name, {})
        return entry.get("digest") == run.digest and "trained" in entry and (run.folder / FINISHED_FILE).is_file()

    def is_evaluated(self, run: Planned, options: tuple[str, ...]) -> bool:
        return self.is_trained(run) and self.done[run.name].get("evaluated") == list(options)

    def seconds(self, run: Planned) -> float:
        """How long its last start trained."""
        return float(self.done.get(run.name, {}).get("trained", 0.0))

    def trained(self, run: Planned, seconds: float) -> None:
        self.done[run.name] = {"values": dict(run.values), "digest": run.digest, "trained": round(seconds, 1)}
        self._write()

    def evaluated(self, run: Planned, options: tuple[str, ...]) -> None:
        self.done[run.name]["evaluated"] = list(options)
        self._write()

    def _write(self) -> None:
        text = json.dumps({"format": _FORMAT, "runs": self.done}, indent=1, ensure_ascii=False)
        files.write_text(self.path, redact(text) + "\n")
