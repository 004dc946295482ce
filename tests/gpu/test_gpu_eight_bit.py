"""Products in the card's 8-bit units: as on the host, at the sizes of SD3, and in training."""

from __future__ import annotations

import pytest
import torch
from test_gpu_execution import STEPS, Made
from torch.nn import functional

from simpletune.models.eight_bit import KINDS, Rows, feed_forward, product, quantize_rows
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "features", "hidden"), [(4096, 1536, 6144), (1000, 160, 640), (77, 96, 160)])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_lies_between_two_layers_is_rounded_as_if_it_had_been_written_down(
    kind: str, rows: int, features: int, hidden: int, compiled: bool
) -> None:
    """GELU's kernels against the formulas in float32, whose steps are rounded to 8 bits at the same places."""
    torch.manual_seed(0)
    x = torch.randn(rows, features, device="cuda", dtype=torch.bfloat16).requires_grad_()
    sizes = ((hidden, features), (features, hidden))
    data, scales = zip(*(quantize_rows(torch.randn(*size, device="cuda"), kind) for size in sizes), strict=True)
    biases = [torch.randn(size[0], device="cuda", dtype=torch.bfloat16) for size in sizes]
    towards = torch.randn(rows, features, device="cuda", dtype=torch.bfloat16)
    layers = [Rows(*parts) for parts in zip(data, scales, biases, strict=True)]
    function = torch.compile(feed_forward, fullgraph=True) if compiled else feed_forward
    y = function(x, layers[0], layers[1], kind)
    (grad,) = torch.autograd.grad(y, x, towards)

    def rounded(numbers: torch.Tensor) -> torch.Tensor:
        q, s = quantize_rows(numbers, kind)
        return q.float() * s[:, None]

    weights = [q.float() * s[:, None] for q, s in zip(data, scales, strict=True)]
    h = functional.linear(rounded(x.detach()), weights[0]).bfloat16().float() + biases[0].float()
    expected = functional.linear(rounded(functional.gelu(h, approximate="tanh")), weights[1], biases[1].float())
    fed = (rounded(towards.float() * scales[1]) @ data[1].float()).bfloat16().float()
    slope = torch.ops.aten.gelu_backward(fed, h, approximate="tanh")
    expected_grad = rounded(slope * scales[0]) @ data[0].float()
    # Where a sum is rounded otherwise the next 8 bits may be others; fp8's sums are in fewer bits (`use_fast_accum`).
    bound = {"int8": 0.01, "fp8": 0.02}[kind]
    for found, wanted in ((y, expected), (grad, expected_grad)):
        assert found.dtype is torch.bfloat16
        assert float((found.float() - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_rounded_away(kind: str, wrong: float) -> None:
    """In its own row of the results, and of the gradients; the other rows don't see it."""
    h = torch.randn(64, 640, device="cuda", dtype=torch.bfloat16)
    h[3, 5] = wrong
    grad, factors = torch.randn_like(h), torch.rand(640, device="cuda")
    for rows, scale in (
        torch.ops.simpletune.gelu_rows(h, None, kind),
        torch.ops.simpletune.gelu_backward_rows(h, torch.randn_like(h), None, factors, kind),
        torch.ops.simpletune.gelu_backward_rows(
            grad.index_fill(0, torch.tensor(3, device="cuda"), wrong), grad, None, factors, kind
        ),
    ):
        back = rows.float() * scale[:, None]
        assert not torch.isfinite(back[3]).all()
        assert torch.isfinite(torch.cat([back[:3], back[4:]])).all()


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
