"""Products in the card's 8-bit units: as on the host, at the sizes of SD3, and in training."""

from __future__ import annotations

import pytest
import torch
from test_gpu_execution import STEPS, Made
from torch.nn import functional

from simpletune.models.eight_bit import KINDS, product, quantize_rows
from simpletune.models.quantize import PRECISIONS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
# torch's compiler makes warnings of its own, and hides them in a way that pytest undoes.
pytestmark.append(pytest.mark.filterwarnings("ignore"))
if torch.cuda.is_available():
    pytestmark.append(pytest.mark.skipif(torch.cuda.get_device_capability() < (8, 9), reason="needs float8 units"))

LOSS_BOUND = 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "features", "outputs"), [(4096, 1536, 6144), (1000, 6144, 1536), (77, 160, 640)])
@pytest.mark.parametrize("compiled", [False, True])
def test_both_directions_equal_the_sums_of_what_was_rounded(
    kind: str, rows: int, features: int, outputs: int, compiled: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, features, device="cuda", dtype=torch.bfloat16).requires_grad_()
    data, scale = quantize_rows(torch.randn(outputs, features, device="cuda"), kind)
    bias = torch.randn(outputs, device="cuda", dtype=torch.bfloat16)
    towards = torch.randn(rows, outputs, device="cuda", dtype=torch.bfloat16)
    function = torch.compile(product, fullgraph=True) if compiled else product
    y = function(x, data, scale, bias, kind)
    (grad,) = torch.autograd.grad(y, x, towards)
    weight = data.float() * scale[:, None]
    q, s = quantize_rows(x.detach(), kind)
    expected = functional.linear(q.float() * s[:, None], weight, bias.float())
    p, u = quantize_rows(towards.float() * scale, kind)
    expected_grad = (p.float() * u[:, None]) @ data.float()
    for found, wanted in ((y, expected), (grad, expected_grad)):
        assert found.dtype is torch.bfloat16
        assert float((found.float() - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_follows_the_16_bit_losses(precision: str) -> None:
    """A width of 256 is aligned, so the feed-forward layers are in 8 bits: the losses differ, and by little."""
    expected = Made("graph", precision, gradient_checkpointing=True).train(0, STEPS)
    for kind in KINDS:
        made = Made("graph", precision, gradient_checkpointing=True, base_model_matmul=kind)
        losses = made.train(0, STEPS)
        assert losses != expected, kind
        assert losses == pytest.approx(expected, rel=LOSS_BOUND), kind
        assert not made.said
