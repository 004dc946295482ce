"""Products in 8 bits: as close to those in full precision as the rounding allows, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from simpletune.models.adapters import attach_factors
from simpletune.models.eight_bit import KINDS, eight_bit_rows, product, quantize_rows
from simpletune.models.lora_file import Factors
from simpletune.models.projection import feed_forward, group_of, in_eight_bits, project
from simpletune.models.quantize import frozen_linear

ROUNDING = {"int8": 0.03, "fp8": 0.12}  # relative, of normal numbers on both sides


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "fp8-quanto", "int4-quanto"])
def test_values_and_gradients_are_those_of_the_layer(kind: str, precision: str) -> None:
    """Also where rows and columns differ in size by a lot: each has a scale of its own."""
    layer = nn.Linear(256, 128)
    layer.weight.data.copy_(normal(128, 256, seed=1) * torch.logspace(-3, 1, 128)[:, None])
    if precision != "no_change":
        layer = frozen_linear(layer.weight, layer.bias, precision, torch.float32)
    group = in_eight_bits(group_of(layer), kind)
    assert group.kind == kind
    x = (normal(2, 40, 256, seed=2) * torch.logspace(-2, 2, 40)[:, None]).requires_grad_()
    towards = normal(2, 40, 128, seed=3) / torch.logspace(-3, 1, 128)
    (y,) = project(x, group, joined=True)
    (grad,) = torch.autograd.grad((y * towards).sum(), x)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    expected = functional.linear(x.detach(), weight.dequantize() if precision != "no_change" else weight, bias)
    expected_grad = towards @ (weight.dequantize() if precision != "no_change" else weight)
    for found, wanted in ((y.detach(), expected), (grad, expected_grad)):
        worst = max(distance(a, b) for a, b in zip(found.flatten(0, 1), wanted.flatten(0, 1), strict=True))
        assert 0 < worst < ROUNDING[kind]
    assert max(distance(y[..., o].detach(), expected[..., o]) for o in range(128)) < ROUNDING[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_feed_forward_network_is_two_products_with_gelu_between_them(
    kind: str, precision: str, has_bias: bool
) -> None:
    """In float32 their numbers are the same but for where a sum's rounding decides which 8 bits come next."""
    layers = []
    for number, (outputs, inputs) in enumerate([(256, 64), (96, 256)]):
        layer = nn.Linear(inputs, outputs, bias=has_bias)
        layer.weight.data.copy_(normal(outputs, inputs, seed=number) * torch.logspace(-2, 0, outputs)[:, None])
        if has_bias:
            layer.bias.data.copy_(normal(outputs, seed=number + 5))
        if precision != "no_change":
            layer = frozen_linear(layer.weight, layer.bias, precision, torch.float32)
        layers.append(layer)
    groups = tuple(in_eight_bits(group_of(layer), kind) for layer in layers)
    x = (normal(2, 40, 64, seed=2) * torch.logspace(-1, 1, 40)[:, None]).requires_grad_()
    towards = normal(2, 40, 96, seed=3)
    (hidden,) = project(x, groups[0], joined=True)
    (expected,) = project(functional.gelu(hidden, approximate="tanh"), groups[1], joined=True)
    found = feed_forward(x, (groups[0], groups[1]), joined=True)
    assert found.shape == (2, 40, 96)
    assert distance(found.detach(), expected.detach()) < 5e-3
    one, other = (torch.autograd.grad((y * towards).sum(), x)[0] for y in (found, expected))
    assert distance(one, other) < 5e-3


def test_one_graph_serves_any_number_of_rows() -> None:
    """Where a size was a constant, each size of picture would be compiled anew."""

    def both(h: torch.Tensor, grad: torch.Tensor, factors: torch.Tensor) -> list[torch.Tensor]:
        operations = torch.ops.simpletune
        forward, backward = operations.gelu_rows, operations.gelu_backward_rows
        found = [*forward(h, None, "int8"), *backward(grad, h, None, factors, "fp8")]
        sizes.extend(one.shape[0] for one in found)
        return found

    sizes: list[object] = []
    make_fx(both, tracing_mode="symbolic")(normal(40, 64), normal(40, 64), normal(64))
    assert len(sizes) == 4
    for size in sizes:
        assert isinstance(size, torch.SymInt)
        assert size.node.maybe_as_int() is None


@pytest.mark.parametrize("with_lora", [0, 1])
def test_where_one_feed_forward_layer_has_a_lora_the_other_is_in_8_bits(with_lora: int) -> None:
    """And what comes out is near what 16 bits give."""
    network = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64)).requires_grad_(False)
    for number, parameter in enumerate(network.parameters()):
        parameter.copy_(normal(*parameter.shape, seed=number) / 8)
    outputs, inputs = network[with_lora].weight.shape
    factors = Factors(normal(4, inputs, seed=7) / 8, normal(outputs, 4, seed=8) / 8)
    attach_factors(network, {str(with_lora): factors})
    groups = tuple(group_of(layer) for layer in network)
    mixed = tuple(in_eight_bits(group, "int8") for group in groups)
    assert [group.kind for group in mixed] == [None if number == with_lora else "int8" for number in range(2)]
    x = normal(40, 64)
    expected = feed_forward(x, (groups[0], groups[1]), joined=True)
    found = feed_forward(x, (mixed[0], mixed[1]), joined=True)
    assert 0 < distance(found.detach(), expected.detach()) < ROUNDING["int8"]


def test_a_weight_of_the_kind_is_taken_as_it_is() -> None:
    for precision, kind in (("int8-quanto", "int8"), ("fp8-quanto", "fp8")):
        layer = frozen_linear(normal(128, 128), None, precision, torch.bfloat16)
        data, scale = eight_bit_rows(layer.data, layer.scale, None, kind)
        assert data.data_ptr() == layer.data.data_ptr()
        assert torch.equal(data.float() * scale[:, None], layer.data.float() * layer.scale.float())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_of_huge_numbers_stay_finite(kind: str) -> None:
    x = torch.stack([torch.zeros(128), torch.full((128,), 3e38), normal(128) * 1e-30]).requires_grad_()
    data, scale = quantize_rows(x.detach(), kind)
    back = data.float() * scale[:, None]
    assert torch.equal(back[0], torch.zeros(128))
    assert distance(back[1], x[1].detach()) < 1e-3
    y = product(x, *quantize_rows(normal(128, 128), kind), None, kind)
    assert torch.equal(y[0], torch.zeros(128))


def test_what_has_a_lora_or_no_aligned_size_stays_in_16_bits() -> None:
    assert in_eight_bits(group_of(nn.Linear(80, 128)), "int8").kind is None
    assert in_eight_bits(group_of(nn.Linear(128, 128), nn.Linear(128, 128)), "int8").kind is None
    assert in_eight_bits(group_of(nn.Linear(128, 128)), None).kind is None
