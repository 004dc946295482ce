"""Which way pictures are sampled."""

from dataclasses import replace

import pytest

from simpletune.machine.execution import Known, Way
from simpletune.machine.sampling import COMPILING, SAVED, passes, sampling_way

FEW, MANY = passes(4, 28, 5.0), passes(1000, 28, 5.0)
CARD = Known("cuda", (9, 0), True, "bf16", "int8-quanto", as_modules=False, blocks=24, passes=FEW)


@pytest.mark.parametrize(
    ("wanted", "changes", "expected"),
    [
        ("auto", {}, Way(captured=True, compiled=False)),
        ("auto", {"passes": MANY}, Way(captured=True, compiled=True)),
        ("graph", {"passes": MANY}, Way(captured=True, compiled=True)),
        ("compile", {"passes": MANY}, Way(captured=False, compiled=True)),
        ("compile", {}, Way(captured=False, compiled=False)),
        ("eager", {"passes": MANY}, Way(captured=False, compiled=False)),
        ("auto", {"passes": MANY, "can_compile": False}, Way(captured=True, compiled=False)),
        ("auto", {"passes": MANY, "capability": (6, 1)}, Way(captured=True, compiled=False)),
        ("auto", {"passes": MANY, "mixed_precision": "fp16"}, Way(captured=True, compiled=True)),
        ("graph", {"passes": MANY, "device": "cpu"}, Way(captured=False, compiled=False)),
        ("auto", {"passes": MANY, "device": "mps"}, Way(captured=False, compiled=False)),
    ],
)
def test_way(wanted, changes, expected):
    assert sampling_way(wanted, replace(CARD, **changes)) == expected


def test_it_compiles_from_the_pass_on_that_pays_for_it():
    least = int(COMPILING / SAVED / CARD.blocks)
    assert [sampling_way("auto", replace(CARD, passes=least + more)).compiled for more in (0, 1)] == [False, True]


def test_without_guidance_a_picture_is_half_the_work():
    assert passes(3, 10, 1.0) == passes(3, 10, 1.1) / 2 == 30
