"""One slip of the fingers anywhere in the two files: one problem, at a place, and never a crash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from test_mistake_corpus import checked
from valid_files import PAIRS

SLIPS = '",}]{[:x \\\x00'


def slips(text: str, at: int) -> list[str]:
    """`text` with the character at a place lost, doubled, and with one put before it."""
    others = ("", text[at] * 2, SLIPS[at % len(SLIPS)] + text[at])
    return [text[:at] + instead + text[at + 1 :] for instead in others]


def told(place: Path, name: str, step: int) -> Counter[int]:
    """How often how many problems were told."""
    files = PAIRS[name].text()
    counts: Counter[int] = Counter()
    for which, text in enumerate(files):
        for at in range(0, len(text), step):
            for changed in slips(text, at):
                pair = list(files)
                pair[which] = changed
                problems = checked(place, *pair)
                assert all(problem.line >= 1 and problem.column >= 1 for problem in problems), changed
                counts[len(problems)] += 1
    return counts


def test_some_slips(place: Path) -> None:
    counts = told(place, "card", 43)
    assert set(counts) <= {0, 1}


@pytest.mark.parametrize(
    ("written", "slip"),
    [
        ('"tiny"', '""tiny"'),
        ('"tiny"', '"tin\\y"'),
        ('"device"', '"dev\\ice"'),
        ("128", "1}28"),
        ('"lora_target": [', '"lora_target": '),
        ('"optimizer": "lion"', '"optimizer": "lion'),
        ('"init_lora": ', '"init_lora": ['),
        ("0.1\n  }", "0.1\n  "),
    ],
)
def test_what_a_slip_leaves_unsure_is_not_judged(place: Path, written: str, slip: str) -> None:
    config, data = PAIRS["small"].text()
    assert config.count(written) == 1
    assert len(checked(place, config.replace(written, slip), data)) == 1


@pytest.mark.fault
@pytest.mark.parametrize("name", ["small", "style"])
def test_every_slip(place: Path, name: str, tally) -> None:
    counts = told(place, name, 4)
    tally("bad inputs: characters changed", counts.total())
    more = sum(number for count, number in counts.items() if count > 1)
    assert more <= 0.005 * counts[1], counts
