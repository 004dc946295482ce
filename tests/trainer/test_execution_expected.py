"""What an estimate expects of the step is what the trainer chooses: the two modules named execution agree."""

from itertools import product

import pytest

from simpletune.errors import SimpletuneError
from simpletune.machine.execution import FIRST_BF16, Known, expected_way
from simpletune.machine.toolchain import Gap
from simpletune.trainer.execution import Facts, choose

CARDS = ((6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
DEVICES = (("cpu", None), ("mps", None), *(("cuda", card) for card in CARDS))
PRECISIONS = tuple(product(("bf16", "fp16", "no"), ("no_change", "int8-quanto", "fp8-quanto")))
PASSES = (0, 100, 365, 366, 1215, 1216, 5000)


@pytest.mark.parametrize("wanted", ["auto", "eager", "compile", "graph"])
@pytest.mark.parametrize("can_compile", [True, False])
def test_what_is_expected_is_what_is_chosen(wanted, can_compile):
    compared = 0
    everything = product(DEVICES, PRECISIONS, PASSES, (24, 38), ("auto", "bf16", "int8", "fp8"))
    for (device, capability), (mixed, base), passes, blocks, matmul in everything:
        known = Known(device, capability, can_compile, mixed, base, False, blocks, passes, matmul)
        try:
            chosen = choose(wanted, facts_of(known))
        except SimpletuneError:
            continue
        compared += 1
        expected = expected_way(wanted, known)
        assert (expected.captured, expected.compiled) == (chosen.captured, chosen.compiled), known
        assert chosen.reason.startswith(str(expected))
    assert compared > 100 or (wanted, can_compile) == ("compile", False)


def test_a_card_that_is_not_known_is_taken_for_a_recent_one():
    known = Known("cuda", (9, 0), True, "bf16", "fp8-quanto", as_modules=False, blocks=24, passes=5000)
    for unknown in ("auto", "cuda"):
        seen = Known(unknown, None, True, "bf16", "fp8-quanto", as_modules=False, blocks=24, passes=5000)
        assert expected_way("auto", seen) == expected_way("auto", known)


def facts_of(known: Known) -> Facts:
    """What the trainer would find on such a machine, where no earlier run has kept code."""
    capability, gap = known.capability, None if known.can_compile else Gap("no compiler")
    return Facts(
        device=known.device,
        capability=capability,
        native_bf16=capability is None or capability >= FIRST_BF16,
        gap=gap,
        mixed_precision=known.mixed_precision,
        base_model_precision=known.base_model_precision,
        optimizer="adamw",
        capturable=True,
        blocks=known.blocks,
        passes=known.passes,
        matmul=known.matmul,
    )
