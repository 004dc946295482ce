"""SD3's transformer as pure functions: what diffusers' own modules compute, and the gradients they give."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch._dynamo.utils import counters

from simpletune.models.adapters import adapter_enabled, attach_lora, trainable_parameters
from simpletune.models.family import UnsupportedModel
from simpletune.models.quantize import PRECISIONS, FrozenLinear, frozen_linear, is_quantized
from simpletune.models.sd3 import QUANTIZED
from simpletune.models.sd3_forward import SD3Forward

SIZES = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 32,
    "out_channels": 16,
    "pos_embed_max_size": 32,
}
SD35 = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}


def compiling(test: Any) -> Any:
    """Mark a test that compiles: torch's compiler makes warnings of its own, and hides them in a way pytest undoes."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(test))


def model(
    precision: str = "no_change",
    lora: dict[str, Any] | None = None,
    before_lora: Callable[[nn.Module], None] = lambda _made: None,
    **sizes: Any,
) -> nn.Module:
    """Three blocks with a LoRA that does something."""
    torch.manual_seed(0)
    made = SD3Transformer2DModel(**{**SIZES, **sizes})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    if is_quantized(precision):
        for name, linear in list(made.named_modules()):
            if isinstance(linear, nn.Linear) and QUANTIZED(name, linear):
                parent, _, leaf = name.rpartition(".")
                quantized = frozen_linear(linear.weight, linear.bias, precision, torch.float32)
                setattr(made.get_submodule(parent), leaf, quantized)
    keys = {
        "lora_target": "attention", "lora_rank": 3, "lora_alpha": 6.0, "lora_dropout": 0.0, "use_rslora": False,
        "use_dora": False, "lora_type": "standard", "lycoris_config": None,
        "lora_init_type": "default", "init_lora": None, "model_family": "sd3", "seed": 1,
    }  # fmt: skip
    settings: Any = SimpleNamespace(**{**keys, **(lora or {})})
    before_lora(made)
    attach_lora(made, settings)
    for name, parameter in trainable_parameters(made):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return made.train()


def inputs(count: int = 2, height: int = 16, width: int = 12) -> tuple[Tensor, ...]:
    """Noisy latents, timesteps, text and pooled text."""
    generator = torch.Generator().manual_seed(1)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    return (
        random(count, 16, height, width),
        1000 * torch.rand(count, generator=generator),
        random(count, 7, 64),
        random(count, 32),
    )


def reference(made: nn.Module, given: tuple[Tensor, ...], **more: Any) -> Tensor:
    noisy, timestep, text, pooled = given
    result: Tensor = made(
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        return_dict=False,
        **more,
    )[0]
    return result


def assert_equal(made: nn.Module, forward: SD3Forward, given: tuple[Tensor, ...]) -> None:
    parameters = [parameter for _, parameter in trainable_parameters(made)]
    expected = reference(made, given)
    size = expected.detach().abs().max()
    weight = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), parameters)
    got = forward(*given)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * float(size))
    for ours, theirs in zip(torch.autograd.grad((got * weight).sum(), parameters), gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("sizes", [{}, SD35], ids=["sd3", "sd3.5"])
@pytest.mark.parametrize("checkpointing", [None, 1, 2])
def test_it_equals_diffusers(sizes: dict[str, Any], checkpointing: int | None) -> None:
    made = model(**sizes)
    assert_equal(made, SD3Forward(made, checkpointing, compiled=False), inputs())


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if is_quantized(p)])
def test_it_equals_diffusers_on_a_quantized_base(precision: str) -> None:
    made = model(precision)
    for count in (1, 2):  # AdaLN of one sample is computed in another way
        assert_equal(made, SD3Forward(made, None, compiled=False), inputs(count))


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_target": "blocks"},
        {"lora_target": ["*.attn.to_q", "*.attn.add_v_proj"]},
        {"lora_target": ["transformer_blocks.1.attn.to_k"]},
        {"lora_init_type": "pissa"},
        {"lora_rank": 16, "use_rslora": True},
    ],
    ids=["blocks", "one of q, k, v", "one block", "pissa", "rslora"],
)
def test_it_equals_diffusers_whatever_the_lora_is(lora: dict[str, Any]) -> None:
    made = model(lora=lora)
    assert_equal(made, SD3Forward(made, None, compiled=False), inputs())


