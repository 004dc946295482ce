"""One function a phase: load what it needs with random weights, do it several times, say how fast it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from simpletune.bench.batches import Batches, random_text
from simpletune.bench.clock import fresh_memory, synchronize, time_calls, time_stream
from simpletune.bench.eager import EagerLoop
from simpletune.bench.flops import training_work
from simpletune.bench.report import Memory, Rate, Sampling, Timing, Training
from simpletune.config.settings import Settings
from simpletune.machine.estimate import image_tokens
from simpletune.models.adapters import attach_lora
from simpletune.models.family import Family, SamplingRequest
from simpletune.models.random_source import RandomFiles
from simpletune.models.text_in_turn import TextEncodersInTurn
from simpletune.results.studio import sampling, way_of
from simpletune.trainer.assemble import assemble
from simpletune.trainer.optimizers import parameter_dtype
from simpletune.trainer.processes import Processes
from simpletune.trainer.step import TrainingStep

ENCODED_BATCHES = 5
WARM_UP = {"cuda": 6, "mps": 3, "cpu": 1}
"""Steps that aren't counted: on CUDA some run before anything is captured, and then it is."""

Say = Callable[[str], None]


@dataclass
class Bench:
    """What is measured on what. Transformer and step stay from training to sampling, as in a run."""

    settings: Settings
    family: Family
    files: RandomFiles
    processes: Processes
    size: tuple[int, int]  # of a training picture, (width, height) in pixels
    text_tokens: int
    steps: int  # that are timed
    run_steps: int  # of the configured run
    matmul_tflops: float | None
    say: Say = field(default=lambda _line: None)
    transformer: nn.Module | None = None
    step: TrainingStep | None = None

    def drop(self) -> None:
        """Give up the transformer and all that was made for it."""
        self.transformer = self.step = None

    @property
    def device(self) -> torch.device:
        return self.processes.device


def encode_text(bench: Bench) -> Rate:
    """Captions a second through all text encoders of the run, tokenizing included, writing to a cache left out."""
    encoders = bench.family.load_text_encoders(bench.files, bench.settings, bench.device)
    batch = bench.settings.text_encoder_batch_size
    captions = [f"a drawing of a red parrot, number {number}" for number in range(batch)]
    with fresh_memory(bench.device) as memory:
        if isinstance(encoders, TextEncodersInTurn):
            return _encoded_in_turn(encoders, captions, bench.device, memory)
        taken = time_calls(bench.device, lambda _: encoders.encode(captions), ENCODED_BATCHES, 1)
        return Rate(batch / taken.median, batch, taken, memory())


def _encoded_in_turn(
    encoders: TextEncodersInTurn, captions: Sequence[str], device: torch.device, memory: Callable[[], Memory]
) -> Rate:
    """One batch is loading and a batch, several are loading and so many: the difference tells the two apart.

    Where blocks are read beside the computation, and take longer, there is none: all of it then counts as loading.
    """

    def seconds(batches: int) -> float:
        return time_calls(device, lambda _: list(encoders.encode_batches([captions] * batches)), 1, 0).median

    seconds(1)
    one, several = seconds(1), seconds(1 + ENCODED_BATCHES)
    each = max((several - one) / ENCODED_BATCHES, one / 1000)
    taken = Timing(each, each, each, ENCODED_BATCHES)
    loading = max(one - each, 0.0)
    return Rate(len(captions) / each, len(captions), taken, memory(), encoders.way.value, loading)


def encode_images(bench: Bench) -> Rate:
    """Pictures a second through the VAE, from pixels in host memory; reading, resizing and writing left out."""
    vae = bench.family.load_vae(bench.files, bench.settings, bench.device)
    batch, (width, height) = bench.settings.vae_batch_size, bench.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    keys = [str(number) for number in range(batch)]
    with fresh_memory(bench.device) as memory:
        taken = time_calls(bench.device, lambda _: vae.encode(pixels, keys), ENCODED_BATCHES, 1)
        return Rate(batch / taken.median, batch, taken, memory())


