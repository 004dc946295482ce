"""The memory of a run by phase, and its disk, from the handful of values they depend on.

The wizard asks this for every option on a screen, so it takes well under a millisecond once a flavour's shapes are
known. Nothing is loaded; torch isn't imported. `machine/estimate.py` has the arithmetic, `machine/timing.py` the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from simpletune.config.offload import offloaded_blocks
from simpletune.machine import activations, estimate
from simpletune.machine.adapters import Adapter
from simpletune.machine.devices import Device, usable_memory
from simpletune.machine.estimate import GIB
from simpletune.machine.execution import Known, Way, expected_way
from simpletune.machine.text_memory import TextNeed, TextWay, text_needs, way_that_fits

ENCODE_TEXT, ENCODE_IMAGES, TRAIN, VALIDATE = "encode text", "encode images", "train", "validate"
PHASES = (ENCODE_TEXT, ENCODE_IMAGES, TRAIN, VALIDATE)


@dataclass(frozen=True)
class Plan:
    """What an estimate depends on. Names are those of config.json where it has the value.

    Sizes are (width, height) in pixels; `bucket` is the largest there is. `captions` counts different ones,
    `checkpoints` those that are kept whole at once, `saves` those that are written in all, None where nobody knows.
    Of the machine, as far as it is known (`on_device`): `capability` of the card, `can_compile`: torch.compile lacks
    nothing, `keeps_attention`: there is room for attention's results, which a compiled step then keeps where it
    recomputes the rest. Without it a forecast says what a run needs at least. `device_bytes`: what a run can count on
    of the device; text encoders that don't fit it together come in turn.
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
    lora_dropout: float = 0.0
    base_model_matmul: str = "auto"
    execution: str = "auto"
    device: str = "auto"
    capability: tuple[int, int] | None = None
    can_compile: bool = True
    keeps_attention: bool = False
    base_model_offload: int = 0
    activation_offload: bool = False
    device_bytes: int | None = None
    saves: int | None = None
    use_dora: bool = False
    deterministic: bool = False
    lycoris: str | None = None  # the text of what lycoris_config names, for lora_type lycoris

    @property
    def adapter(self) -> Adapter:
        return Adapter(self.flavour, self.lora_target, self.lora_rank, self.use_dora, self.lycoris)


@dataclass(frozen=True)
class PhaseMemory:
    """The peak of one phase: what it is made of, in bytes of the device's memory; and how it is done, where memory
    decides that, in a few words."""

    phase: str
    parts: Mapping[str, int]
    how: str = ""

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        """`train: about 4.9 GiB (weights 3.8, activations 0.5, ...)`"""
        parts = ", ".join(f"{what} {_gib(size)}" for what, size in self.parts.items())
        return f"{self.phase}: about {_gib(self.bytes)} GiB ({parts}){self.how and f': {self.how}'}"


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


def on_device(plan: Plan, device: Device, *, can_compile: bool) -> Plan:
    """The plan of a run on that device, of which it can count on no more than the plan says already."""
    has = None if device.memory_bytes is None else usable_memory(device.memory_bytes, device.kind)
    limits = [limit for limit in (plan.device_bytes, has) if limit is not None]
    plan = replace(plan, device_bytes=min(limits, default=None))
    return replace(plan, device=device.kind, capability=device.capability, can_compile=can_compile)


def with_room_of(plan: Plan, usable: int | None) -> Plan:
    """The plan of a run that can count on so many bytes of a device's memory: with attention's results kept or not.

    The rule is that of `models/sd3.py`: a quarter of what is left beside the model.
    """
    if usable is None:
        return plan
    results = activations.attention_bytes(plan.flavour, plan.train_batch_size * estimate.image_tokens(*plan.bucket))
    left = usable - _transformer(plan) - estimate.gradient_bytes(_lora_numbers(plan), plan.optimizer)
    return replace(plan, keeps_attention=results <= left / 4, device_bytes=usable)


