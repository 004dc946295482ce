"""Exact where it counts: weights, optimizer state, files. What is fitted is in test_machine_measurements.py."""

import subprocess
import sys

import pytest
import torch

from simpletune.config.architecture import clip_tokens
from simpletune.machine import estimate as subject
from simpletune.models.quantize import frozen_linear


@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
@pytest.mark.parametrize("columns", [64, 160, 256, 384])
def test_quantized_weights_are_counted_to_the_byte(precision, columns):
    layer = frozen_linear(torch.randn(48, columns), None, precision, torch.float32)
    held = sum(tensor.nbytes for tensor in layer.buffers())
    assert subject.quantized_bytes(48, columns, precision, scale_bytes=4) == held


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto"])
@pytest.mark.parametrize("mixed_precision", ["bf16", "fp16", "no"])
def test_a_loaded_model_has_the_weights_that_were_counted(tiny_model, precision, mixed_precision):
    from simpletune.config.architecture import component_config
    from simpletune.models.components import empty_module
    from simpletune.models.load import _COMPUTE_DTYPES, stream_into
    from simpletune.models.sd3 import QUANTIZED
    from simpletune.models.weight_source import WeightSource

    for part in ("transformer", "text_encoder", "text_encoder_3"):
        module = empty_module(part, component_config("tiny", part))
        choose = {"quantize": QUANTIZED} if part == "transformer" else {}
        dtype, cpu = _COMPUTE_DTYPES[mixed_precision], torch.device("cpu")
        source = WeightSource.open(tiny_model / part)
        stream_into(module, source, device=cpu, dtype=dtype, precision=precision, **choose)
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() or t.ndim > 1}
        held = sum(tensor.nbytes for tensor in tensors.values())
        counted = subject.weight_bytes("tiny", part, precision, mixed_precision)
        assert counted == pytest.approx(held, abs=2000), part  # position_ids are no weights


@pytest.mark.parametrize("name", subject._STATE_BYTES)
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
    assert weight.nbytes + held == pytest.approx(subject.adapter_bytes(weight.numel(), name, False), rel=0.03)
    assert weight.grad.nbytes == subject.gradient_bytes(weight.numel(), name)
    checkpoint = subject.checkpoint_bytes(weight.numel(), name, False)
    assert weight.nbytes + held == pytest.approx(checkpoint, rel=0.03, abs=20_000)


def test_caches_on_disk():
    latents = subject.latent_cache_bytes(100, 1024**2, "bf16")
    assert latents == pytest.approx(100 * 16 * 128 * 128 * 2, rel=0.02)
    captions = subject.text_cache_bytes("sd3-medium", 100, 154, True, "bf16")
    assert captions == pytest.approx(100 * (77 * 2048 + 154 * 4096 + 2048) * 2, rel=0.01)
    assert subject.text_cache_bytes("sd3-medium", 100, 154, True, "no") == pytest.approx(2 * captions, rel=0.01)
    assert subject.text_cache_bytes("sd3-medium", 100, 154, False, "bf16") == pytest.approx(32e6, rel=0.02)


def test_the_cache_of_captions_is_as_large_as_its_files(tmp_path, tiny_model):
    torch = pytest.importorskip("torch")
    from simpletune.data.caches.cache import TensorCache
    from simpletune.models.family import TextEncoding
    from simpletune.models.text import pack

    transformer = subject.component_config_of("tiny", "transformer")
    clip = clip_tokens("tiny")
    states = torch.rand(1, clip + 100, transformer["joint_attention_dim"])
    width = transformer["pooled_projection_dim"]
    states[:, :clip, width:] = 0
    for use_t5 in (True, False):
        if not use_t5:
            states[:, clip:] = 0
        TensorCache(tmp_path).put(f"ab{use_t5}", pack(TextEncoding(states, torch.rand(1, width))))
        size = TensorCache(tmp_path).path(f"ab{use_t5}").stat().st_size
        assert size <= subject.text_cache_bytes("tiny", 1, 100, use_t5, "no") <= size + 4096


def test_it_needs_no_torch():
    modules = "estimate, simpletune.machine.forecast, simpletune.machine.timing, simpletune.machine.ways_down"
    code = f"import sys, simpletune.machine.{modules}; assert not {{'torch', 'numpy'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("flavour", ["tiny", "sd3.5-medium"])
def test_attention_is_counted_as_the_step_does(flavour):
    from simpletune.config.architecture import component_config
    from simpletune.machine import activations
    from simpletune.models.components import empty_module
    from simpletune.models.sd3_forward import attention_bytes

    transformer = empty_module("transformer", component_config(flavour, "transformer"))
    assert activations.attention_bytes(flavour, 3 * 1000) == attention_bytes(transformer, 3, 1000)
