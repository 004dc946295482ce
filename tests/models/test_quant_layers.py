"""The frozen linear layer: quanto's values, our arithmetic, nothing kept but the quantized weight."""

from __future__ import annotations

import copy
import weakref

import optimum.quanto as quanto
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from simpletune.errors import ConfigError
from simpletune.models.quantize import (
    PRECISIONS,
    FrozenLinear,
    all_but,
    assert_all_quantized,
    frozen_linear,
    is_quantized,
    quantized_layer_report,
)

QUANTIZED = [precision for precision in PRECISIONS if is_quantized(precision)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
QTYPES = {
    "int8-quanto": quanto.qint8,
    "int4-quanto": quanto.qint4,
    "int2-quanto": quanto.qint2,
    "fp8-quanto": quanto.qfloat8_e4m3fn,
}


def _layer(precision: str, out_features: int, in_features: int, dtype=torch.float32, seed=0) -> FrozenLinear:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) * 0.1
    return frozen_linear(weight, torch.randn(out_features, generator=generator), precision, dtype)


def assert_same_weight(layer: FrozenLinear, theirs: torch.Tensor) -> None:
    """Bit for bit in 8 bits. In 4 and 2 quanto rounds twice, we once: no further apart than its two roundings."""
    if layer.shift is None:
        assert torch.equal(layer.dequantized(), theirs)
        return
    largest = (layer.scale.abs() * (2**layer.bits - 1) + layer.shift.abs()).max().float()
    assert (layer.dequantized().float() - theirs.float()).abs().max() <= torch.finfo(layer.scale.dtype).eps * largest


@settings(max_examples=60, deadline=None)
@given(
    precision=st.sampled_from(QUANTIZED),
    dtype=st.sampled_from(DTYPES),
    out_features=st.integers(1, 40),
    in_features=st.one_of(st.integers(1, 140), st.sampled_from([144, 192, 256, 288, 320, 384])),
    seed=st.integers(0, 9),
)
def test_dequantizes_as_quanto_does(precision, dtype, out_features, in_features, seed) -> None:
    layer = _layer(precision, out_features, in_features, dtype, seed)
    assert_same_weight(layer, layer.weight.dequantize())
    assert (layer.weight.dtype, layer.weight.shape) == (dtype, (out_features, in_features))


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out_features", "in_features"), [(8, 64), (16, 192), (24, 256), (5, 144)])
def test_values_are_those_of_quantos_own_linear_module(precision, dtype, out_features, in_features) -> None:
    linear = nn.Linear(in_features, out_features).to(dtype)
    layer = frozen_linear(linear.weight, linear.bias, precision, dtype)
    module = quanto.QLinear.from_module(linear, weights=QTYPES[precision])
    scale, shift = module.optimizer(linear.weight, qtype=QTYPES[precision], axis=0), None
    if QTYPES[precision].bits < 8:
        group = module.weight_group_size
        scale, shift = module.optimizer(linear.weight, qtype=QTYPES[precision], axis=0, group_size=group)
    theirs = quanto.quantize_weight(
        linear.weight,
        qtype=QTYPES[precision],
        axis=0,
        scale=scale,
        shift=shift,
        group_size=module.weight_group_size,
        optimized=False,
    )
    assert_same_weight(layer, theirs.dequantize())


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_features", [36, 100, 64, 256])
def test_output_and_input_gradient_are_those_of_the_dequantized_weight(precision, dtype, in_features) -> None:
    layer = _layer(precision, 24, in_features, dtype)
    x = torch.randn(2, 7, in_features, dtype=dtype, requires_grad=True)
    expected = functional.linear(x, layer.dequantized(), layer.bias)
    grad = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    got = layer(x)
    assert torch.equal(got, expected)
    assert torch.equal(torch.autograd.grad(got, x, grad)[0], expected_grad)


def test_the_error_is_what_the_bits_allow() -> None:
    weight = torch.randn(64, 256)
    errors = [
        (frozen_linear(weight, None, precision, torch.float32).dequantized() - weight).norm() / weight.norm()
        for precision in ("int8-quanto", "fp8-quanto", "int4-quanto", "int2-quanto")
    ]
    assert errors == sorted(errors)
    assert all(error < bound for error, bound in zip(errors, (0.01, 0.04, 0.12, 0.6), strict=True))


