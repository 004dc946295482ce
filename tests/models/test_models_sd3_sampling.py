"""Sampling against the stock pipeline: the same latents whatever is guided, skipped, attached or sampled beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from test_models_sd3_forward import SD35, compiling, model
from torch import Tensor, nn

from simpletune.machine.execution import Way
from simpletune.models import sd3_sampling
from simpletune.models.adapters import adapter_enabled, trainable_parameters
from simpletune.models.family import SamplingRequest, TextEncoding
from simpletune.models.graphs import Graphs
from simpletune.models.sd3_sampling import SD3Sampler

CPU = torch.device("cpu")
EAGER = Way(captured=False, compiled=False)
LORA_OUTSIDE = {"lora_target": ["*.attn.*", "*.norm1.linear", "proj_out"]}
SKIPPING = {"skip_layers": (1,), "skip_layers_start": 0.0, "skip_layers_stop": 0.5, "skip_layers_scale": 2.8}


def scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def request(count: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> SamplingRequest:
    generator = torch.Generator().manual_seed(2)

    def text(rows: int) -> TextEncoding:
        states, pooled = (torch.randn(rows, *size, generator=generator) for size in ((7, 64), (32,)))
        return TextEncoding(states.to(dtype), pooled.to(dtype))

    plain = SamplingRequest(
        encoding=text(3),
        negative=text(1),
        width=96,
        height=128,
        seeds=(7, 8, 9),
        steps=6,
        guidance=5.0,
        skip_layers=None,
        skip_layers_start=0.01,
        skip_layers_stop=0.2,
        skip_layers_scale=2.8,
    )
    return replace(one(plain, slice(0, count)), **changes)


def one(wanted: SamplingRequest, rows: slice) -> SamplingRequest:
    text = TextEncoding(wanted.encoding.prompt_embeds[rows], wanted.encoding.pooled_prompt_embeds[rows])
    return replace(wanted, encoding=text, seeds=wanted.seeds[rows])


def stock(made: nn.Module, wanted: SamplingRequest, schedule: FlowMatchEulerDiscreteScheduler | None = None) -> Tensor:
    """What the pipeline makes of it, by diffusers' modules."""
    absent = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipeline = StableDiffusion3Pipeline(
        transformer=made, scheduler=schedule or scheduler(), **dict.fromkeys(absent)
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    count = len(wanted.seeds)
    latents: Tensor = pipeline(
        prompt_embeds=wanted.encoding.prompt_embeds,
        pooled_prompt_embeds=wanted.encoding.pooled_prompt_embeds,
        negative_prompt_embeds=wanted.negative.prompt_embeds.repeat(count, 1, 1),
        negative_pooled_prompt_embeds=wanted.negative.pooled_prompt_embeds.repeat(count, 1),
        width=wanted.width,
        height=wanted.height,
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in wanted.seeds],
        skip_guidance_layers=None if wanted.skip_layers is None else list(wanted.skip_layers),
        skip_layer_guidance_scale=wanted.skip_layers_scale,
        skip_layer_guidance_start=wanted.skip_layers_start,
        skip_layer_guidance_stop=wanted.skip_layers_stop,
        output_type="latent",
    ).images
    return latents


def ours(
    made: nn.Module, wanted: SamplingRequest, schedule: FlowMatchEulerDiscreteScheduler | None = None, way: Way = EAGER
) -> Tensor:
    return SD3Sampler(made, schedule or scheduler(), CPU, way, pytest.fail).latents(wanted)


def assert_same(got: Tensor, expected: Tensor, rounding: float = 1e-4) -> None:
    assert torch.allclose(got, expected.float(), rtol=rounding, atol=rounding * float(expected.abs().max()))


@pytest.fixture(scope="module")
def made() -> nn.Module:
    """SD3.5's kind of blocks and an adapter on their attention, quantized."""
    return model("int8-quanto", **SD35).eval()


@pytest.fixture(scope="module")
def with_others() -> nn.Module:
    """An adapter on layers that only diffusers' modules can compute."""
    return model(lora=LORA_OUTSIDE).eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 1.0}, {"guidance": 4.7, "width": 192}, SKIPPING, {**SKIPPING, "guidance": 1.0}, {"steps": 1}],
    ids=["guided", "not guided", "landscape", "skipped layers", "skipped but not guided", "one step"],
)
def test_latents_are_the_stock_pipelines(made: nn.Module, with_others: nn.Module, changes: dict[str, Any]) -> None:
    for each in (made, with_others):
        wanted = request(2, **changes)
        assert_same(ours(each, wanted), stock(each, wanted))


def test_each_setting_changes_the_picture(made: nn.Module) -> None:
    plain = ours(made, request())
    for changes in ({"guidance": 1.0}, SKIPPING, {**SKIPPING, "skip_layers_stop": 0.7}, {"seeds": (8,)}, {"steps": 5}):
        assert not torch.allclose(ours(made, request(**changes)), plain, atol=1e-2)
    prompt, negative = request().encoding, request().negative
    assert not torch.allclose(ours(made, request(negative=prompt, encoding=negative)), plain, atol=1e-2)


