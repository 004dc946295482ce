"""The estimate: exact where it counts, close to what was measured where it is a formula, and free of torch."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from simpletune.machine import estimate as subject
from simpletune.machine.estimate import GIB, Run, TensorShape
from simpletune.models.quantize import frozen_linear

# SD3-Medium at 1024 px with rank 16 on all eight projections, as the measurements were taken (154 text tokens).
MEASURED = Run(
    text_encoder_weights=0, vae_weights=0, transformer_weights=2_028_328_000 * 2, block_count=24, width=1536,
    image_tokens=4096, text_tokens=154, pixels=1024**2, validation_pixels=1024**2, validation_image_tokens=4096,
    batch_size=1, vae_batch_size=4, text_encoder_batch_size=8, lora_parameters=24 * 8 * 16 * 3072, optimizer="adamw",
    use_ema=False, gradient_checkpointing=True, gradient_checkpointing_interval=1, compute_bytes=2, vae_bytes=2,
)  # fmt: skip


def peak(phase="train", **changes):
    phases = {p.phase: p for p in subject.memory_by_phase(dataclasses.replace(MEASURED, **changes))}
    return phases[phase].bytes


@pytest.mark.parametrize(
    ("batch", "checkpointing", "gib"), [(1, True, 4.95), (4, True, 6.81), (1, False, 9.16), (4, False, 23.6)]
)
def test_training_is_near_the_peaks_measured_of_a_plain_peft_loop(batch, checkpointing, gib):
    found = peak(batch_size=batch, gradient_checkpointing=checkpointing)
    assert found / GIB == pytest.approx(gib, rel=0.07)


def test_what_costs_more_is_estimated_higher():
    base = peak()
    assert peak(batch_size=2) > base
    assert peak(image_tokens=8192) > base
    assert peak(gradient_checkpointing_interval=6) > base
    assert peak(gradient_checkpointing_interval=1000) <= peak(gradient_checkpointing=False)
    assert peak(use_ema=True) > base
    assert peak(optimizer="prodigy") > base > peak(optimizer="adamw8bit") > peak(optimizer="adafactor")
    assert peak("encode images", vae_batch_size=8) > peak("encode images")
    assert peak("encode text", text_encoder_batch_size=16) > peak("encode text")
    assert peak("validate", validation_pixels=4 * 1024**2) > peak("validate")


def test_the_phases_come_in_order_and_read_well():
    phases = subject.memory_by_phase(MEASURED)
    assert [p.phase for p in phases] == ["encode text", "encode images", "train", "validate"]
    assert str(phases[2]) == "train: about 4.6 GiB (weights 3.8, activations 0.6, adapter 0.1, other 0.1)"


@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
@pytest.mark.parametrize("columns", [64, 160, 256, 384])
def test_quantized_weights_are_counted_to_the_byte(precision, columns):
    layer = frozen_linear(torch.randn(48, columns), None, precision, torch.float32)
    held = sum(tensor.nbytes for tensor in layer.buffers())
    tensors = {"a.weight": TensorShape("F32", (48, columns))}
    assert subject.weight_bytes(tensors, precision, compute_bytes=4) == held


def test_only_linear_layers_that_are_asked_for_are_quantized():
    tensors = {
        "block.weight": TensorShape("BF16", (128, 128)),
        "embedder.weight": TensorShape("BF16", (128, 128)),
        "block.bias": TensorShape("BF16", (128,)),
        "conv.weight": TensorShape("BF16", (8, 4, 2, 2)),
    }
    found = subject.weight_bytes(tensors, "int8-quanto", 2, lambda name: name != "embedder")
    assert found == (128 * 128 + 128 * 2) + 2 * (128 * 128 + 128 + 128)
    assert subject.weight_bytes(tensors, "no_change", 4) == 4 * (2 * 128 * 128 + 128 + 128)


def test_lora_numbers():
    tensors = {"q.weight": TensorShape("BF16", (96, 64)), "k.weight": TensorShape("BF16", (32, 64))}
    assert subject.lora_parameter_count(tensors, ["q", "k"], rank=4) == 4 * (96 + 64) + 4 * (32 + 64)


@pytest.mark.parametrize("name", subject._OPTIMIZER_BYTES)
def test_optimizer_state_is_counted_as_it_is(name):
    from simpletune.trainer import optimizers

    if not optimizers.is_installed(name):
        pytest.skip(f"{name} is not installed")
    source = optimizers.OPTIMIZERS[name]
    weight = torch.nn.Parameter(torch.ones(256, 512, dtype=source.parameter_dtype))
    optimizer = optimizers._optimizer_class(name)([weight], lr=1e-3, **source.defaults)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    held = sum(t.nbytes for t in optimizers.optimizer_state(optimizer)[0].values() if t.numel() > 1)
    expected = subject.adapter_bytes(weight.numel(), name, use_ema=False)
    assert weight.nbytes * 2 + held == pytest.approx(expected, rel=0.03)


def test_headers_of_a_file_and_of_a_folder(tmp_path):
    save_file({"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}, tmp_path / "one.safetensors", {"x": "y"})
    save_file({"b": torch.zeros((), dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    assert subject.parameters_by_module(tmp_path) == {
        "a.weight": TensorShape("F32", (2, 3)),
        "a.bias": TensorShape("F32", (2,)),
        "b": TensorShape("BF16", ()),
    }
    assert subject.parameters_by_module(tmp_path / "two.safetensors")["b"].count == 1


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 40, (5).to_bytes(8, "little") + b"[1,2]", (9).to_bytes(8, "little") + b'{"a":{}}']
)
def test_a_damaged_header_is_named(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        subject.parameters_by_module(path)


def test_caches_on_disk():
    latents = subject.latent_cache_bytes(100, 1024**2, channels=16, pixels_per_latent=8, number_bytes=2)
    assert latents == pytest.approx(100 * 16 * 128 * 128 * 2, rel=0.02)
    captions = subject.text_cache_bytes(100, tokens=231, width=4096, pooled_width=2048, number_bytes=2)
    assert captions == pytest.approx(100 * (231 * 4096 + 2048) * 2, rel=0.01)


def test_it_needs_no_torch():
    code = "import sys, simpletune.machine.estimate; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