def way_of(plan: Plan) -> Way:
    """How the training step will run."""
    return expected_way(
        plan.execution,
        Known(
            device=plan.device,
            capability=plan.capability,
            can_compile=plan.can_compile,
            mixed_precision=plan.mixed_precision,
            base_model_precision=plan.base_model_precision,
            as_modules=as_modules(plan),
            blocks=_blocks(plan),
            passes=plan.steps * plan.gradient_accumulation_steps,
            matmul=plan.base_model_matmul,
        ),
    )


def as_modules(plan: Plan) -> bool:
    """Whether only the model's own modules can compute this LoRA: blocks are neither compiled nor offloaded then."""
    return plan.lora_dropout > 0 or _has_lora_elsewhere(plan.adapter)


@lru_cache(maxsize=64)
def _has_lora_elsewhere(adapter: Adapter) -> bool:
    """Whether layers outside of attention and feed-forward are trained, which `models/sd3_forward.py` doesn't know."""
    return any(".attn" not in layer and ".ff" not in layer for layer in adapter.kinds)


def forecast(plan: Plan) -> Forecast:
    """Every phase's peak and the disk that is taken, for the flavour's published shapes."""
    phases = (_encode_text(plan), _encode_images(plan), _train(plan), _validate(plan))
    return Forecast(phases, _disk(plan))


def text_way_of(plan: Plan) -> TextWay:
    """How the text encoders will be loaded. Only a CUDA card tells what is free."""
    free = plan.device_bytes if plan.device in ("auto", "cuda") else None
    return way_that_fits(_text_needs(plan), free)


def _text_needs(plan: Plan) -> Mapping[TextWay, TextNeed]:
    captions = min(plan.text_encoder_batch_size, max(plan.captions, 1))
    return text_needs(
        plan.flavour,
        plan.text_encoder_precisions,
        plan.use_t5,
        plan.mixed_precision,
        captions,
        plan.tokenizer_max_length,
    )


def _encode_text(plan: Plan) -> PhaseMemory:
    way = text_way_of(plan)
    need = _text_needs(plan)[way]
    found = _phase(ENCODE_TEXT, weights=need.weights, activations=need.held)
    return found if way is TextWay.TOGETHER else replace(found, how=way.value)


def _encode_images(plan: Plan) -> PhaseMemory:
    pixels = min(plan.vae_batch_size, max(plan.pictures, 1)) * _pixels(plan.bucket)
    held = activations.encoding(plan.flavour, pixels, plan.mixed_precision)
    return _phase(ENCODE_IMAGES, weights=_vae(plan), activations=held)


def _train(plan: Plan) -> PhaseMemory:
    adapter = _adapter(plan)
    compiled = way_of(plan).compiled
    if compiled:
        kept, at_work = _held_compiled(plan)
        slack = activations.compiled_slack(kept, adapter)
    else:
        kept, at_work = _held_eagerly(plan)
        slack = activations.training_slack(kept, at_work, adapter)
    return _phase(
        TRAIN,
        slack + _unpacked(plan, compiled=compiled) + plan.adapter.matrix_bytes,
        weights=_transformer(plan),
        activations=kept + at_work,
        adapter=adapter + _gradients(plan),  # which have a buffer of their own
    )


def _held_compiled(plan: Plan) -> tuple[int, int]:
    lora = (plan.adapter.layers, plan.adapter.kept_rank, plan.use_dora)
    return activations.compiled_training(
        plan.flavour,
        _tokens(plan),
        _interval(plan),
        lora,
        plan.mixed_precision,
        plan.keeps_attention,
        _offloaded(plan),
        plan.activation_offload,
    )


def _held_eagerly(plan: Plan) -> tuple[int, int]:
    lora = (plan.adapter.layers, plan.adapter.kept_rank, plan.use_dora)
    offloaded = _offloaded(plan)
    kept, at_work = activations.training(
        plan.flavour,
        _tokens(plan),
        _interval(plan),
        lora,
        _gradients(plan),
        plan.mixed_precision,
        offloaded,
        plan.activation_offload,
    )
    if offloaded or plan.activation_offload:
        here = 1 if plan.gradient_checkpointing else 1 + _blocks(plan) - len(offloaded)
        at_work += activations.unpacked_blocks(plan.flavour, plan.base_model_precision, plan.mixed_precision, here)
    return kept, at_work


