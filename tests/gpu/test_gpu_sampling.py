"""Sampling on a GPU: every way gives the same latents, and what it took for that it gives back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from test_gpu_execution import DEVICE, SETTINGS, model
from torch import Tensor, nn

from simpletune.machine.execution import Way
from simpletune.models.adapters import adapter_enabled, trainable_parameters
from simpletune.models.family import SamplingRequest, TextEncoding
from simpletune.models.quantize import PRECISIONS
from simpletune.models.sd3_sampling import SD3Sampler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
# torch's compiler makes warnings of its own, and hides them in a way that pytest undoes.
pytestmark.append(pytest.mark.filterwarnings("ignore"))

EAGER, GRAPH = Way(captured=False, compiled=False), Way(captured=True, compiled=False)
COMPILED = Way(captured=True, compiled=True)
ROUNDING = 0.01  # libraries may take other algorithms while they are captured


def made(precision: str = "no_change", **settings: Any) -> nn.Module:
    """A small transformer in bf16 whose LoRA does something."""
    transformer = model(precision, SimpleNamespace(**{**SETTINGS, **settings})).eval()
    with torch.no_grad():
        for _, parameter in trainable_parameters(transformer):
            parameter.normal_(0.0, 0.15)
    return transformer


def sampler(transformer: nn.Module, way: Way) -> SD3Sampler:
    return SD3Sampler(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), DEVICE, way, pytest.fail)


def request(count: int = 2, seed: int = 7, **changes: Any) -> SamplingRequest:
    generator = torch.Generator("cuda").manual_seed(1)

    def text(rows: int) -> TextEncoding:
        states, pooled = (
            torch.randn(rows, *size, generator=generator, device=DEVICE, dtype=torch.bfloat16)
            for size in ((40, 256), (128,))
        )
        return TextEncoding(states, pooled)

    wanted: dict[str, Any] = {
        "negative": text(1), "encoding": text(count), "width": 256, "height": 192, "steps": 10, "guidance": 5.0,
        "seeds": tuple(range(seed, seed + count)), "skip_layers": (1,), "skip_layers_start": 0.1,
        "skip_layers_stop": 0.7, "skip_layers_scale": 2.8,
    }  # fmt: skip
    return SamplingRequest(**{**wanted, **changes})


def assert_close(got: Tensor, expected: Tensor, share: float) -> None:
    assert torch.isfinite(got).all()
    assert (got - expected).norm() < share * expected.norm()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_replays_what_plain_calls_compute(precision: str) -> None:
    """The kernels are the same. Once more with another seed, which only changes inputs."""
    transformer = made(precision)
    plain, graph = sampler(transformer, EAGER), sampler(transformer, GRAPH)
    for wanted in (request(), request(seed=3), request(guidance=1.0), request(count=1, width=192)):
        assert_close(graph.latents(wanted), plain.latents(wanted), ROUNDING)
    assert graph._graphs is not None
    assert graph._graphs.count == 5  # of each shape, and with a block left out where that is guided


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto"])
def test_compiled_blocks_give_the_same_up_to_rounding(precision: str) -> None:
    transformer = made(precision)
    plain, compiled = sampler(transformer, EAGER), sampler(transformer, COMPILED)
    for wanted in (request(), request(count=1, seed=3)):
        assert_close(compiled.latents(wanted), plain.latents(wanted), 0.05)


@pytest.mark.parametrize("way", [GRAPH, COMPILED], ids=["graph", "compiled"])
def test_an_adapter_that_is_off_gives_the_base(way: Way) -> None:
    with_adapter = made("int8-quanto")
    without_effect = model("int8-quanto", SimpleNamespace(**SETTINGS)).eval()  # a new LoRA's product is zero
    base = sampler(without_effect, EAGER).latents(request())
    tuned = sampler(with_adapter, way).latents(request())
    with adapter_enabled(with_adapter, False):
        assert_close(sampler(with_adapter, way).latents(request()), base, 0.05)
    assert (tuned - base).norm() > 0.1 * base.norm()


def test_weights_changed_in_place_are_seen_by_the_graph() -> None:
    transformer = made()
    graph = sampler(transformer, GRAPH)
    before = graph.latents(request())
    with torch.no_grad():
        for _, parameter in trainable_parameters(transformer):
            parameter.mul_(1.5)
    after = graph.latents(request())
    assert (after - before).norm() > 0.02 * before.norm()
    assert_close(after, sampler(transformer, EAGER).latents(request()), ROUNDING)


def test_layers_that_only_modules_compute_are_captured_too() -> None:
    transformer = made(lora_target=["*.attn.*", "*.norm1.linear", "proj_out"])
    graph = sampler(transformer, GRAPH)
    assert_close(graph.latents(request()), sampler(transformer, EAGER).latents(request()), ROUNDING)
    assert graph._graphs is not None
    assert graph._graphs.count == 2


def test_memory_is_given_back_and_taken_again() -> None:
    transformer = made("int8-quanto")
    graph = sampler(transformer, GRAPH)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    first = graph.latents(request(4)).cpu()
    held = torch.cuda.memory_reserved()
    graph.release()
    assert held > before
    assert torch.cuda.memory_reserved() <= before + 2**21  # a page of the allocator's
    assert_close(graph.latents(request(4)).cpu(), first, ROUNDING)


def test_where_a_pass_waits_for_nothing() -> None:
    """Between its first copy and its last step the host never waits for the device."""
    graph = sampler(made(), GRAPH)
    graph.latents(request())
    inputs, (timesteps, sigmas) = graph._start(request()), graph._times(request())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(10):
            inputs = inputs._replace(timestep=timesteps[number], change=sigmas[number + 1] - sigmas[number])
            (latents,) = graph._step(inputs, True, ())
            inputs = inputs._replace(latents=latents)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(latents).all()
