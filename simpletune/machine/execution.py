"""Which way a training step will run, for estimates: as far as it can be known without torch.

`trainer/execution.py` is the other half, which decides; this repeats its rules for what a plan knows and shares its
figures. tests/trainer/test_execution_expected.py holds the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

# Measured on an H100 with SD3-Medium at 1024x1024, batch 1 (docs/performance.md). A pass is the forward and backward of
# one micro batch.
COMPILING = 35.0
"""Seconds until the first compiled pass when nothing is kept."""
SAVED_IN_GRAPH = 0.0012
"""Seconds a block and pass that compiled kernels save beside eager ones in a CUDA graph."""
SAVED_ALONE = 0.0040
"""The same without a CUDA graph."""

OLDEST_TRITON = (7, 0)
"""The oldest compute capability that torch.compile writes kernels for."""
FIRST_FP8 = (8, 9)
"""The first one for which Triton converts float8 e4m3."""
FIRST_BF16 = (8, 0)
"""The first one that computes in bf16 itself."""
EIGHT_BIT = {"int8": (8, 0), "fp8": (8, 9)}
"""The oldest one that has products of each kind of 8 bits; for values of "base_model_matmul"."""


@dataclass(frozen=True)
class Way:
    """captured: micro batches run in CUDA graphs. compiled: the transformer's blocks are."""

    captured: bool
    compiled: bool

    def __str__(self) -> str:
        """How the reason of `trainer.execution.Execution` begins."""
        if self.captured:
            return "graph over compiled blocks" if self.compiled else "graph over eager kernels"
        return "compile" if self.compiled else "eager"


@dataclass(frozen=True)
class Known:
    """What is known of a run before it starts.

    device: what the key "device" says; "auto" is taken for a CUDA card. capability: the card's, None where it isn't
    known; a recent one is assumed then. can_compile: nothing that torch.compile needs is missing. as_modules: only the
    modules themselves can compute the model, with this LoRA. blocks: of the transformer. passes: of the whole run.
    matmul: what the key "base_model_matmul" says.
    """

    device: str
    capability: tuple[int, int] | None
    can_compile: bool
    mixed_precision: str
    base_model_precision: str
    as_modules: bool
    blocks: int
    passes: int
    matmul: str = "auto"


def expected_way(wanted: str, known: Known) -> Way:
    """How the step will run for a value of "execution", if no earlier run has kept compiled code."""
    on_card = known.device in ("auto", "cuda")
    if wanted == "eager" or (wanted == "auto" and not on_card):
        return Way(captured=False, compiled=False)
    captured = on_card and known.mixed_precision != "fp16" and wanted != "compile"
    compiled = _can_be_compiled(known) and not known.as_modules
    if wanted == "auto" and known.matmul not in EIGHT_BIT:
        compiled = compiled and _is_worthwhile(known, in_graph=captured)
    return Way(captured, compiled)


def _can_be_compiled(known: Known) -> bool:
    capability = known.capability
    if not known.can_compile or capability is None:
        return known.can_compile
    if capability < OLDEST_TRITON or (known.mixed_precision == "bf16" and capability < FIRST_BF16):
        return False
    return known.base_model_precision != "fp8-quanto" or capability >= FIRST_FP8


def _is_worthwhile(known: Known, *, in_graph: bool) -> bool:
    return known.passes * known.blocks * (SAVED_IN_GRAPH if in_graph else SAVED_ALONE) > COMPILING