def test_in_16_bits_they_are_the_pipelines_up_to_their_rounding() -> None:
    made = model().eval().to(torch.bfloat16)
    wanted = request(2, torch.bfloat16)
    got, expected = ours(made, wanted), stock(made, wanted).float()
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    "config", [{"shift": 1.0}, {"use_karras_sigmas": True}, {"use_dynamic_shifting": True, "max_image_seq_len": 512}]
)
def test_sigmas_are_the_schedulers(made: nn.Module, config: dict[str, Any]) -> None:
    got = ours(made, request(), scheduler(**config))
    assert_same(got, stock(made, request(), scheduler(**config)))
    assert not torch.allclose(got, ours(made, request()), atol=1e-2)


def test_a_picture_is_the_same_in_any_batch(made: nn.Module) -> None:
    wanted = request(3, **SKIPPING)
    together = ours(made, wanted)
    for place in range(3):
        assert_same(together[place], ours(made, one(wanted, slice(place, place + 1)))[0])


@pytest.mark.parametrize("lora", [{}, LORA_OUTSIDE, {"lora_dropout": 0.5}], ids=["attention", "others", "dropout"])
def test_an_adapter_that_is_off_gives_the_bases_pictures(lora: dict[str, Any]) -> None:
    made = model("int4-quanto", lora=lora).eval()
    with adapter_enabled(made, False):
        base = ours(made, request())
        assert_same(base, stock(made, request()))
    tuned = ours(made, request())
    assert_same(tuned, stock(made, request()))
    assert not torch.allclose(tuned, base, atol=1e-2)


def test_weights_changed_in_place_are_seen() -> None:
    """As when the average's are put in the place of the raw ones for a validation."""
    made = model().eval()
    sampler = SD3Sampler(made, scheduler(), CPU, EAGER, pytest.fail)
    before = sampler.latents(request())
    with torch.no_grad():
        for _, parameter in trainable_parameters(made):
            parameter.mul_(1.5)
    after = sampler.latents(request())
    assert not torch.allclose(after, before, atol=1e-2)
    assert_same(after, stock(made, request()))


def test_nothing_is_recorded_for_gradients(made: nn.Module) -> None:
    assert not ours(made, request()).requires_grad


class Recorded:
    """Stands for a graph: it computes again what was recorded, from tensors of its own, and into the same ones."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: Any) -> None:
        self._function, self._inputs = function, [tensor.clone() for tensor in inputs]
        self._outputs: tuple[Tensor, ...] = function(*self._inputs)

    def replay(self, inputs: Any) -> tuple[Tensor, ...]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        for own, computed in zip(self._outputs, self._function(*self._inputs), strict=True):
            own.copy_(computed)
        return self._outputs


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graphs]:
    """Graphs that are captured on a machine without CUDA."""
    made: list[Graphs] = []

    class Kept(Graphs):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

        def _capture(self, function: Any, inputs: Any) -> Any:
            return Recorded(function, inputs)

    monkeypatch.setattr(sd3_sampling, "Graphs", Kept)
    return made


def test_every_step_of_a_kind_replays_one_graph(made: nn.Module, graphs: list[Graphs]) -> None:
    sampler = SD3Sampler(made, scheduler(), CPU, Way(captured=True, compiled=False), pytest.fail)
    wanted = request(2, **{**SKIPPING, "steps": 12})
    first, again, other = (sampler.latents(each) for each in (wanted, wanted, replace(wanted, seeds=(1, 2))))
    unguided = replace(wanted, guidance=1.0)
    expected = ours(made, wanted)
    assert graphs[0].count == 2  # with blocks left out, and without
    assert_same(first, expected)
    assert_same(again, expected)
    assert_same(other, ours(made, replace(wanted, seeds=(1, 2))))
    assert_same(sampler.latents(unguided), ours(made, unguided))
    assert graphs[0].count == 3
    sampler.release()
    assert graphs[0].count == 0


def test_what_cannot_be_compiled_is_sampled_uncompiled(made: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = sd3_sampling.SD3Forward

    def broken(*arguments: Any, compiled: bool) -> Any:
        def fail(*_: Any) -> Tensor:
            raise sd3_sampling.TorchDynamoException("no way\nto do this")

        return fail if compiled else forward(*arguments, compiled=False)

    monkeypatch.setattr(sd3_sampling, "SD3Forward", broken)
    monkeypatch.setattr(sd3_sampling.compile_cache, "prepare", lambda: None)
    said: list[str] = []
    sampler = SD3Sampler(made, scheduler(), CPU, Way(captured=False, compiled=True), said.append)
    assert_same(sampler.latents(request()), ours(made, request()))
    assert said == ["execution: pictures are sampled by eager kernels: torch.compile failed: no way"]


@compiling
def test_compiled_it_gives_the_same(made: nn.Module) -> None:
    for wanted in (request(2, **SKIPPING), request(1, width=128)):
        assert_same(ours(made, wanted, way=Way(captured=False, compiled=True)), ours(made, wanted))
