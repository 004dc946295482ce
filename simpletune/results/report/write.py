"""Writing a page about runs, once or again and again while one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simpletune import files
from simpletune.errors import UsageError
from simpletune.results.charts import compared_charts, run_charts
from simpletune.results.plots import chart_files
from simpletune.results.report.comparison import comparison
from simpletune.results.report.embed import Embedder
from simpletune.results.report.measures import Measures
from simpletune.results.report.page import page
from simpletune.results.report.run import Run, State, labels, read

PAGE_FILE, COMPARISON_FILE = "report.html", "comparison.html"
_SUFFIXES = (".html", ".htm")
_SHARE = 10
"""Between two pages passes at least this many times the time that one takes: training needs the machine."""


@dataclass
class Page:
    """A page about the runs in `named`, each counted once. `output` is its file, by default in the run's own folder, or
    comparison.html in the working folder. `measures` finds a run's evaluation."""

    named: Sequence[Path]
    output: Path | None
    measures: Callable[[Run], Measures | None]
    _embedder: Embedder = field(default_factory=Embedder, init=False, repr=False)
    _seconds: float = field(default=0.0, init=False, repr=False)

    @property
    def folders(self) -> list[Path]:
        return list(dict.fromkeys(path.resolve() for path in self.named))

    @property
    def twice(self) -> list[Path]:
        """Folders that were named more than once."""
        resolved = [path.resolve() for path in self.named]
        return [folder for folder in self.folders if resolved.count(folder) > 1]

    @property
    def path(self) -> Path:
        if self.output is not None:
            return self.output
        return self.folders[0] / PAGE_FILE if len(self.folders) == 1 else Path(COMPARISON_FILE)

    @property
    def going(self) -> bool:
        return any(run.state is State.GOING for run in self.read())

    def read(self) -> list[Run]:
        """The runs as they are now. Raises UsageError for a folder that is none."""
        return [read(folder, label) for folder, label in zip(self.folders, labels(self.folders), strict=True)]

    def write(self, refresh: int | None = None) -> Path:
        """Write the page; with `refresh` it loads itself again after that many seconds while a run goes on.

        Raises UsageError where it can't be written, or would take the place of a file that is no page.
        """
        began = time.perf_counter()
        if self.path.is_file() and self.path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{self.path} is there already, and isn't called .html", "name another file with --output")
        runs = self.read()
        found = {run.label: told for run in runs if (told := self.measures(run)) is not None}
        if len(runs) == 1:
            text = page(runs[0], self._embedder, found.get(runs[0].label), refresh)
        else:
            text = comparison(runs, self._embedder, found, refresh)
        try:
            files.write_text(self.path, text)
        except OSError as error:
            raise UsageError(
                f"{self.path} can't be written: {error.strerror}", "name another file with --output"
            ) from error
        self._embedder.forget_unused()
        self._seconds = time.perf_counter() - began
        return self.path

    def keep_writing(self, pause: int) -> None:
        """Write the page every `pause` seconds, more rarely where writing takes long, until no run goes on."""
        while self.going:
            wait = max(pause, round(_SHARE * self._seconds))
            time.sleep(wait)
            self.write(refresh=wait)


def write_plots(runs: Iterable[Run], folder: Path) -> list[Path]:
    """Draw the plots of one run, or of several over each other, into `folder`, which is made."""
    numbers = {run.label: run.numbers for run in runs}
    charts = run_charts(next(iter(numbers.values()))) if len(numbers) == 1 else compared_charts(numbers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return chart_files(charts, folder)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be written to: {error.strerror}", "name another folder with --plots"
        ) from error