def _offloaded(plan: Plan) -> tuple[int, ...]:
    return offloaded_blocks(plan.base_model_offload, _blocks(plan))


def _blocks(plan: Plan) -> int:
    return int(activations.component_config_of(plan.flavour, "transformer")["num_layers"])


def _tokens(plan: Plan) -> tuple[int, int]:
    """Of a micro batch's pictures, and of their captions."""
    text = estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    return plan.train_batch_size * estimate.image_tokens(*plan.bucket), plan.train_batch_size * text


def _interval(plan: Plan) -> int | None:
    return plan.gradient_checkpointing_interval if plan.gradient_checkpointing else None


def _gradients(plan: Plan) -> int:
    return estimate.gradient_bytes(_lora_numbers(plan), plan.optimizer)


def _validate(plan: Plan) -> PhaseMemory:
    """Sampling and decoding take turns; the VAE is there throughout."""
    size = max(plan.validation_sizes or (plan.bucket,), key=_pixels)
    tokens = estimate.image_tokens(*size) + estimate.text_tokens(plan.flavour, plan.tokenizer_max_length)
    held, weights = activations.sampling(plan.flavour, tokens, plan.mixed_precision), _transformer(plan)
    if plan.validation_prompts:
        weights += _vae(plan)
        held = max(held, activations.decoding(plan.flavour, _pixels(size), plan.mixed_precision))
    adapter = _adapter(plan) + estimate.averaging_bytes(_lora_numbers(plan), plan.optimizer, plan.use_ema)
    return _phase(VALIDATE, _unpacked(plan), weights=weights, activations=held, adapter=adapter)


def _phase(name: str, other: int = 0, **parts: int) -> PhaseMemory:
    return PhaseMemory(name, {**parts, "other": activations.WORKSPACE + other})


def _disk(plan: Plan) -> dict[str, int]:
    numbers = _lora_numbers(plan)
    checkpoint = estimate.checkpoint_bytes(numbers, plan.optimizer, plan.use_ema)
    pruned = max(0, (plan.saves or 0) - plan.checkpoints)
    adapters = pruned * estimate.kept_adapter_bytes(numbers, plan.optimizer, plan.use_ema)
    whole = plan.checkpoints + (pruned > 0)  # the oldest goes when the new one is complete
    return {
        "latents": estimate.latent_cache_bytes(plan.pictures, _pixels(plan.bucket), plan.mixed_precision),
        "captions": estimate.text_cache_bytes(
            plan.flavour, plan.captions, plan.tokenizer_max_length, plan.use_t5, plan.mixed_precision
        ),
        "checkpoints": whole * checkpoint + adapters,
    }


def _transformer(plan: Plan) -> int:
    """Of its weights what is on the device."""
    precision, mixed = plan.base_model_precision, plan.mixed_precision
    away = estimate.offloaded_bytes(plan.flavour, plan.base_model_offload, precision, mixed)
    return estimate.weight_bytes(plan.flavour, "transformer", precision, mixed) - away


def _vae(plan: Plan) -> int:
    return estimate.weight_bytes(plan.flavour, "vae", "no_change", plan.mixed_precision)


def _unpacked(plan: Plan, *, compiled: bool = False) -> int:
    precision, mixed = plan.base_model_precision, plan.mixed_precision
    return activations.unpacked(plan.flavour, precision, mixed, compiled=compiled)


def _adapter(plan: Plan) -> int:
    return estimate.adapter_bytes(_lora_numbers(plan), plan.optimizer, plan.use_ema)


def _lora_numbers(plan: Plan) -> int:
    return plan.adapter.parameters


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB // 20 else f"{size / GIB:.2g}"
