"""SD3's sampling: Euler's method along the flow, with guidance, for several pictures at once.

It computes what diffusers' StableDiffusion3Pipeline computes, with the sigmas of the model's own scheduler, arranged
for speed: through the forward pass of training (sd3_forward.py), where that can compute the adapter; one step after the
other without waiting for the device; on CUDA each step a graph that is replayed. Between steps latents are float32,
where the pipeline rounds them to the transformer's dtype.

    guidance        classifier-free: Ho and Salimans 2022, arXiv 2207.12598
    skipped blocks  skip-layer guidance: away from what the transformer makes of the prompt with some blocks left out

Shapes: B pictures, C latent channels, H and W latent height and width, L text tokens, D text features, E pooled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from simpletune.machine.execution import Way
from simpletune.models import compile_cache
from simpletune.models.compiled import why_not
from simpletune.models.family import SamplingRequest, UnsupportedModel
from simpletune.models.graphs import Graphs
from simpletune.models.sd3_forward import SD3Forward

Velocity = Callable[..., Tensor]
"""(latents (B, C, H, W), timesteps (B,), text (B, L, D), pooled (B, E), numbers of blocks to skip) -> (B, C, H, W)."""

_LATENT = 8  # pixels


class _Inputs(NamedTuple):
    """What a step reads: tensors all, so that one graph serves every step. With guidance text and pooled have 2 B rows,
    those of the negative prompt first."""

    latents: Tensor  # (B, C, H, W) float32
    timestep: Tensor  # ()
    change: Tensor  # (): by how much sigma grows in this step, which is less than nothing
    guidance: Tensor  # ()
    skip_scale: Tensor  # ()
    text: Tensor
    pooled: Tensor


class SD3Sampler:
    """Samples with the transformer as it is when this is made: with its adapter on or off, at the weights in force.

    `scheduler` is a FlowMatchEulerDiscreteScheduler; its sigmas and times are used. `say` is told, once, when a step
    can't run the way it was meant to.
    """

    def __init__(
        self, transformer: nn.Module, scheduler: Any, device: torch.device, way: Way, say: Callable[[str], None]
    ) -> None:
        self._transformer: Any = transformer
        self._scheduler = scheduler
        self._device = device
        self._say = say
        self._graphs = Graphs(device, say) if way.captured else None
        self._velocity, self._compiled = self._chosen(compiled=way.compiled)

    @torch.no_grad()
    def latents(self, request: SamplingRequest, between: Callable[[], None] = lambda: None) -> Tensor:
        """(B, C, H, W) float32. Noise comes from a CPU generator for each picture, so that a seed is the same start on
        every device and in every batch. between: as Sampler.latents takes it."""
        timesteps, sigmas = self._times(request)
        inputs = self._start(request)
        for number in range(request.steps):
            between()
            change = sigmas[number + 1] - sigmas[number]
            inputs = inputs._replace(timestep=timesteps[number], change=change)
            (latents_BCHW,) = self._step(inputs, request.guidance > 1, _skipped(request, number))
            inputs = inputs._replace(latents=latents_BCHW)
        return inputs.latents.clone()  # the next replay of the same graph writes there again

    def release(self) -> None:
        """Give back what is held between pictures only to be fast."""
        if self._graphs is not None:
            self._graphs.release()

    def _times(self, request: SamplingRequest) -> tuple[Tensor, Tensor]:
        """Timesteps (steps,) and sigmas (steps + 1,), the last one 0."""
        tokens = (request.width // _LATENT // self._patch) * (request.height // _LATENT // self._patch)
        self._scheduler.set_timesteps(request.steps, **_shift(self._scheduler.config, tokens))
        return self._scheduler.timesteps.to(self._device), self._scheduler.sigmas.to(self._device)

    @property
    def _patch(self) -> int:
        return int(self._transformer.config.patch_size)

    def _start(self, request: SamplingRequest) -> _Inputs:
        text, pooled = request.encoding.prompt_embeds, request.encoding.pooled_prompt_embeds
        shape = (1, self._transformer.config.in_channels, request.height // _LATENT, request.width // _LATENT)
        noise_BCHW = torch.cat([_noise(seed, shape, text.dtype) for seed in request.seeds]).to(self._device)
        if request.guidance > 1:
            text = torch.cat([request.negative.prompt_embeds.expand_as(text), text])
            pooled = torch.cat([request.negative.pooled_prompt_embeds.expand_as(pooled), pooled])
        guidance, skip_scale = torch.tensor([request.guidance, request.skip_layers_scale], device=self._device)
        none_yet = guidance.new_zeros(())
        return _Inputs(noise_BCHW.float(), none_yet, none_yet, guidance, skip_scale, text, pooled)

    def _step(self, inputs: _Inputs, guided: bool, skipped: Sequence[int]) -> tuple[Tensor, ...]:
        # With the count, so that no room to capture so many says nothing of fewer; inputs say whether it is guided.
        name = f"sampling of {len(inputs.latents)} pictures" + f" without blocks {list(skipped)}" * bool(skipped)
        function = partial(self._advanced, guided=guided, skipped=skipped)
        try:
            return self._run(name, function, inputs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            if not self._compiled:
                raise
            self._say(f"execution: pictures are sampled by eager kernels: torch.compile failed: {why_not(error)}")
        self._velocity, self._compiled = self._chosen(compiled=False)
        return self._run(name, function, inputs)

    def _run(self, name: str, function: Callable[..., tuple[Tensor, ...]], inputs: _Inputs) -> tuple[Tensor, ...]:
        return function(*inputs) if self._graphs is None else self._graphs.run(name, function, inputs)

    def _advanced(self, *tensors: Tensor, guided: bool, skipped: Sequence[int]) -> tuple[Tensor]:
        """The latents one step further."""
        given = _Inputs(*tensors)
        noisy_BCHW = given.latents.to(given.text.dtype)
        count = len(noisy_BCHW)
        both = torch.cat([noisy_BCHW, noisy_BCHW]) if guided else noisy_BCHW
        velocity = self._velocity(both, given.timestep.expand(len(both)), given.text, given.pooled, ()).float()
        if guided:
            unprompted, prompted = velocity.chunk(2)
            velocity = unprompted + given.guidance * (prompted - unprompted)
            if skipped:
                prompt = given.timestep.expand(count), given.text[count:], given.pooled[count:]
                lacking = self._velocity(noisy_BCHW, *prompt, skipped).float()
                velocity = velocity + given.skip_scale * (prompted - lacking)
        return (given.latents + given.change * velocity,)

    def _chosen(self, *, compiled: bool) -> tuple[Velocity, bool]:
        """How the velocity is computed, and whether in compiled code.

        Adapters on other layers than those of the blocks' attention and feed-forward are left to diffusers' modules.
        """
        try:
            forward = SD3Forward(self._transformer, None, compiled=compiled)
        except UnsupportedModel:
            return partial(_by_modules, self._transformer), False
        if compiled and (note := compile_cache.prepare()) is not None:
            self._say(note)
        return forward, compiled


def _by_modules(
    transformer: Any, noisy_latents: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor, skip_layers: Sequence[int]
) -> Tensor:
    velocity_BCHW: Tensor = transformer(
        hidden_states=noisy_latents,
        timestep=timestep,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        skip_layers=list(skip_layers),
        return_dict=False,
    )[0]
    return velocity_BCHW


def _skipped(request: SamplingRequest, number: int) -> tuple[int, ...]:
    """The blocks to guide away from in a step: in those strictly between the two shares of all steps."""
    if request.skip_layers is None or request.guidance <= 1:
        return ()
    inside = request.skip_layers_start * request.steps < number < request.skip_layers_stop * request.steps
    return tuple(request.skip_layers) if inside else ()


def _noise(seed: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Drawn in the dtype of the transformer, as diffusers does."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _shift(config: Any, tokens: int) -> dict[str, float]:
    """For schedulers that shift sigma by the picture's size: by how much, which grows linearly with its tokens."""
    if not config.use_dynamic_shifting:
        return {}
    small, large = config.base_image_seq_len, config.max_image_seq_len
    return {"mu": config.base_shift + (config.max_shift - config.base_shift) * (tokens - small) / (large - small)}
