"""Every single mistake is reported, alone, where it stands; most slips of the fingers with the name that was meant."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mistake_corpus import Mistake, corpus
from valid_files import PAIRS, Pair

from simpletune.config.problems import Problem, render_all
from simpletune.config.validate import check

NOT_TOLD_APART = 0.10  # of the slips: "int-quanto" may be any of three


@dataclass(frozen=True)
class Outcome:
    """What was said of one mistake."""

    mistake: Mistake
    problems: tuple[Problem, ...]

    @property
    def reported(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    @property
    def located(self) -> bool:
        file = "multidatabackend.json" if self.mistake.in_data else "config.json"
        first = next((p for p in self.problems if p.severity == "error"), None)
        place = (file, self.mistake.line, self.mistake.column)
        return first is not None and (first.file, first.line, first.column) == place

    @property
    def suggested(self) -> bool:
        return any(f'did you mean "{self.mistake.named}"?' in problem.message for problem in self.problems)


def tried(place: Path, mistakes: Iterable[Mistake]) -> list[Outcome]:
    return [Outcome(mistake, checked(place, mistake.config, mistake.data)) for mistake in mistakes]


def checked(place: Path, config: str, data: str) -> tuple[Problem, ...]:
    planned = {place / "config.json": config.encode(), place / "multidatabackend.json": data.encode()}
    return check(place / "config.json", planned=planned).problems


def share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


def hold(outcomes: Sequence[Outcome]) -> None:
    """The three figures, and that nothing else is said beside the mistake."""
    assert [o.mistake.name for o in outcomes if not o.reported] == []
    astray = [(o.mistake.name, render_all(o.problems)) for o in outcomes if not o.located]
    assert len(astray) <= 0.05 * len(outcomes), astray
    slips = [o for o in outcomes if o.mistake.kind.startswith("typo")]
    missed = [(o.mistake.name, o.problems[0].message) for o in slips if not o.suggested]
    assert len(missed) <= NOT_TOLD_APART * len(slips), missed
    cascades = [(o.mistake.name, render_all(o.problems)) for o in outcomes if len(o.problems) > 1]
    assert cascades == []


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_the_files_without_a_mistake_are_valid(place: Path, pair: Pair) -> None:
    assert render_all(checked(place, *pair.text())) == ""


def test_some_mistakes(place: Path) -> None:
    hold(tried(place, corpus()[::41]))


@pytest.mark.fault
def test_many_mistakes(place: Path, tally, capsys) -> None:
    """Every other one; ALL_MISTAKES=1 tries them all."""
    outcomes = tried(place, corpus()[:: 1 if os.environ.get("ALL_MISTAKES") else 2])
    hold(outcomes)
    tally("bad inputs: config mutations", len(outcomes))
    with capsys.disabled():
        print("\n" + figures(outcomes))


def figures(outcomes: Sequence[Outcome]) -> str:
    """A line for each kind of mistake, for all of them, and for the half that was held out."""
    kinds = Counter(o.mistake.kind.split(",")[0] for o in outcomes)
    parts = {kind: [o for o in outcomes if o.mistake.kind.split(",")[0] == kind] for kind in kinds}
    parts["all"] = list(outcomes)
    parts["held out"] = [o for o in outcomes if o.mistake.held_out]
    return "\n".join(_line(name, part) for name, part in parts.items())


def _line(name: str, part: Sequence[Outcome]) -> str:
    named = [o.suggested for o in part if o.mistake.named is not None]
    words = [
        f"{len(part):5} {name:20}",
        f"reported {share([o.reported for o in part]):7.2%}",
        f"line and column {share([o.located for o in part]):7.2%}",
        f"name {share(named):7.2%} of {len(named)}" if named else "",
    ]
    return "  ".join(words).rstrip()
