"""The LoRA: exact at step 0, nothing but the adapter trained, and the saved file means the same to stock diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import save_file
from torch import nn

from simpletune.errors import ConfigError, TrainingFailed
from simpletune.models import adapters
from simpletune.models.adapter_start import lora_targets
from simpletune.models.lora_file import Factors, check_fits, read_adapter
from simpletune.models.lora_init import starting_matrices
from simpletune.models.quantize import PRECISIONS, FrozenLinear, frozen_linear

WIDTH = 192
SIZES = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 64,
    "num_attention_heads": 3,
    "joint_attention_dim": 32,
    "caption_projection_dim": WIDTH,
    "pooled_projection_dim": 24,
    "out_channels": 4,
    "pos_embed_max_size": 8,
    "dual_attention_layers": (0,),
    "qk_norm": "rms_norm",
}


def _settings(**changed: Any) -> Any:
    values = {
        "model_family": "sd3",
        "lora_target": "attention",
        "lora_rank": 4,
        "lora_alpha": 4.0,
        "lora_dropout": 0.0,
        "lora_init_type": "default",
        "use_rslora": False,
        "use_dora": False,
        "lora_type": "standard",
        "lycoris_config": None,
        "init_lora": None,
        "seed": 42,
    }
    return SimpleNamespace(**values | changed)


@pytest.fixture(scope="module")
def base_state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SD3Transformer2DModel(**SIZES)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.06)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _base(state: dict[str, torch.Tensor], dtype=torch.float32, precision="no_change") -> SD3Transformer2DModel:
    model = SD3Transformer2DModel(**SIZES)
    model.load_state_dict(state)
    model = model.to(dtype).eval().requires_grad_(False)
    if precision != "no_change":
        for name, child in list(model.transformer_blocks.named_modules()):
            if isinstance(child, nn.Linear):
                frozen = frozen_linear(child.weight, child.bias, precision, dtype)
                setattr(
                    model.transformer_blocks.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], frozen
                )
    return model


def _run(model: nn.Module, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return model(
        hidden_states=torch.randn(2, 4, 8, 8, generator=generator).to(dtype),
        timestep=torch.tensor([200.0, 700.0]),
        encoder_hidden_states=torch.randn(2, 5, 32, generator=generator).to(dtype),
        pooled_projections=torch.randn(2, 24, generator=generator).to(dtype),
        return_dict=False,
    )[0]


def _train(model: nn.Module, steps: int = 3, dtype=torch.float32, rate: float = 0.02) -> list[float]:
    optimizer = torch.optim.AdamW([parameter for _, parameter in adapters.trainable_parameters(model)], lr=rate)
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(steps):
        loss = (_run(model, dtype).float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("init", ["default", "gaussian"])
def test_step_zero_is_the_base_bit_for_bit(base_state, precision, dtype, init) -> None:
    model = _base(base_state, dtype, precision)
    with torch.no_grad():
        before = _run(model, dtype)
        adapters.attach_lora(model, _settings(lora_init_type=init, lora_target="blocks", lora_alpha=7.0))
        after = _run(model, dtype)
    assert after.dtype == dtype
    assert torch.equal(after, before)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_zero_is_the_base_also_where_the_start_comes_from_it(base_state, init, dtype) -> None:
    model = _base(base_state, dtype)
    with torch.no_grad():
        before = _run(model, dtype)
        adapters.attach_lora(model, _settings(lora_init_type=init))
        after = _run(model, dtype)
    # The two products are the same but for the memory they lie in, which some CPU kernels round by.
    assert (after - before).abs().max() < {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]


@pytest.mark.parametrize("init", ["default", "gaussian", "pissa", "olora"])
def test_training_learns_and_leaves_the_base_as_it_was(base_state, init) -> None:
    model = _base(base_state)
    adapters.attach_lora(model, _settings(lora_init_type=init))
    losses = _train(model, 6, rate=2e-3)
    assert losses[-1] < losses[0]
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in base_state.items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_gradients_are_fp32_on_a_bf16_base_without_autocast(base_state, precision) -> None:
    model = _base(base_state, torch.bfloat16, precision)
    adapters.attach_lora(model, _settings())
    model.enable_gradient_checkpointing()
    model.train()
    losses = _train(model, 4, torch.bfloat16, rate=2e-3)
    assert losses[-1] < losses[0]
    assert {parameter.dtype for _, parameter in adapters.trainable_parameters(model)} == {torch.float32}
    trained = {id(parameter) for _, parameter in adapters.trainable_parameters(model)}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == trained


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("attention", 4 * 3 + 11 + 4),
        ("attention-image", 4 * 3 + 4),
        ("blocks", 4 * 3 + 11 + 4 + 2 * 3 + 2 * 2),
        (("to_q",), 4),
        (("transformer_blocks.1.*",), 14),
        (("attn.to_q", "proj_out"), 4),
        (("*.norm1.linear",), 3),
    ],
)
def test_targets_are_what_the_model_has_of_them(base_state, target, expected) -> None:
    with torch.device("meta"):
        model = SD3Transformer2DModel(**SIZES)
    names = lora_targets(model, _settings(lora_target=target))
    assert len(names) == expected
    info = adapters.attach_lora(_base(base_state), _settings(lora_target=target))
    assert info.targets == names


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_target": ("to_q", "to_quarry")}, '"to_quarry" matches no linear layer'),
        ({"lora_target": "atention"}, '"atention" is not one of attention'),
        ({"lora_target": ("norm_q",)}, "matches no linear layer"),
        ({"lora_init_type": "pissa", "lora_rank": 193}, "allows ranks up to 192"),
        ({"lora_init_type": "olora", "init_lora": Path("x")}, "can't start from init_lora"),
    ],
)
def test_what_cannot_be_done_names_the_key(base_state, changed, message) -> None:
    with pytest.raises(ConfigError, match=message):
        adapters.attach_lora(_base(base_state), _settings(**changed))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_quantized_base_refuses_starts_from_its_weights(base_state, init) -> None:
    with pytest.raises(ConfigError, match=f"lora_init_type: {init} needs the unquantized weights"):
        adapters.attach_lora(_base(base_state, precision="int8-quanto"), _settings(lora_init_type=init))


def test_the_start_depends_on_seed_and_layer_only(base_state) -> None:
    wide, narrow, other = (_base(base_state) for _ in range(3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    adapters.attach_lora(wide, _settings(lora_target="blocks"))
    assert torch.equal(torch.get_rng_state(), before)
    adapters.attach_lora(narrow, _settings(lora_target=("to_q",)))
    adapters.attach_lora(other, _settings(lora_target=("to_q",), seed=43))
    first, second, third = (adapters.lora_state(model) for model in (wide, narrow, other))
    key = "transformer_blocks.1.attn.to_q.lora_A.weight"
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert not torch.equal(second[key], third[key])


def test_default_and_gaussian_have_the_published_spread(base_state) -> None:
    for init, spread in (("default", (1 / WIDTH / 3) ** 0.5), ("gaussian", 1 / 16)):
        model = _base(base_state)
        adapters.attach_lora(model, _settings(lora_init_type=init, lora_rank=16, lora_target=("attn.to_q",)))
        values = adapters.lora_state(model)["transformer_blocks.0.attn.to_q.lora_A.weight"]
        assert values.std().item() == pytest.approx(spread, rel=0.05)


def test_pissa_starts_from_the_principal_part() -> None:
    u, _ = torch.linalg.qr(torch.randn(96, 64))
    v, _ = torch.linalg.qr(torch.randn(64, 64))
    weight = u @ torch.diag(0.8 ** torch.arange(64.0)) @ v.T
    a, b = starting_matrices("pissa", "x", weight, 8, 0.5, seed=0)
    u_exact, s_exact, v_exact = torch.linalg.svd(weight, full_matrices=False)
    expected = u_exact[:, :8] @ torch.diag(s_exact[:8]) @ v_exact[:8]
    assert torch.allclose(0.5 * b @ a, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["default", "pissa"])
def test_switched_off_it_is_the_base_and_keeps_what_is_trained(base_state, name) -> None:
    model = _base(base_state)
    with torch.no_grad():
        expected = _run(model)
    adapters.attach_lora(model, _settings(lora_init_type=name))
    _train(model)
    with torch.no_grad():
        tuned = _run(model)
        with adapters.adapter_enabled(model, False):
            assert torch.equal(_run(model), expected)
        assert torch.equal(_run(model), tuned)
    assert not torch.equal(tuned, expected)
    assert all(parameter.requires_grad for _, parameter in adapters.trainable_parameters(model))


@pytest.mark.parametrize("init", ["default", "olora"])
def test_a_checkpoint_continues_exactly(base_state, init, tmp_path) -> None:
    settings = _settings(lora_init_type=init, lora_alpha=2.0)
    model, again = _base(base_state), _base(base_state)
    adapters.attach_lora(model, settings)
    _train(model)
    state, metadata = adapters.checkpoint_state(model, settings)
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.lora_alpha"] == 2.0
    adapters.attach_lora(again, settings)
    held = [parameter for _, parameter in adapters.trainable_parameters(again)]
    adapters.load_lora_state(again, state)
    assert all(a is b for a, (_, b) in zip(held, adapters.trainable_parameters(again), strict=True))
    with torch.no_grad():
        assert torch.equal(_run(again), _run(model))
    state.pop(next(iter(state)))
    with pytest.raises(TrainingFailed, match=r"lacks transformer_blocks\.0\.attn2?\.to_q\.lora_A"):
        adapters.load_lora_state(again, state)


def test_a_checkpoint_of_another_rank_is_refused(base_state) -> None:
    model, other = _base(base_state), _base(base_state)
    adapters.attach_lora(model, _settings(lora_rank=4))
    adapters.attach_lora(other, _settings(lora_rank=8))
    with pytest.raises(TrainingFailed, match=r"is \[8, 192\], this run's \[4, 192\]"):
        adapters.load_lora_state(model, adapters.lora_state(other))


FILES = [
    {"lora_alpha": 4.0},
    {"lora_alpha": 10.0, "lora_rank": 4},
    {"lora_alpha": 3.0, "use_rslora": True},
    {"lora_target": "attention-image", "lora_alpha": 2.0},
    {"lora_target": "blocks", "lora_init_type": "gaussian", "lora_alpha": 8.0},
    {"lora_target": ("*.1.attn.to_k", "ff.net.2", "norm1_context.linear", "proj_out")},
    {"lora_init_type": "pissa", "lora_alpha": 6.0},
    {"lora_init_type": "olora", "use_rslora": True},
    {"use_dora": True, "lora_alpha": 2.0, "lora_target": "blocks"},
    {"use_dora": True, "lora_init_type": "pissa", "use_rslora": True},
]


def _tuned(base_state, settings, folder: Path) -> tuple[SD3Transformer2DModel, Path]:
    model = _base(base_state)
    adapters.attach_lora(model, settings)
    _train(model)
    state, metadata = adapters.final_state(model, settings)
    save_file(state, folder / "pytorch_lora_weights.safetensors", metadata=metadata)
    return model, folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("changed", FILES, ids=str)
@pytest.mark.parametrize("keep_metadata", [True, False])
def test_stock_diffusers_computes_the_same_with_the_saved_file(base_state, changed, keep_metadata, tmp_path) -> None:
    model, file = _tuned(base_state, _settings(**changed), tmp_path)
    if not keep_metadata:
        from safetensors.torch import load_file

        save_file(load_file(file), file)
    stock = _base(base_state)
    with torch.no_grad():
        plain = _run(stock)
        pipeline = StableDiffusion3Pipeline(
            transformer=stock, scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None,
            tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
        )  # fmt: skip
        pipeline.load_lora_weights(str(tmp_path))
        got, expected = _run(stock), _run(model)
    moved = (expected - plain).abs().max()
    assert moved > 0.01
    assert (got - expected).abs().max() < 1e-4 * moved + 1e-5


def test_a_bf16_pipeline_computes_what_the_trainer_does(base_state, tmp_path) -> None:
    settings = _settings(lora_alpha=4.0)
    model = _base(base_state, torch.bfloat16)
    adapters.attach_lora(model, settings)
    _train(model, dtype=torch.bfloat16)
    state, metadata = adapters.final_state(model, settings)
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", metadata=metadata)
    stock = _base(base_state, torch.bfloat16)
    stock.load_lora_adapter(str(tmp_path), prefix="transformer", use_safetensors=True)
    with torch.no_grad():
        assert torch.equal(_run(stock, torch.bfloat16), _run(model, torch.bfloat16))


def test_a_given_state_is_saved_in_place_of_the_live_one(base_state) -> None:
    settings = _settings()
    model = _base(base_state)
    adapters.attach_lora(model, settings)
    averaged = {name: torch.full_like(tensor, 0.5) for name, tensor in adapters.lora_state(model).items()}
    state, _ = adapters.final_state(model, settings, averaged)
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in state.values())


@pytest.mark.parametrize("keep_metadata", [True, False])
@pytest.mark.parametrize("next_run", [{"lora_alpha": 4.0}, {"lora_alpha": 9.0, "use_rslora": True}], ids=str)
def test_init_lora_continues_where_the_file_ends(base_state, tmp_path, keep_metadata, next_run) -> None:
    trained, file = _tuned(base_state, _settings(lora_alpha=7.0), tmp_path)
    if keep_metadata:  # a checkpoint's file: alpha only in the metadata
        state, metadata = adapters.checkpoint_state(trained, _settings(lora_alpha=7.0))
        save_file(state, file, metadata=metadata)
    model = _base(base_state)
    adapters.attach_lora(model, _settings(init_lora=tmp_path if keep_metadata else file, **next_run))
    with torch.no_grad():
        assert torch.allclose(_run(model), _run(trained), atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_rank": 8}, "has rank 4, not 8"),
        ({"lora_target": "attention-image"}, "which lora_target doesn't train"),
        ({"lora_target": "blocks"}, r"lacks transformer_blocks\.0\.ff\.net\.0\.proj"),
    ],
)
def test_an_init_lora_that_does_not_fit_says_how(base_state, tmp_path, changed, message) -> None:
    _, file = _tuned(base_state, _settings(), tmp_path)
    with pytest.raises(ConfigError, match=message):
        adapters.attach_lora(_base(base_state), _settings(init_lora=file, **changed))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_blocks_0.lora_down.weight": torch.zeros(4, 4)}, "it has lora_unet_blocks_0.lora_down.weight"),
        ({"transformer.a.lora_A.weight": torch.zeros(4, 4)}, "it has a"),
        (None, "can't be read"),
    ],
)
def test_an_init_lora_of_another_layout_is_refused(base_state, tmp_path, tensors, message) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"nothing") if tensors is None else save_file(tensors, file)
    with pytest.raises(ConfigError, match=message):
        adapters.attach_lora(_base(base_state), _settings(init_lora=file))
    with pytest.raises(ConfigError, match="doesn't exist"):
        adapters.attach_lora(_base(base_state), _settings(init_lora=tmp_path / "none.safetensors"))


def test_an_init_lora_of_another_width_is_refused(base_state, tmp_path) -> None:
    names = lora_targets(_base(base_state), _settings())
    tensors = {f"transformer.{name}.lora_A.weight": torch.zeros(4, 64) for name in names}
    tensors |= {f"transformer.{name}.lora_B.weight": torch.zeros(64, 4) for name in names}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="is 64 to 64 wide"):
        adapters.attach_lora(_base(base_state), _settings(init_lora=tmp_path / "x.safetensors"))


def test_dropout_is_active_in_training_only(base_state) -> None:
    model = _base(base_state)
    adapters.attach_lora(model, _settings(lora_dropout=0.5))
    _train(model.train())
    with torch.no_grad():
        assert not torch.equal(_run(model), _run(model))
        model.eval()
        assert torch.equal(_run(model), _run(model))


def test_peft_keeps_the_frozen_layer_underneath(base_state) -> None:
    model = _base(base_state, torch.bfloat16, "int4-quanto")
    adapters.attach_lora(model, _settings())
    assert isinstance(model.transformer_blocks[0].attn.to_q.get_base_layer(), FrozenLinear)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
def test_a_saved_adapter_is_put_on_as_it_was_trained_and_taken_off_without_a_trace(
    base_state, tmp_path, precision
) -> None:
    trained = _base(base_state, precision=precision)
    adapters.attach_lora(trained, _settings(lora_target="blocks"))
    _train(trained)
    state, metadata = adapters.final_state(trained, _settings())
    save_file(state, tmp_path / "x.safetensors", metadata=metadata)
    factors = read_adapter(tmp_path / "x.safetensors")
    model = _base(base_state, precision=precision)
    with torch.no_grad():
        before, names = _run(model), [name for name, _ in model.named_modules()]
        for strength in (1.0, 0.0, 1.0):  # again after it was taken off
            adapters.attach_factors(model, factors, strength)
            assert torch.equal(_run(model), before if strength == 0 else _run(trained))
            adapters.detach(model)
            assert torch.equal(_run(model), before)
    assert [name for name, _ in model.named_modules()] == names


def test_an_adapter_may_have_a_rank_for_each_layer_and_be_put_on_stronger(base_state) -> None:
    model = _base(base_state)
    names = lora_targets(model, _settings())
    generator = torch.Generator().manual_seed(3)
    factors = {
        name: Factors(torch.randn(1 + i, WIDTH, generator=generator), torch.randn(WIDTH, 1 + i, generator=generator))
        for i, name in enumerate(names[:3])
    }
    adapters.attach_factors(model, factors, 2.0)
    x = torch.randn(5, WIDTH, generator=generator)
    for name, factor in factors.items():
        layer = model.get_submodule(name)
        expected = layer.get_base_layer()(x) + 2 * x @ factor.a.T @ factor.b.T
        assert torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("init", ["default", "pissa", "olora"])
def test_a_checkpoints_adapter_means_what_the_finished_one_would(base_state, tmp_path, init) -> None:
    settings = _settings(lora_init_type=init, lora_alpha=6.0)
    trained = _base(base_state)
    adapters.attach_lora(trained, settings)
    _train(trained)
    files = []
    for name, of in (("checkpoint", adapters.checkpoint_state), ("final", adapters.final_state)):
        state, metadata = of(trained, settings)
        files.append(tmp_path / f"{name}.safetensors")
        save_file(state, files[-1], metadata=metadata)
    checkpoint, final = (read_adapter(file, "--adapter") for file in files)
    assert checkpoint.keys() == final.keys()
    for name, factor in final.items():
        assert torch.allclose(checkpoint[name].b @ checkpoint[name].a, factor.b @ factor.a, atol=1e-6), name


@pytest.mark.parametrize(
    ("name", "shape", "value", "message"),
    [
        ("transformer_blocks.9.attn.to_q", (WIDTH, WIDTH), 0.0, "is for a layer transformer_blocks.9.attn.to_q, which"),
        ("transformer_blocks.0.attn.to_q", (64, WIDTH), 0.0, "is 64 to 192 wide, the model's 192 to 192"),
        ("transformer_blocks.0.attn.to_q", (WIDTH, WIDTH), float("nan"), "holds NaN or infinity"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_says_where(base_state, name, shape, value, message) -> None:
    factors = {name: Factors(torch.full((2, shape[0]), value), torch.zeros(shape[1], 2))}
    with pytest.raises(ConfigError, match=message) as caught:
        check_fits(factors, _base(base_state), "--adapter: x.safetensors")
    assert caught.value.message.startswith("--adapter: x.safetensors")
