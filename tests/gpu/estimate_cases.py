"""The runs that the estimate is fitted to, and those it is held against without having seen them: whole ones (CASES),
and training steps alone, compiled and captured (STEPS)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FIT, HELD_OUT = "fit", "held out"
LIMITED = "limited"  # to what the forecast says it needs: does it then train?

BASE: dict[str, Any] = {
    "execution": "eager",
    "mixed_precision": "bf16",
    "base_model_precision": "int8-quanto",
    "lora_rank": 16,
    "tokenizer_max_length": 154,
    "train_batch_size": 1,
    "gradient_checkpointing": True,
    "resolution": 1024,
    "vae_batch_size": 4,
    "text_encoder_batch_size": 8,
    "num_eval_images": 0,
    "max_train_steps": 8,
    "validation_num_inference_steps": 10,
    "lr_scheduler": "constant",
}


@dataclass(frozen=True)
class Case:
    """One run: what differs from BASE. `encodes`: with caches of its own, so that both encoding phases are measured;
    `samples`: with a validation picture of that size."""

    name: str
    use: str
    keys: dict[str, Any] = field(default_factory=dict)
    flavour: str = "sd3-medium"
    encodes: bool = False
    samples: str | None = None

    def config(self) -> dict[str, Any]:
        keys = BASE | {"model_flavour": self.flavour} | self.keys
        if self.samples is not None:
            keys |= {"validation_prompt": "a drawing of a red parrot", "validation_resolution": self.samples}
        return keys


def _case(use: str, precision: str, edge: int, batch: int, checkpoint: int, **more: Any) -> Case:
    """checkpoint: the interval of checkpointing, 0 for none. `text`: the precision of all three text encoders, `t5` of
    the third alone."""
    fields = {name: more.pop(name) for name in ("flavour", "encodes", "samples") if name in more}
    flavour = fields.get("flavour", "sd3-medium")
    kind = {0: "all kept", 1: "checkpointed"}.get(checkpoint, f"1 block in {checkpoint} checkpointed")
    named = [f"{flavour}, {precision}", f"{edge} px", f"batch {batch}", kind]
    named += [_SHORT.get(key, key.replace("_", " ") + " {}").format(value) for key, value in more.items()]
    keys = {"base_model_precision": _PRECISIONS[precision], "resolution": edge, "train_batch_size": batch}
    keys |= {"gradient_checkpointing": checkpoint > 0, "gradient_checkpointing_interval": max(checkpoint, 1)}
    if "text" in more:
        keys |= {f"text_encoder_{number}_precision": _PRECISIONS[more["text"]] for number in (1, 2, 3)}
    if "t5" in more:
        keys |= {"text_encoder_3_precision": _PRECISIONS[more["t5"]]}
    keys |= {key: value for key, value in more.items() if key not in ("text", "t5")}
    return Case(", ".join(named), use, keys, **fields)


_PRECISIONS = {"bf16": "no_change", **{name: f"{name}-quanto" for name in ("int8", "fp8", "int4", "int2")}}
_SHORT = {
    "text": "text encoders {}", "t5": "T5 {}", "mixed_precision": "mixed_precision {}", "use_t5": "use_t5 {}",
    "text_encoder_batch_size": "{} captions at a time", "vae_batch_size": "{} pictures at a time",
    "lora_rank": "rank {}", "lora_target": "target {}", "use_ema": "EMA", "tokenizer_max_length": "{} T5 tokens",
    "execution": "{}",
}  # fmt: skip

CASES = (
    _case(FIT, "int8", 1024, 1, 1, encodes=True, samples="512x512"),
    _case(FIT, "bf16", 1024, 1, 1, encodes=True, samples="1024x1024", text="bf16", vae_batch_size=1),
    _case(FIT, "bf16", 512, 1, 1, encodes=True, text="int4"),
    _case(FIT, "bf16", 1024, 4, 1),
    _case(FIT, "bf16", 512, 4, 0),
    _case(FIT, "bf16", 1024, 1, 0),
    _case(FIT, "int8", 512, 1, 0),
    _case(FIT, "int8", 1024, 4, 0),
    _case(FIT, "int8", 1024, 2, 2),
    _case(FIT, "int8", 768, 4, 4, samples="768x768"),
    _case(FIT, "int4", 1024, 1, 1, encodes=True, samples="1024x1024", text_encoder_batch_size=24, vae_batch_size=2),
    _case(FIT, "int4", 768, 2, 0),
    _case(FIT, "int2", 512, 1, 1, encodes=True, use_t5=False, vae_batch_size=8),
    _case(FIT, "int8", 512, 1, 1, encodes=True, mixed_precision="no", vae_batch_size=1, samples="512x512"),
    _case(FIT, "bf16", 512, 1, 0, mixed_precision="no"),
    _case(FIT, "int8", 1024, 1, 1, flavour="sd3.5-medium"),
    _case(FIT, "bf16", 512, 2, 0, flavour="sd3.5-medium"),
    _case(FIT, "int8", 1024, 1, 1, lora_rank=128, lora_target="blocks", use_ema=True),
    _case(FIT, "int8", 768, 1, 1, mixed_precision="fp16", encodes=True),
    _case(HELD_OUT, "bf16", 768, 2, 1, encodes=True, samples="768x768", text_encoder_batch_size=1, vae_batch_size=2),
    _case(HELD_OUT, "int8", 1024, 4, 1, encodes=True, samples="1024x1024", t5="int4"),
    _case(HELD_OUT, "int8", 768, 2, 0),
    _case(HELD_OUT, "int4", 512, 4, 2, samples="1280x768"),
    _case(HELD_OUT, "int2", 1024, 2, 1),
    _case(HELD_OUT, "bf16", 1024, 2, 0),
    _case(HELD_OUT, "bf16", 768, 1, 1, mixed_precision="no"),
    _case(HELD_OUT, "int8", 512, 2, 1, encodes=True, tokenizer_max_length=256, vae_batch_size=1, text="int8"),
    _case(HELD_OUT, "int8", 512, 8, 1),
    _case(HELD_OUT, "int8", 768, 2, 1, flavour="sd3.5-medium", samples="1024x1024"),
    _case(HELD_OUT, "int4", 1024, 1, 1, flavour="sd3.5-large", samples="1024x1024"),
    _case(HELD_OUT, "int4", 768, 1, 0, flavour="sd3.5-large"),
    _case(LIMITED, "int8", 1024, 1, 1, encodes=True, samples="1024x1024"),
    _case(LIMITED, "int8", 1024, 1, 1, encodes=True, samples="1024x1024", t5="int4", vae_batch_size=2),
    _case(LIMITED, "int8", 1024, 4, 1, encodes=True, samples="512x512", use_t5=False, vae_batch_size=1),
    _case(LIMITED, "bf16", 1024, 1, 0, encodes=True, samples="512x512", use_t5=False, vae_batch_size=2),
    _case(LIMITED, "int4", 768, 2, 2, encodes=True, samples="512x512", use_t5=False, vae_batch_size=2),
    _case(LIMITED, "int8", 768, 2, 0, encodes=True, use_t5=False, vae_batch_size=2),
    _case(LIMITED, "bf16", 1024, 4, 1, encodes=True, use_t5=False, vae_batch_size=1),
    _case(LIMITED, "int8", 512, 1, 1, encodes=True, text="bf16"),
    _case(LIMITED, "int2", 1024, 1, 1, encodes=True, use_t5=False),
)


def _step(use: str, precision: str, edge: int, batch: int, checkpoint: int, rank: int, **more: Any) -> Case:
    return _case(use, precision, edge, batch, checkpoint, lora_rank=rank, execution="graph", **more)


# Training steps alone, compiled and captured: precision, edge in px, batch, interval of checkpointing, rank.
STEPS = (
    _step(FIT, "bf16", 1024, 1, 1, 16),
    _step(FIT, "bf16", 1024, 2, 0, 64),
    _step(FIT, "bf16", 512, 1, 1, 128),
    _step(FIT, "int8", 1024, 1, 0, 16),
    _step(FIT, "int8", 1024, 4, 1, 128),
    _step(FIT, "int8", 768, 2, 0, 16),
    _step(FIT, "int8", 512, 4, 2, 64),
    _step(FIT, "int4", 512, 2, 1, 16),
    _step(FIT, "fp8", 768, 4, 0, 64),
    _step(HELD_OUT, "int8", 1024, 1, 1, 16, flavour="sd3.5-medium"),
    _step(HELD_OUT, "int2", 768, 1, 1, 64),
    _step(HELD_OUT, "bf16", 768, 2, 1, 16),
    _step(HELD_OUT, "bf16", 512, 4, 0, 128),
    _step(HELD_OUT, "bf16", 1024, 4, 1, 64),
    _step(HELD_OUT, "int8", 1024, 2, 1, 64),
    _step(HELD_OUT, "int8", 512, 1, 0, 128),
    _step(HELD_OUT, "int8", 768, 4, 1, 16),
    _step(HELD_OUT, "int4", 1024, 1, 0, 64),
    _step(HELD_OUT, "int4", 768, 4, 1, 128),
    _step(HELD_OUT, "fp8", 1024, 2, 1, 16),
    _step(HELD_OUT, "int2", 512, 2, 2, 16),
    _step(HELD_OUT, "bf16", 768, 2, 0, 64, flavour="sd3.5-medium"),
    _step(FIT, "int8", 1024, 1, 1, 16, lora_target="blocks"),
)
