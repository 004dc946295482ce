"""How long a run will take: arithmetic on the work of a step, and what one card and one processor were measured at.

On the card that was measured the answer is near; on another one it is scaled by the makers' figures for matrix
throughput and memory bandwidth (`machine/cards.py`), and is a range. A run that has trained a few steps knows better.
"""

from __future__ import annotations

from dataclasses import dataclass

from simpletune.machine import cards, estimate
from simpletune.machine.cards import Speed
from simpletune.machine.forecast import Plan
from simpletune.machine.shapes import count, family_flavour, linear_layers, part_tensors

MEASURED_CARD = "NVIDIA H100"


@dataclass(frozen=True)
class TimeRange:
    """Seconds from `low` to `high`. `measured`: whether this very device was; `basis`: what it rests on, in a line."""

    low: float
    high: float
    measured: bool
    basis: str


@dataclass(frozen=True)
class _Rate:
    """A device's speed, in what a step is made of."""

    operations: float  # a second, of those that a step's matrix products reach
    bandwidth: float  # bytes a second
    launch: float  # seconds a block of one forward or backward pass takes at least: the host launching its kernels
    start: float  # seconds before the first step that depend on nothing else: imports, CUDA
    load: float  # bytes a second of weights read from files and quantized


# What an H100 reaches of its specification in this program's step, and its host's share.
_EFFICIENCY, _BANDWIDTH_SHARE = 0.45, 0.6
_LAUNCH, _START, _LOAD = 5.4e-3, 25.0, 2.0e9
_ELEMENTWISE = 90  # bytes a token, a block and a number of its width that pass through memory in one forward pass
_VAE_OPERATIONS = 4.9e6  # a pixel, encoding; decoding takes twice that
_TEXT_SECONDS = 0.08  # a caption on the measured card
# A processor's core and its memory, in fp32.
_CORE_OPERATIONS, _CORE_BANDWIDTH = 30e9, 6e9
# Apple's chips, from the smallest to the largest: 16-bit operations and bytes a second.
_APPLE = (Speed(2.5, 68), Speed(60, 800))


def run_seconds(
    plan: Plan, device: str, gpu_name: str | None, capability: tuple[int, int] | None, cpus: int
) -> TimeRange:
    """The whole run: encoding what a first run encodes, loading, training and validation.

    device: cuda, mps or cpu; `gpu_name` and `capability` are the card's, as its driver names them, where known.
    """
    if device == "cpu":
        return _on_processor(plan, cpus)
    if device == "mps":
        return _range(plan, _APPLE[1], _APPLE[0], 1.0, 2.0, "reckoned from Apple's figures; no Mac was measured")
    found, named = cards.speed_of(gpu_name), gpu_name or "this card"
    if found is None:
        slow, fast = cards.speeds_of_generation(capability)
        return _range(plan, fast, slow, 0.8, 2.0, f"reckoned from cards of its generation; {named} was not measured")
    if "h100" in named.lower() and "pcie" not in named.lower():
        return _range(plan, found, found, 0.8, 1.4, f"measured on {MEASURED_CARD}", measured=True)
    slower = 3.0 if "laptop" in named.lower() or "max-q" in named.lower() else 1.8
    return _range(
        plan, found, found, 0.7, slower, f"reckoned from a measured {MEASURED_CARD}; {named} was not measured"
    )


def step_seconds(plan: Plan, rate: _Rate) -> float:
    """One optimizer step: the device's work, or the host's launching of it if that takes longer."""
    blocks = estimate.component_config_value(plan.flavour, "num_layers")
    passes = 2 + (1 if plan.gradient_checkpointing else 0)
    tokens = _tokens(plan, plan.bucket)
    work = _pass_seconds(plan, tokens, plan.train_batch_size, rate) * (1.25 + passes)
    return plan.gradient_accumulation_steps * max(work, rate.launch * blocks * passes)


