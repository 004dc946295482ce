"""How long a run will take: the work of its phases, and how fast a card and a processor were seen to do it.

On the card that was measured the answer is near; on another one it is scaled by the makers' figures for matrix
throughput and memory bandwidth (`machine/cards.py`), and is a range. A run that has trained a few steps knows better.
docs/performance.md holds measured steps against these. Where `simpletune bench --sweep` has timed the very step on this
card, its figure stands in for the reckoned one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from simpletune.config.architecture import ENCODER_PARTS, clip_tokens
from simpletune.machine import bench_results, cards, estimate
from simpletune.machine.activations import component_config_of, transformer_width, vae_width
from simpletune.machine.cards import Speed
from simpletune.machine.execution import COMPILING
from simpletune.machine.forecast import Plan, text_way_of, way_of
from simpletune.machine.shapes import count, family_flavour, linear_layers, part_tensors, quantized_layers
from simpletune.machine.text_memory import groups

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
    """How fast a device works, and what its host takes on top."""

    operations: float  # of matrix products, a second
    bandwidth: float  # bytes a second
    launch: float  # how many times as long as on the measured machine the host takes to launch a pass
    start: float  # seconds until anything happens: imports, the driver
    load: float  # bytes a second of weights that are read and quantized


@dataclass(frozen=True)
class _Kernels:
    """What a way of computing the transformer asks of the device and its host, by precision of the base if by that."""

    products: float  # how many times as fast as `_Rate.operations` matrix products are
    attention: float  # the same of attention
    elementwise: float  # bytes a block's forward pass moves for each token and number of its width; backward twice
    elementwise_again: float  # forward passes' worth of these that recomputing a block takes
    unpack: Mapping[str, float]  # bytes a pass moves for each number of the weights
    launch: Mapping[str, float]  # seconds the host takes to launch a block's kernels in one pass


# What an H100 reaches of its specification in eager products and in what passes through its memory.
_PRODUCTS, _MEMORY = 0.6, 0.8
_FP32_PRODUCTS = 1 / 6  # of 16-bit ones, between a data centre's cards (1/15) and a desktop's (1/2)
_EAGER = _Kernels(
    products=1, attention=1, elementwise=200, elementwise_again=1,
    unpack={"no_change": 0, "int8-quanto": 5, "fp8-quanto": 5, "int4-quanto": 16, "int2-quanto": 20},
    launch={
        "no_change": 3.5e-3, "int8-quanto": 4.1e-3, "fp8-quanto": 5.2e-3, "int4-quanto": 6.3e-3, "int2-quanto": 8.0e-3
    },
)  # fmt: skip
# Products and attention as a profile shows them, the rest fitted to six measured steps; int2 was not measured. The host
# takes what `SAVED_ALONE` leaves of the eager step's.
_COMPILED = _Kernels(
    products=0.70 / _PRODUCTS, attention=0.40 / _PRODUCTS, elementwise=62, elementwise_again=0.3,
    unpack={"no_change": 6.0, "int8-quanto": 6.5, "fp8-quanto": 6.9, "int4-quanto": 8.2, "int2-quanto": 8.5},
    launch=dict.fromkeys(_EAGER.launch, 2.3e-3),
)  # fmt: skip
_AGAIN = 1.4  # a checkpointed block's second forward pass, which also records what the backward pass needs
_FIXED_ORDER = 7.2  # forward passes' worth that attention whose sums have a fixed order takes longer than cuDNN's
_SECOND_ATTENTION_LAUNCH = 2.2  # a block with a second attention, against one without
_SECOND_ATTENTION_MOVES = 1 / 3  # of what a block moves
_TEXT_BATCH = 0.08  # seconds the host takes for a batch of captions
_PIXEL_OPERATIONS, _PIXEL_BYTES = 13e6, 60e3  # of SD3's VAE, a pixel encoded or decoded
_START, _LOAD = 20.0, 3e9
# A processor's core in fp32, as the tiny model's steps showed it.
_CORE = _Rate(45e9, 8e9, 1.0, 10.0, 0.5e9)
_APPLE = (Speed(60, 800), Speed(2.5, 68))  # the largest and the smallest of Apple's chips


def run_seconds(
    plan: Plan, device: str, gpu_name: str | None, capability: tuple[int, int] | None, cpus: int
) -> TimeRange:
    """The whole run: encoding what a first run encodes, loading, training and validation.

    device: cuda, mps or cpu; `gpu_name` and `capability` are the card's, as its driver names them, where known.
    """
    if device == "cpu":
        return _on_processor(plan, cpus)
    if device == "mps":
        return _between(plan, *_APPLE, (1.0, 2.0), "reckoned from Apple's figures; no Mac was measured")
    if gpu_name and (step := bench_results.measured_step(gpu_name, plan)) is not None:
        return _with_step(plan, step, cards.speed_of(gpu_name) or cards.speeds_of_generation(capability)[0])
    speed, named = cards.speed_of(gpu_name), (gpu_name or "this card")[:40]
    if speed is None:
        basis = f"reckoned from cards of its generation; {named} was not measured"
        slow, fast = cards.speeds_of_generation(capability)
        return _between(plan, fast, slow, (0.7, 2.0), basis)
    if cards.is_measured(gpu_name):
        return _between(plan, speed, speed, (0.75, 1.4), f"measured on {MEASURED_CARD}", measured=True)
    factors = (0.7, 3.0 if cards.is_mobile(gpu_name) else 1.8)
    basis = f"reckoned from a measured {MEASURED_CARD}; {named} was not measured"
    return _between(plan, speed, speed, factors, basis)


def step_seconds(plan: Plan, speed: Speed) -> float:
    """One optimizer step on a card, about: what its line in metrics.jsonl would say."""
    return _step(plan, _rate(plan, speed))


def _on_processor(plan: Plan, cpus: int) -> TimeRange:
    cores = max(cpus, 1)
    rate = _Rate(_CORE.operations * cores, _CORE.bandwidth * cores, _CORE.launch, _CORE.start, _CORE.load)
    seconds = sum(_phases(plan, rate))
    if family_flavour(plan.flavour).hub_id is None:
        return TimeRange(seconds * 0.5, seconds * 2, False, "reckoned from two processor cores, which were measured")
    return TimeRange(seconds * 0.4, seconds * 3, False, "reckoned from the tiny model on two processor cores")


def _between(
    plan: Plan, fast: Speed, slow: Speed, factors: tuple[float, float], basis: str, measured: bool = False
) -> TimeRange:
    low, high = (sum(_phases(plan, _rate(plan, speed))) for speed in (fast, slow))
    if plan.mixed_precision == "no":  # cards differ more in 32-bit products than their figures here say
        low, high = low / 2, high * 2
    return TimeRange(low * factors[0], high * factors[1], measured, basis)


def _with_step(plan: Plan, step: float, speed: Speed) -> TimeRange:
    """With a step that was measured; all else, usually little beside it, is reckoned."""
    rate = _rate(plan, speed)
    other = sum(_phases(plan, rate)) - plan.steps * _step(plan, rate)
    training, basis = plan.steps * step, "its step was measured on this card by `simpletune bench`"
    return TimeRange(0.95 * training + 0.75 * other, 1.1 * training + 1.8 * other, True, basis)


def _rate(plan: Plan, speed: Speed) -> _Rate:
    products = _PRODUCTS * (_FP32_PRODUCTS if plan.mixed_precision == "no" else 1)
    return _Rate(speed.tflops * 1e12 * products, speed.bandwidth * 1e9 * _MEMORY, 1.0, _START, _LOAD)


def _phases(plan: Plan, rate: _Rate) -> tuple[float, ...]:
    return (
        rate.start,
        COMPILING if way_of(plan).compiled else 0.0,
        _loading(plan, rate),
        _encoding_text(plan, rate),
        plan.pictures * _pixels_through_vae(plan.flavour, plan.bucket, rate),
        plan.steps * _step(plan, rate),
        _validating(plan, rate),
    )


def _step(plan: Plan, rate: _Rate) -> float:
    """An optimizer step: the device's work, or where no graph does it, the host's launching if that takes longer."""
    way = way_of(plan)
    kernels = _COMPILED if way.compiled else _EAGER
    blocks: int = component_config_of(plan.flavour, "transformer")["num_layers"]
    interval = plan.gradient_checkpointing_interval
    again = -(-blocks // interval) / blocks if plan.gradient_checkpointing else 0.0
    attention_again = 0.0 if way.compiled and plan.keeps_attention else again
    # Backward passes need the products once more (no weight is trained), the attention two and a half times.
    passes = _Passes(2 + again, 3.5 + attention_again, 3 + kernels.elementwise_again * again)
    work = plan.train_batch_size * _work(plan, plan.bucket, rate, kernels, passes)
    if way.compiled:  # which is fast enough for these to show; LoRA's own gradients are a third product
        work += (3 + again) * plan.train_batch_size * _lora_work(plan, rate, kernels) + _adapter_moves(plan, rate)
    work += (2 + again) * sum(_products(plan.flavour, "transformer")) * _unpack(plan, kernels) / rate.bandwidth
    if plan.deterministic and plan.device in ("auto", "cuda"):  # fitted to one step (docs/performance.md)
        work += plan.train_batch_size * _FIXED_ORDER * _attention(plan, plan.bucket) / rate.operations
    launch = 0.0 if way.captured else (2 + _AGAIN * again) * _launch(plan, rate, kernels)
    return plan.gradient_accumulation_steps * max(work, launch)


@dataclass(frozen=True)
class _Passes:
    """How many forward passes' worth of products, attention and memory traffic."""

    products: float = 1
    attention: float = 1
    memory: float = 1


