"""The page that compares several runs: curves over each other, where their settings differ, last samples side by
side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simpletune.pages import render
from simpletune.results.charts import compared_charts
from simpletune.results.report import settings_table
from simpletune.results.report.drawing import draw
from simpletune.results.report.embed import Embedded, Embedder
from simpletune.results.report.measures import Measures
from simpletune.results.report.page import common, tiles
from simpletune.results.report.pictures import last_pictures, said
from simpletune.results.report.run import Run
from simpletune.results.report.samples import albums

_SHOTS = 8


@dataclass(frozen=True)
class SampleRow:
    """A prompt as each run has it last; None where a run hasn't drawn it."""

    prompt: str
    said: str
    pictures: tuple[Embedded | None, ...]


def comparison(
    runs: Sequence[Run], embedder: Embedder, measures: Mapping[str, Measures], refresh: int | None = None
) -> str:
    """The page. `measures` are the evaluations there are, by the runs' labels."""
    names = list(dict.fromkeys(name for run in runs for name, _, _ in tiles(run)))
    told = [{name: (value, more) for name, value, more in tiles(run)} for run in runs]
    values = {
        **common(f"{len(runs)} runs compared", runs, refresh),
        "labels": [run.label for run in runs],
        "figures": [(name, [of_one.get(name, ("–", "")) for of_one in told]) for name in names],
        "charts": [draw(chart) for chart in compared_charts({run.label: run.numbers for run in runs})],
        "differences": settings_table.differences(runs),
        "samples": samples(runs, embedder),
        "measures": [(run.label, measures[run.label]) for run in runs if run.label in measures],
    }
    return render("comparison.html", values)


def samples(runs: Sequence[Run], embedder: Embedder) -> list[SampleRow]:
    """What the runs drew last of the same prompts, seeds and sizes; those that most runs have come first."""
    rows: dict[tuple[str, str], list[Embedded | None]] = {}
    for index, run in enumerate(runs):
        for shot, made in last_pictures(albums(run.folder)[:1], embedder, _SHOTS):
            rows.setdefault((shot.prompt, said(shot)), [None] * len(runs))[index] = made
    ordered = sorted(rows.items(), key=lambda row: sum(made is None for made in row[1]))
    return [SampleRow(prompt, about, tuple(pictures)) for (prompt, about), pictures in ordered[:_SHOTS]]