@pytest.mark.parametrize("precision", QUANTIZED)
def test_constant_and_zero_rows_stay_exact(precision: str) -> None:
    weight = torch.randn(4, 64)
    weight[0], weight[1] = 0, 0.5
    dequantized = frozen_linear(weight, None, precision, torch.bfloat16).dequantized()
    assert torch.equal(dequantized[0], torch.zeros(64, dtype=torch.bfloat16))
    assert torch.allclose(dequantized[1].float(), torch.full((64,), 0.5), rtol=0.01)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_changes_nothing_and_the_gradient_has_the_inputs_dtype(precision, dtype) -> None:
    layer = _layer(precision, 16, 64, dtype)
    x = torch.randn(3, 64, requires_grad=True)
    plain = layer(x)
    (plain_grad,) = torch.autograd.grad(plain.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(x)
        (cast_grad,) = torch.autograd.grad(cast.sum(), x)
    assert cast.dtype == dtype
    assert cast_grad.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert torch.equal(cast_grad, plain_grad)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_only_the_quantized_weight_is_saved_for_backward(precision: str) -> None:
    layer = _layer(precision, 32, 256)
    saved: list[torch.Tensor] = []
    x = torch.randn(5, 256, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    own = {buffer.data_ptr() for buffer in layer.buffers()}
    assert saved
    assert {tensor.data_ptr() for tensor in saved} <= own
    inner = x * 1
    alive = weakref.ref(inner)
    held = layer(inner)
    del inner
    assert alive() is None
    assert held.requires_grad


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("reentrant", [True, False])
def test_used_twice_under_checkpointing_it_gives_the_same_gradient(precision: str, reentrant: bool) -> None:
    layer = _layer(precision, 64, 64)
    x = torch.randn(3, 64, requires_grad=True)

    def twice(value: torch.Tensor) -> torch.Tensor:
        return layer(torch.tanh(layer(value)))

    (expected,) = torch.autograd.grad(twice(x).sum(), x)
    checkpoint(twice, x, use_reentrant=reentrant).sum().backward()
    assert torch.equal(x.grad, expected)


def test_no_change_of_dtype_touches_it_but_moving_and_copying_work() -> None:
    for precision in QUANTIZED:
        layer = _layer(precision, 16, 64, torch.bfloat16)
        before = {name: buffer.clone() for name, buffer in layer.state_dict().items()}
        moved = copy.deepcopy(nn.Sequential(layer)).to(torch.float32).half().to(device="cpu", dtype=torch.float64)
        after = moved[0].state_dict()
        assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}
        assert all(torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)
        assert moved.to("meta")[0].data.is_meta
        again = _layer(precision, 16, 64, torch.bfloat16, seed=1)
        again.load_state_dict(before)
        assert torch.equal(again.dequantized(), layer.dequantized())


def test_it_has_no_parameters_and_is_a_linear() -> None:
    layer = _layer("int8-quanto", 16, 64)
    assert isinstance(layer, nn.Linear)
    assert list(layer.parameters()) == []
    assert "int8-quanto" in repr(layer)
    assert frozen_linear(torch.randn(4, 4), None, "int8-quanto", torch.float32).bias is None


def test_memory_is_what_the_bits_say() -> None:
    model = nn.Sequential(*(_layer(precision, 256, 1024, torch.bfloat16) for precision in QUANTIZED), nn.Linear(2, 2))
    report = quantized_layer_report(model)
    values, rows, groups = 256 * 1024, 256 * 2, 256 * 1024 // 128 * 4
    eight, bias = values + rows, 256 * 2
    assert report.quantized_bytes == 2 * eight + values // 2 + values // 4 + 2 * groups + 4 * bias
    assert report.unquantized == ("4",)
    assert report.total_bytes == report.quantized_bytes + 24


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(precision: str, bad: float) -> None:
    weight = torch.randn(8, 64)
    weight[3, 5] = bad
    with pytest.raises(ConfigError, match=r"text_encoder_3_precision: block\.wo \(8 x 64\)") as caught:
        frozen_linear(weight, None, precision, torch.float16, name="block.wo", key="text_encoder_3_precision")
    assert "no_change" in (caught.value.hint or "")


def test_an_unknown_precision_and_a_layer_left_out_are_errors() -> None:
    with pytest.raises(ConfigError, match="unknown precision 'int3'"):
        is_quantized("int3")
    with pytest.raises(ConfigError, match="not a quantized precision"):
        frozen_linear(torch.randn(4, 4), None, "no_change", torch.float32)
    model = nn.Sequential(_layer("int8-quanto", 4, 4), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="1 should be quantized"):
        assert_all_quantized(model, all_but("0"))
    assert_all_quantized(model, all_but("1"))


# dynamo itself instantiates the function it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_into_one_graph() -> None:
    model = nn.Sequential(*(_layer(precision, 64, 64) for precision in QUANTIZED))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 64, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    (got,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.equal(got, expected)