def _work(plan: Plan, size: tuple[int, int], rate: _Rate, kernels: _Kernels, passes: _Passes) -> float:
    """What the device takes for so many passes of one sample."""
    image, text = estimate.image_tokens(*size), estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    config, width = component_config_of(plan.flavour, "transformer"), transformer_width(plan.flavour)
    blocks: int = config["num_layers"]
    of_image, of_text = _products(plan.flavour, "transformer")
    products = passes.products * 2 * (image * of_image + text * of_text) / kernels.products
    second: int = len(config["dual_attention_layers"])
    attention = passes.attention * _attention(plan, size) / kernels.attention
    states = blocks * (image + text) + second * image * _SECOND_ATTENTION_MOVES
    moved = passes.memory * states * width * kernels.elementwise
    return (products + attention) / rate.operations + moved / rate.bandwidth


def _attention(plan: Plan, size: tuple[int, int]) -> int:
    """Operations of attention in one sample's forward pass."""
    image, text = estimate.image_tokens(*size), estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    config = component_config_of(plan.flavour, "transformer")
    blocks, second = config["num_layers"], len(config["dual_attention_layers"])
    pairs: int = blocks * (image + text) ** 2 + second * image**2
    return 4 * pairs * transformer_width(plan.flavour)


def _lora_work(plan: Plan, rate: _Rate, kernels: _Kernels) -> float:
    """One product of a sample with each of the adapter's matrices."""
    image, text = estimate.image_tokens(*plan.bucket), estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    of_image, of_text = plan.adapter.work
    return 2 * (image * of_image + text * of_text) / kernels.products / rate.operations


