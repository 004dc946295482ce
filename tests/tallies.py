"""What the tests of faults count, summed over all folders and processes, and printed as a table by `make fault-test`.

A test counts with the fixture `tally`:

    def test_anything(tally):
        tally("kills at random moments", 50)       # summed with what other tests count under the same words
        tally.most("steps lost to a kill", 2)      # the largest of all that tests give
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

_PREFIX = {"sum": "tally: ", "most": "tally, most: "}


@dataclass(frozen=True)
class Tally:
    """Counts of one test. What is counted is said as in a table: "faults injected", "bad inputs tried"."""

    record: Callable[[str, object], None]

    def __call__(self, what: str, count: int) -> None:
        self.record(_PREFIX["sum"] + what, count)

    def most(self, what: str, value: float) -> None:
        self.record(_PREFIX["most"] + what, value)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally(record_property)


def totals(properties: list[tuple[str, Any]]) -> list[tuple[str, float]]:
    """(words, number) of all that was counted, sums before maxima, by their words."""
    found: dict[str, dict[str, float]] = {"sum": {}, "most": {}}
    for name, value in properties:
        kind = next((kind for kind, prefix in _PREFIX.items() if name.startswith(prefix)), None)
        if kind is not None:
            rows, what = found[kind], name.removeprefix(_PREFIX[kind])
            rows[what] = rows.get(what, 0) + value if kind == "sum" else max(rows.get(what, value), value)
    return sorted(found["sum"].items()) + [(f"most {what}", value) for what, value in sorted(found["most"].items())]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, where the tests marked `fault` were asked for."""
    if "not fault" in config.option.markexpr or "fault" not in config.option.markexpr:
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    called = [report for report in reports if report.when == "call"]
    rows = totals([pair for report in called for pair in report.user_properties])
    rows.append(("tests", len(called)))
    rows.append(("of them failed", len([report for report in called if report.failed])))
    terminalreporter.section("faults", sep="=")
    for what, number in rows:
        terminalreporter.write_line(f"{number:>10,g}  {what}" if number % 1 else f"{int(number):>10,}  {what}")
