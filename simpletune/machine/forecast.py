"""The memory of a run by phase, and its disk, from the handful of values they depend on.

The wizard asks this for every option on a screen, so it takes well under a millisecond once a flavour's shapes are
known. Nothing is loaded; torch isn't imported. `machine/estimate.py` has the arithmetic, `machine/timing.py` the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simpletune.machine import estimate
from simpletune.machine.estimate import GIB
from simpletune.machine.shapes import lora_parameters

ENCODE_TEXT, ENCODE_IMAGES, TRAIN, VALIDATE = "encode text", "encode images", "train", "validate"
PHASES = (ENCODE_TEXT, ENCODE_IMAGES, TRAIN, VALIDATE)


@dataclass(frozen=True)
class Plan:
    """What an estimate depends on. Names are those of config.json where it has the value.

    Sizes are (width, height) in pixels; `bucket` is the largest there is. `captions` counts different ones,
    `checkpoints` those kept at once.
    """

    flavour: str
    base_model_precision: str
    text_encoder_precisions: tuple[str, str, str]
    use_t5: bool
    mixed_precision: str  # bf16 | fp16 | no
    tokenizer_max_length: int
    lora_rank: int
    lora_target: str | tuple[str, ...]
    optimizer: str
    use_ema: bool
    train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int
    vae_batch_size: int
    text_encoder_batch_size: int
    bucket: tuple[int, int]
    validation_sizes: tuple[tuple[int, int], ...]
    validation_prompts: int
    num_validation_images: int
    validation_num_inference_steps: int
    validation_step_interval: int
    pictures: int
    captions: int
    steps: int
    checkpoints: int


@dataclass(frozen=True)
class PhaseMemory:
    """The peak of one phase: what it is made of, in bytes of the device's memory."""

    phase: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        """`train: about 4.9 GiB (weights 3.8, activations 0.5, ...)`"""
        parts = ", ".join(f"{what} {_gib(size)}" for what, size in self.parts.items())
        return f"{self.phase}: about {_gib(self.bytes)} GiB ({parts})"


@dataclass(frozen=True)
class Forecast:
    """`phases` in the order of the run; `disk` in bytes by what is kept: "latents", "captions", "checkpoints"."""

    phases: tuple[PhaseMemory, ...]
    disk: Mapping[str, int]

    @property
    def peak(self) -> PhaseMemory:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    def phase(self, name: str) -> PhaseMemory:
        return next(phase for phase in self.phases if phase.phase == name)


def forecast(plan: Plan) -> Forecast:
    """Every phase's peak and the disk that is taken, for the flavour's published shapes."""
    phases = (_encode_text(plan), _encode_images(plan), _train(plan), _validate(plan))
    return Forecast(phases, _disk(plan))


def _encode_text(plan: Plan) -> PhaseMemory:
    weights = estimate.text_encoder_bytes(plan.flavour, plan.text_encoder_precisions, plan.use_t5, plan.mixed_precision)
    batch = min(plan.text_encoder_batch_size, max(plan.captions, 1))
    activations = estimate.text_activations(batch, plan.tokenizer_max_length, plan.mixed_precision)
    return _phase(ENCODE_TEXT, weights=weights, activations=activations)


def _encode_images(plan: Plan) -> PhaseMemory:
    weights = estimate.weight_bytes(plan.flavour, "vae", "no_change", plan.mixed_precision)
    batch = min(plan.vae_batch_size, max(plan.pictures, 1))
    activations = estimate.encoding_activations(plan.flavour, batch * _pixels(plan.bucket), plan.mixed_precision)
    return _phase(ENCODE_IMAGES, weights=weights, activations=activations)


def _train(plan: Plan) -> PhaseMemory:
    every = plan.gradient_checkpointing_interval if plan.gradient_checkpointing else None
    tokens = plan.train_batch_size * _tokens(plan, plan.bucket)
    activations = estimate.training_activations(plan.flavour, tokens, every, plan.mixed_precision)
    return _phase(TRAIN, weights=_transformer(plan), activations=activations, adapter=_adapter(plan))


def _validate(plan: Plan) -> PhaseMemory:
    size = max(plan.validation_sizes or (plan.bucket,), key=_pixels)
    sampling = estimate.sampling_activations(plan.flavour, _tokens(plan, size), plan.mixed_precision)
    decoding = estimate.decoding_activations(plan.flavour, _pixels(size), plan.mixed_precision)
    weights, activations = _transformer(plan), sampling
    if plan.validation_prompts:
        weights += estimate.weight_bytes(plan.flavour, "vae", "no_change", plan.mixed_precision)
        activations = max(sampling, decoding)
    return _phase(VALIDATE, weights=weights, activations=activations, adapter=_adapter(plan))


def _phase(name: str, **parts: int) -> PhaseMemory:
    return PhaseMemory(name, {**parts, "other": estimate.WORKSPACE})


def _disk(plan: Plan) -> dict[str, int]:
    numbers = _lora_numbers(plan)
    checkpoint = estimate.checkpoint_bytes(numbers, plan.optimizer, plan.use_ema)
    return {
        "latents": estimate.latent_cache_bytes(plan.pictures, _pixels(plan.bucket), plan.mixed_precision),
        "captions": estimate.text_cache_bytes(
            plan.flavour, plan.captions, plan.tokenizer_max_length, plan.mixed_precision
        ),
        "checkpoints": plan.checkpoints * checkpoint,
    }


def _transformer(plan: Plan) -> int:
    return estimate.weight_bytes(plan.flavour, "transformer", plan.base_model_precision, plan.mixed_precision)


def _adapter(plan: Plan) -> int:
    return estimate.adapter_bytes(_lora_numbers(plan), plan.optimizer, plan.use_ema)


def _lora_numbers(plan: Plan) -> int:
    return lora_parameters(plan.flavour, plan.lora_target, plan.lora_rank)


def _tokens(plan: Plan, size: tuple[int, int]) -> int:
    return estimate.image_tokens(*size) + estimate.text_tokens(plan.tokenizer_max_length)


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB // 20 else f"{size / GIB:.2g}"