def test_blocks_before_the_first_lora_keep_nothing() -> None:
    def kept(target: str) -> int:
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        forward = SD3Forward(model(lora={"lora_target": [target]}), None, compiled=False)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            forward(*inputs())
        return sum(sizes)

    assert kept("transformer_blocks.2.attn.to_q") < kept("*.attn.to_q") / 2


@pytest.mark.parametrize("sizes", [{}, SD35], ids=["sd3", "sd3.5"])
def test_blocks_that_are_skipped_are_left_out(sizes: dict[str, Any]) -> None:
    made = model(**sizes)
    forward = SD3Forward(made, None, compiled=False)
    with torch.no_grad():
        whole = forward(*inputs())
        assert not torch.allclose(forward(*inputs(), skip_layers=[1]), whole, atol=1e-2)
        for skipped in ([1], [0, 2]):
            expected = reference(made, inputs(), skip_layers=skipped)
            assert torch.allclose(forward(*inputs(), skip_layers=skipped), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
def test_an_adapter_that_is_off_is_left_out(precision: str) -> None:
    """Wherever it sits, and whatever it drops: the base can always be computed."""
    made = model(precision, lora={"lora_target": ["*.attn.*", "*.norm1.linear"], "lora_dropout": 0.1})
    with adapter_enabled(made, False), torch.no_grad():
        base = SD3Forward(made, None, compiled=False)
        expected = reference(made, inputs())
    got = base(*inputs())
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, reference(made.eval(), inputs()), atol=1e-2)


def test_without_gradients_nothing_is_recorded() -> None:
    """In evaluation lora_dropout drops nothing, so that a LoRA trained with it can be computed."""
    made = model(lora={"lora_dropout": 0.5}).eval()
    forward = SD3Forward(made, 1, compiled=False)
    with torch.no_grad():
        got = forward(*inputs())
    assert not got.requires_grad
    assert torch.allclose(got, reference(made, inputs()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
def test_the_layers_it_lays_together_stay_what_they_were(precision: str) -> None:
    made = model(precision)
    before = reference(made, inputs())

    def places() -> set[int]:
        block = made.transformer_blocks[0].attn
        bases = [layer.get_base_layer() for layer in (block.to_q, block.to_k, block.to_v)]
        pieces = [base.data if isinstance(base, FrozenLinear) else base.weight for base in bases]
        return {piece.untyped_storage().data_ptr() for piece in pieces}

    SD3Forward(made, None, compiled=False)
    assert torch.equal(reference(made, inputs()), before)
    together = places()
    assert len(together) == 1
    SD3Forward(made, None, compiled=False)
    assert places() == together  # a second one uses the same memory


@pytest.mark.parametrize(
    ("lora", "said"),
    [({"lora_target": ["*.norm1.linear"]}, "outside of attention"), ({"lora_dropout": 0.1}, "lora_dropout")],
)
def test_what_it_cannot_compute_is_refused(lora: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        SD3Forward(model(lora=lora), None, compiled=False)


@compiling
@pytest.mark.parametrize("checkpointing", [None, 1])
def test_compiled_it_computes_the_same(checkpointing: int | None) -> None:
    """The first size is compiled as it is, the second for any."""
    made = model("int8-quanto", **SD35)
    forward = SD3Forward(made, checkpointing, compiled=True)
    for given in (inputs(), inputs(height=24, width=16)):
        assert_equal(made, forward, given)


@compiling
def test_what_was_compiled_serves_the_next_one_too() -> None:
    """Every validation makes one anew, with the adapter and without."""
    made = model("int8-quanto").eval()

    def compiled() -> int:
        with torch.no_grad():
            SD3Forward(made, None, compiled=True)(*inputs())
        return int(counters["stats"]["unique_graphs"])

    assert compiled() == compiled()


@compiling
@pytest.mark.parametrize("precision", ["int4-quanto", "int2-quanto"])
def test_compiled_it_keeps_no_unpacked_weight_for_the_backward_pass(precision: str) -> None:
    made = model(precision)
    frozen = [layer for layer in made.modules() if isinstance(layer, FrozenLinear)]
    weights = {tuple(layer.weight.shape) for layer in frozen} - {tuple(layer.data.shape) for layer in frozen}
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    forward = SD3Forward(made, None, compiled=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(*inputs())
    assert kept
    assert weights.isdisjoint(kept), weights & set(kept)
