"""The table of `make fault-test` adds up what tests of all folders and processes counted."""

from __future__ import annotations

from tallies import Tally, totals


def test_counts_are_summed_and_maxima_kept() -> None:
    properties: list[tuple[str, object]] = [("something else", "x")]
    for count, lost in ((50, 1.0), (5, 2.0)):
        tally = Tally(lambda name, value: properties.append((name, value)))
        tally("kills", count)
        tally.most("steps lost to a kill", lost)
    assert totals(properties) == [("kills", 55), ("most steps lost to a kill", 2.0)]