def _adapter_moves(plan: Plan, rate: _Rate) -> float:
    """What kinds of adapter other than LoRA move through the device's memory in a micro batch."""
    image, text = estimate.image_tokens(*plan.bucket), estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    whole, of_image, of_text = plan.adapter.moved
    return (whole + plan.train_batch_size * (image * of_image + text * of_text)) / rate.bandwidth


def _unpack(plan: Plan, kernels: _Kernels) -> float:
    return kernels.unpack[plan.base_model_precision]


def _launch(plan: Plan, rate: _Rate, kernels: _Kernels) -> float:
    """What the host takes to launch one pass through all blocks."""
    config = component_config_of(plan.flavour, "transformer")
    second: int = len(config["dual_attention_layers"])
    blocks: float = config["num_layers"] - second + second * _SECOND_ATTENTION_LAUNCH
    return rate.launch * blocks * kernels.launch[plan.base_model_precision]


def _loading(plan: Plan, rate: _Rate) -> float:
    def size(part: str) -> int:
        return estimate.weight_bytes(plan.flavour, part, "no_change", plan.mixed_precision)

    way = text_way_of(plan)
    times = groups(way, plan.flavour, plan.mixed_precision, plan.captions, plan.tokenizer_max_length)
    return (size("transformer") + times * sum(map(size, _encoders(plan)))) / rate.load


def _encoding_text(plan: Plan, rate: _Rate) -> float:
    operations = 0
    for part in _encoders(plan):
        tokens = plan.tokenizer_max_length if part == "text_encoder_3" else clip_tokens(plan.flavour)
        operations += 2 * tokens * sum(_products(plan.flavour, part))
    batches = -(-plan.captions // plan.text_encoder_batch_size)
    return plan.captions * operations / rate.operations + batches * _TEXT_BATCH * rate.launch


def _pixels_through_vae(flavour: str, size: tuple[int, int], rate: _Rate) -> float:
    """Of a narrower VAE than SD3's the maps are narrower, and their products by the square of that."""
    width = vae_width(flavour) / vae_width("sd3-medium")
    return size[0] * size[1] * (_PIXEL_OPERATIONS * width**2 / rate.operations + _PIXEL_BYTES * width / rate.bandwidth)


def _validating(plan: Plan, rate: _Rate) -> float:
    """Pictures of the base once, then of the adapter each time; guidance takes every picture twice."""
    times = 2 + plan.steps // max(plan.validation_step_interval, 1)
    if plan.use_ema:
        times = 2 * times - 1
    one = 0.0
    for size in plan.validation_sizes:
        step = max(2 * _work(plan, size, rate, _EAGER, _Passes()), _launch(plan, rate, _EAGER))
        one += plan.validation_num_inference_steps * step + 2 * _pixels_through_vae(plan.flavour, size, rate)
    return times * plan.validation_prompts * plan.num_validation_images * one


def _encoders(plan: Plan) -> Sequence[str]:
    return ENCODER_PARTS if plan.use_t5 else ENCODER_PARTS[:2]


@lru_cache(maxsize=64)
def _products(flavour: str, part: str) -> tuple[int, int]:
    """Numbers of the matrices that every token of the picture passes, and those that the caption's pass (in the
    transformer; of a text encoder, all and none). The modulation sees one vector a sample and is left out."""
    tensors, found = part_tensors(flavour, part), [0, 0]
    quantized = quantized_layers(flavour, part)
    for layer in linear_layers(flavour, part):
        if layer in quantized and not layer.endswith(("norm1.linear", "norm1_context.linear")):
            text = part == "transformer" and (".add_" in layer or "to_add_out" in layer or "ff_context" in layer)
            found[text] += count(tensors[f"{layer}.weight"])
    return found[0], found[1]