def train(bench: Bench) -> Training:
    """Optimizer steps, run as `execution` says, optimizer and average included; batches are on the device already."""
    settings = bench.settings
    bench.transformer = _load_transformer(bench)
    batches = Batches(settings, bench.family, bench.size, bench.text_tokens, bench.device)
    empty = None
    if settings.caption_dropout_probability > 0:
        empty = random_text(settings, bench.text_tokens, 1, bench.device)
    said: list[str] = []
    with fresh_memory(bench.device) as memory:
        began = time.perf_counter()
        assembled = assemble(
            settings, bench.family, bench.transformer, bench.processes, bench.run_steps, empty, _both(said, bench.say)
        )
        bench.step, ready = assembled.step, began

        def step(number: int) -> None:
            nonlocal ready
            if number == warm_up:
                ready = time.perf_counter()
            assembled.step(batches.step(number))

        warm_up = WARM_UP[bench.device.type]
        taken = time_stream(bench.device, step, bench.steps, warm_up)
        found = memory()
    samples = settings.train_batch_size * settings.gradient_accumulation_steps
    tflops = operations(bench) / taken.median / 1e12
    share = None if bench.matmul_tflops is None else tflops / bench.matmul_tflops
    return Training(taken, samples, found, ready - began, tflops, share, _how(said, assembled.execution.reason))


def train_eagerly(bench: Bench) -> Training:
    """The yardstick on the same shapes. It waits for each step's loss, as loops that show it do."""
    loop = EagerLoop(bench.settings, bench.size, bench.text_tokens, bench.device)
    with fresh_memory(bench.device) as memory:
        taken = time_calls(bench.device, lambda _: loop.step(), bench.steps, WARM_UP[bench.device.type])
        samples = bench.settings.train_batch_size * bench.settings.gradient_accumulation_steps
        return Training(taken, samples, memory())


def sample(bench: Bench) -> Sampling:
    """One validation picture with the adapter, decoded; a short one goes before it, uncounted."""
    settings = bench.settings
    transformer = bench.transformer if bench.transformer is not None else _load_transformer(bench)
    vae = bench.family.load_vae(bench.files, settings, bench.device)
    way = way_of(settings, bench.device, transformer, 1)
    with fresh_memory(bench.device) as memory, sampling(transformer):
        sampler = bench.family.sampler(bench.files, transformer, bench.device, way, bench.say)
        for steps in (2, settings.validation_num_inference_steps):
            request = _request(bench, steps)
            began = time.perf_counter()
            latents = sampler.latents(request)
            sampler.release()
            vae.decode(latents)
            synchronize(bench.device)
            seconds = time.perf_counter() - began
        return Sampling(seconds, request.steps, (request.width, request.height), memory())


def _load_transformer(bench: Bench) -> nn.Module:
    settings = bench.settings
    transformer = bench.family.load_transformer(bench.files, settings, bench.device)
    attach_lora(transformer, settings, parameter_dtype(settings.optimizer))
    return transformer


def _request(bench: Bench, steps: int) -> SamplingRequest:
    settings = bench.settings
    width, height = settings.validation_resolution[0]
    text = random_text(settings, bench.text_tokens, 1, bench.device)
    return SamplingRequest(
        encoding=text,
        negative=text,
        width=width,
        height=height,
        seeds=(settings.validation_seed,),
        steps=steps,
        guidance=settings.validation_guidance,
        skip_layers=settings.validation_guidance_skip_layers,
        skip_layers_start=settings.validation_guidance_skip_layers_start,
        skip_layers_stop=settings.validation_guidance_skip_layers_stop,
        skip_layers_scale=settings.validation_guidance_skip_scale,
    )


def operations(bench: Bench) -> float:
    """Of an optimizer step, all its samples."""
    settings = bench.settings
    samples = settings.train_batch_size * settings.gradient_accumulation_steps
    one = training_work(
        settings.model_flavour,
        (image_tokens(*bench.size), bench.text_tokens),
        lora=(settings.lora_target, settings.lora_rank),
        checkpoint_every=settings.gradient_checkpointing_interval if settings.gradient_checkpointing else None,
    ).total
    return samples * one


def _both(said: list[str], say: Say) -> Say:
    def tell(line: str) -> None:
        said.append(line)
        say(line)

    return tell


def _how(said: Sequence[str], planned: str) -> str:
    """How the step ran in the end: what was said of it last, else what was planned."""
    lines = [line.removeprefix("execution: ") for line in said if line.startswith("execution: ")]
    return lines[-1] if lines else planned
