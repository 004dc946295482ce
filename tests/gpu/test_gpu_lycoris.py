"""Each kind of adapter on each base precision, on a GPU: compiled and captured, as plain PyTorch calls have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_gpu_execution import Made

from simpletune.models.quantize import PRECISIONS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
pytestmark.append(pytest.mark.filterwarnings("ignore"))

_TARGETS = {"target_module": ["Attention", "FeedForward"]}


def _lycoris(algo: str, **keys: Any) -> dict[str, Any]:
    value = {"algo": algo, "multiplier": 1.0, "linear_dim": 8, "linear_alpha": 8, "apply_preset": _TARGETS, **keys}
    return {"lora_type": "lycoris", "lycoris_config": value}


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "lora_target": "blocks"},
    "locon": _lycoris("locon"),
    "loha": _lycoris("loha"),
    "lokr": _lycoris("lokr", factor=8),
    "lokr-whole": _lycoris("lokr", factor=16, linear_dim=10000, linear_alpha=1),
    "lokr-both": _lycoris("lokr", linear_dim=2, decompose_both=True),
}
STEPS = 8


def _distance(a: torch.Tensor, b: torch.Tensor, start: torch.Tensor) -> float:
    """Of two sets of weights, by how far the first has moved."""
    return float((a - b).norm() / (a - start).norm())


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "int2-quanto"])
@pytest.mark.parametrize("kind", KINDS)
def test_captured_steps_are_the_eager_ones(kind, precision) -> None:
    """CUDA graphs over eager kernels: the same numbers, bit for bit, but for the rounding of atomic sums."""
    eager, captured = Made("eager", precision, **KINDS[kind]), Made("graph-eager", precision, **KINDS[kind])
    losses = eager.train(0, STEPS), captured.train(0, STEPS)
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=2e-3, atol=0)
    assert captured.said == []


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto", "fp8-quanto"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_learn_what_eager_ones_do(kind, precision, checkpointing) -> None:
    if precision == "fp8-quanto" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("compiled fp8 needs 8.9")
    if checkpointing and precision != "int8-quanto":
        pytest.skip("one precision is enough to see that blocks are recomputed")
    keys = {**KINDS[kind], "gradient_checkpointing": checkpointing}
    eager, compiled = Made("eager", precision, **keys), Made("graph", precision, **keys)
    start = eager.weights().clone()
    assert torch.equal(start, compiled.weights())
    losses = eager.train(0, STEPS), compiled.train(0, STEPS)
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=2e-2, atol=0)
    assert _distance(eager.weights(), compiled.weights(), start) < 0.35
    assert compiled.said == []


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_blocks_learn_what_others_do(kind) -> None:
    here = Made("graph", "int8-quanto", gradient_checkpointing=True, **KINDS[kind])
    away = Made("graph", "int8-quanto", gradient_checkpointing=True, base_model_offload=3, **KINDS[kind])
    losses = here.train(0, STEPS), away.train(0, STEPS)
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=5e-3, atol=0)


@pytest.mark.parametrize("kind", ["loha", "dora"])
def test_no_whole_matrix_is_kept_for_the_backward_pass(kind) -> None:
    """At sizes where it would show: LoHa's matrices are as large as the frozen weights, in 16 bits."""
    sizes = {"attention_head_dim": 64, "num_attention_heads": 24, "caption_projection_dim": 1536, "num_layers": 4}
    made = Made("compile", "int8-quanto", sizes=sizes, **{**KINDS[kind], "gradient_checkpointing": False})
    made.train(0, 2)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made.train(2, 4)
    peak = torch.cuda.max_memory_allocated() - before
    matrices = sum(
        2 * module.base().out_features * module.base().in_features
        for module in made.model.modules()
        if hasattr(module, "base") and hasattr(module, "is_on")
    )
    print(f"{kind}: peak {peak / 2**20:.0f} MiB over what is there, matrices {matrices / 2**20:.0f} MiB")
    assert peak < matrices