def _on_processor(plan: Plan, cpus: int) -> TimeRange:
    rate = _Rate(_CORE_OPERATIONS * cpus, _CORE_BANDWIDTH * cpus, 1e-3, 12.0, 0.5e9)
    seconds = _total(plan, rate)
    tiny = family_flavour(plan.flavour).hub_id is None
    basis = "measured on two processor cores" if tiny else "reckoned from the tiny model on two processor cores"
    return TimeRange(seconds * (0.6 if tiny else 0.4), seconds * (1.8 if tiny else 3.0), False, basis)


def _range(
    plan: Plan, fast: Speed, slow: Speed, less: float, more: float, basis: str, measured: bool = False
) -> TimeRange:
    return TimeRange(_total(plan, _rate(fast)) * less, _total(plan, _rate(slow)) * more, measured, basis)


def _rate(speed: Speed) -> _Rate:
    return _Rate(speed.tflops * 1e12 * _EFFICIENCY, speed.bandwidth * 1e9 * _BANDWIDTH_SHARE, _LAUNCH, _START, _LOAD)


def _total(plan: Plan, rate: _Rate) -> float:
    phases = (_loading, _encoding_text, _encoding_pictures, _training, _validating)
    return rate.start + sum(phase(plan, rate) for phase in phases)


def _training(plan: Plan, rate: _Rate) -> float:
    return plan.steps * step_seconds(plan, rate)


def _loading(plan: Plan, rate: _Rate) -> float:
    parts = ["text_encoder", "text_encoder_2", "transformer"] + (["text_encoder_3"] if plan.use_t5 else [])
    size = sum(estimate.weight_bytes(plan.flavour, part, "no_change", plan.mixed_precision) for part in parts)
    return size / rate.load


def _encoding_text(plan: Plan, rate: _Rate) -> float:
    parts = ["text_encoder", "text_encoder_2"] + (["text_encoder_3"] if plan.use_t5 else [])
    numbers = sum(_matrix_numbers(plan.flavour, part) for part in parts)
    work = 2 * numbers * plan.tokenizer_max_length / rate.operations
    batches = -(-plan.captions // plan.text_encoder_batch_size)
    return plan.captions * work + batches * rate.launch * 20


def _encoding_pictures(plan: Plan, rate: _Rate) -> float:
    pixels = plan.bucket[0] * plan.bucket[1]
    return plan.pictures * (pixels * _VAE_OPERATIONS / rate.operations + rate.launch)


def _validating(plan: Plan, rate: _Rate) -> float:
    """Pictures of the base once, and of the adapter each time; guidance takes every picture twice."""
    times = 2 + plan.steps // max(plan.validation_step_interval, 1)
    blocks = estimate.component_config_value(plan.flavour, "num_layers")
    seconds = 0.0
    for size in plan.validation_sizes if plan.validation_prompts else ():
        work = _pass_seconds(plan, _tokens(plan, size), 2, rate)
        decoding = 2 * size[0] * size[1] * _VAE_OPERATIONS / rate.operations
        seconds += plan.validation_num_inference_steps * max(work, rate.launch * blocks) + decoding
    return times * plan.validation_prompts * plan.num_validation_images * seconds


def _pass_seconds(plan: Plan, tokens: int, batch: int, rate: _Rate) -> float:
    """One forward pass of the transformer over `batch` samples of that many tokens."""
    blocks = estimate.component_config_value(plan.flavour, "num_layers")
    width = estimate.transformer_width(plan.flavour)
    products = 2 * tokens * _matrix_numbers(plan.flavour, "transformer") / 1.5  # two streams share the tokens
    attention = 4 * tokens**2 * width * blocks
    moved = tokens * width * blocks * _ELEMENTWISE
    return batch * ((products + attention) / rate.operations + moved / rate.bandwidth)


def _matrix_numbers(flavour: str, part: str) -> int:
    tensors = part_tensors(flavour, part)
    return sum(count(tensors[f"{layer}.weight"]) for layer in linear_layers(flavour, part))


def _tokens(plan: Plan, size: tuple[int, int]) -> int:
    return estimate.image_tokens(*size) + estimate.text_tokens(plan.tokenizer_max_length)
