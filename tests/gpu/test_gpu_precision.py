"""Every precision on a GPU: values and gradients right at SD3's shapes, training that follows bf16, memory as meant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from torch.nn import functional

from simpletune.models import adapters
from simpletune.models.quantize import PRECISIONS, FrozenLinear, frozen_linear, is_quantized

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

QUANTIZED = [precision for precision in PRECISIONS if is_quantized(precision)]
SIZES = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 6,
    "joint_attention_dim": 512,
    "caption_projection_dim": 384,
    "pooled_projection_dim": 256,
    "out_channels": 16,
    "pos_embed_max_size": 32,
}
STEPS = 50
LOSS_BOUND = {"int8-quanto": 0.02, "fp8-quanto": 0.02, "int4-quanto": 0.05, "int2-quanto": 0.1}
SETTINGS: Any = SimpleNamespace(
    model_family="sd3",
    lora_target="attention",
    lora_rank=16,
    lora_alpha=16.0,
    lora_dropout=0.0,
    lora_init_type="default",
    use_rslora=False,
    use_dora=False,
    lora_type="standard",
    lycoris_config=None,
    init_lora=None,
    seed=42,
)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [(4250, 1536, 1536), (4250, 1536, 6144), (4250, 6144, 1536), (4, 1536, 9216)],
)
def test_forward_and_backward_equal_fp32_at_real_shapes(precision, dtype, rows, in_features, out_features) -> None:
    torch.manual_seed(0)
    weight = torch.randn(out_features, in_features, device="cuda") * 0.03
    layer = frozen_linear(weight, torch.randn(out_features, device="cuda"), precision, dtype)
    x = torch.randn(rows, in_features, device="cuda", dtype=dtype, requires_grad=True)
    grad = torch.randn(rows, out_features, device="cuda", dtype=dtype)
    exact, x_exact = layer.dequantized().float(), x.detach().float().requires_grad_()
    reference = functional.linear(x_exact, exact, layer.bias.float())
    (reference_grad,) = torch.autograd.grad(reference, x_exact, grad.float())
    with torch.autocast("cuda", torch.bfloat16):
        got = layer(x)
        (got_grad,) = torch.autograd.grad(got, x, grad)
    for value, expected in ((got, reference), (got_grad, reference_grad)):
        assert value.dtype == dtype
        assert (value.float() - expected).norm() < 4e-3 * expected.norm()


@pytest.mark.parametrize("precision", QUANTIZED)
def test_values_are_the_same_as_on_the_host(precision) -> None:
    weight = torch.randn(1536, 1536) * 0.03
    host = frozen_linear(weight, None, precision, torch.bfloat16)
    device = frozen_linear(weight.cuda(), None, precision, torch.bfloat16)
    # Not device.weight.dequantize(): quanto compiles a CUDA extension for minutes to unpack 4 and 2 bits.
    ours = device.dequantized()
    assert torch.allclose(host.to("cuda").dequantized(), ours, atol=float(device.scale.max()) * 1.01)
    assert type(device.weight).__name__ in {"WeightQBytesTensor", "WeightQBitsTensor"}


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_input_is_not_kept_for_backward(precision) -> None:
    layer = frozen_linear(torch.randn(1536, 1536, device="cuda"), None, precision, torch.bfloat16)
    layer(torch.randn(16, 1536, device="cuda", dtype=torch.bfloat16, requires_grad=True))  # cuBLAS takes its workspace
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    x = torch.randn(16384, 1536, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    y = layer(x * 1)
    held = torch.cuda.memory_allocated() - before - 2 * x.numel() * x.element_size()
    assert held < 1 << 20, f"{held / 2**20:.1f} MiB beside input and output"
    assert y.requires_grad


@pytest.fixture(scope="module")
def base_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.04)
    return model.state_dict()


@pytest.fixture(scope="module")
def bf16_losses(base_state) -> list[float]:
    return _train(base_state, "no_change", checkpointing=False)


def _model(base_state, precision: str, checkpointing: bool) -> SD3Transformer2DModel:
    model = SD3Transformer2DModel(**SIZES)
    model.load_state_dict(base_state)
    model = model.to("cuda", torch.bfloat16)
    if is_quantized(precision):
        for name, child in list(model.transformer_blocks.named_modules()):
            if isinstance(child, nn.Linear):
                parent, _, leaf = name.rpartition(".")
                frozen = frozen_linear(child.weight, child.bias, precision, torch.bfloat16, name=name)
                setattr(model.transformer_blocks.get_submodule(parent), leaf, frozen)
    adapters.attach_lora(model, SETTINGS)
    if checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def _predict(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs, return_dict=False)[0]


def _inputs(step: int, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(step % 5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    return {
        "hidden_states": normal(batch, 16, 32, 32),
        "timestep": torch.rand(batch, generator=generator, device="cuda") * 1000,
        "encoder_hidden_states": normal(batch, 77, 512),
        "pooled_projections": normal(batch, 256),
    }


def _train(base_state, precision: str, checkpointing: bool) -> list[float]:
    """The losses of STEPS steps towards a target that a LoRA can approach: the picture itself."""
    model = _model(base_state, precision, checkpointing)
    parameters = [parameter for _, parameter in adapters.trainable_parameters(model)]
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for step in range(STEPS):
        inputs = _inputs(step)
        out = _predict(model, inputs)
        assert out.dtype == torch.bfloat16
        loss = (out.float() - inputs["hidden_states"].float()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    assert isinstance(model.transformer_blocks[0].attn.to_q.get_base_layer(), FrozenLinear) == is_quantized(precision)
    return torch.stack(losses).tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_follows_bf16(base_state, bf16_losses, precision, checkpointing) -> None:
    losses = _train(base_state, precision, checkpointing)
    assert all(loss == loss and loss < float("inf") for loss in losses)
    final, expected = sum(losses[-5:]) / 5, sum(bf16_losses[-5:]) / 5
    print(f"{precision} checkpointing={checkpointing}: first {losses[0]:.4f} final {final:.4f}, bf16 {expected:.4f}")
    assert final < sum(losses[:5]) / 5
    assert abs(final - expected) <= LOSS_BOUND.get(precision, 0.01) * expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_step_zero_is_the_base_bit_for_bit(base_state, precision) -> None:
    model = _model(base_state, precision, checkpointing=False).eval()
    with torch.no_grad():
        tuned = _predict(model, _inputs(0))
        with adapters.adapter_enabled(model, False):
            assert torch.equal(tuned, _predict(model, _inputs(0)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_can_be_captured_in_a_graph(base_state, precision) -> None:
    """No host synchronization and no data-dependent code: capture fails on either."""
    model = _model(base_state, precision, checkpointing=False)
    parameters = [parameter for _, parameter in adapters.trainable_parameters(model)]
    inputs = _inputs(0)

    def step() -> torch.Tensor:
        loss = (_predict(model, inputs).float() - inputs["hidden_states"].float()).square().mean()
        loss.backward()
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = None
            expected = step()
    torch.cuda.current_stream().wait_stream(side)
    for parameter in parameters:
        parameter.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    assert torch.allclose(captured, expected, rtol=1e-3)
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated:DeprecationWarning")  # inductor's own import
@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_compiled_block_agrees_with_the_eager_one(base_state, precision) -> None:
    model = _model(base_state, precision, checkpointing=False)
    eager = _predict(model, _inputs(1))
    compiled = torch.compile(model.transformer_blocks[0], fullgraph=True)
    model.transformer_blocks[0] = compiled
    got = _predict(model, _inputs(1))
    got.float().sum().backward()
    cosine = functional.cosine_similarity(got.double().flatten(), eager.double().flatten(), dim=0)
    assert cosine > 0.999
