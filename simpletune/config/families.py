"""What is known of each model family without loading it: flavours, LoRA targets, where to ask for access.

Free of torch, so that the wizard and `validate` can read it. `models/family.py` is the other half: what a family does.
To add a family, add an entry here and a module beside `models/sd3.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Licence:
    """What a model may be used under, as the hub's metadata has it: `identifier` is one that the hub knows, or "other"
    with a `name` and the address of the text."""

    identifier: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Flavour:
    """One published model of a family.

    `resolution` and `bucket_alignment` are in pixels; `block_count` is the number of transformer blocks, of which the
    last is `context_pre_only` (its text stream ends there, so it lacks `to_add_out` and the text feed-forward);
    `dual_attention_blocks` are the blocks with a second, image-only attention (SD3.5-medium). `t5_tokens` is what T5
    reads of a caption where `tokenizer_max_length` doesn't say. `licence` is the one it was published under.
    """

    name: str
    hub_id: str | None  # None: built into the package
    gated: bool
    resolution: int
    bucket_alignment: int
    block_count: int
    dual_attention_blocks: tuple[int, ...] = ()
    t5_tokens: int = 154
    licence: Licence | None = None


@dataclass(frozen=True)
class FamilyFacts:
    """A family's flavours and the names its LoRA targets go by.

    `lora_targets` maps a preset of `lora_target` to the module name suffixes it trains in every block;
    `block_modules` are all linear layers a block may have, for checking patterns without the model. Pictures' sides are
    multiples of `size_multiple` pixels (the VAE's factor times the transformer's patch). `classes`: what diffusers
    calls the modules around linear layers; "N" stands for a block's number.
    """

    name: str
    flavours: Mapping[str, Flavour]
    lora_targets: Mapping[str, tuple[str, ...]]
    block_prefix: str
    block_modules: tuple[str, ...]
    outer_modules: tuple[str, ...]
    size_multiple: int
    classes: Mapping[str, str]

    def class_of(self, flavour: Flavour, module: str) -> str:
        """The class of a module that holds linear layers, as diffusers calls it."""
        name, prefix = module, f"{self.block_prefix}."
        if module.startswith(prefix):
            number, _, name = module.removeprefix(prefix).partition(".")
            if name == "norm1" and int(number) in flavour.dual_attention_blocks:
                return self.classes["norm1 of two"]
            if name == "norm1_context" and int(number) == flavour.block_count - 1:
                return self.classes["norm1_context of the last"]
            name = f"{self.block_prefix}.N.{name}".rstrip(".")
        return self.classes[name]


_IMAGE_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
_TEXT_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
_SECOND_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_MODULATION = ("norm1.linear", "norm1_context.linear")


def _community(hub_id: str) -> Licence:
    """Stability AI's community licence, by the text that lies beside the model."""
    return Licence("other", "stabilityai-ai-community", f"https://huggingface.co/{hub_id}/blob/main/LICENSE.md")


_SD3_MEDIUM, _SD35_MEDIUM = "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-3.5-medium"
_SD35_LARGE = "stabilityai/stable-diffusion-3.5-large"

_ATTENTION_CLASSES = {"": "Attention", ".to_out": "ModuleList"}
_FEED_CLASSES = {"": "FeedForward", ".net": "ModuleList", ".net.0": "GELU"}
_ADALN = "AdaLayerNormZero"
_BLOCK_CLASSES = {
    "": "JointTransformerBlock",
    "norm1": _ADALN,
    "norm1_context": _ADALN,
    **{f"{attention}{part}": name for attention in ("attn", "attn2") for part, name in _ATTENTION_CLASSES.items()},
    **{f"{feed}{part}": name for feed in ("ff", "ff_context") for part, name in _FEED_CLASSES.items()},
}
_CLASSES = {
    "": "SD3Transformer2DModel",
    "norm_out": "AdaLayerNormContinuous",
    "time_text_embed": "CombinedTimestepTextProjEmbeddings",
    "time_text_embed.timestep_embedder": "TimestepEmbedding",
    "time_text_embed.text_embedder": "PixArtAlphaTextProjection",
    "transformer_blocks": "ModuleList",
    **{f"transformer_blocks.N.{name}".rstrip("."): kind for name, kind in _BLOCK_CLASSES.items()},
    "norm1 of two": "SD35AdaLayerNormZeroX",
    "norm1_context of the last": "AdaLayerNormContinuous",
}

SD3 = FamilyFacts(
    name="sd3",
    flavours={
        flavour.name: flavour
        for flavour in (
            Flavour("sd3-medium", f"{_SD3_MEDIUM}-diffusers", True, 1024, 64, 24, licence=_community(_SD3_MEDIUM)),
            Flavour(
                "sd3.5-medium", _SD35_MEDIUM, True, 1024, 64, 24, tuple(range(13)), licence=_community(_SD35_MEDIUM)
            ),
            Flavour("sd3.5-large", _SD35_LARGE, True, 1024, 64, 38, licence=_community(_SD35_LARGE)),
            Flavour("tiny", None, False, 128, 16, 4, t5_tokens=32, licence=Licence("cc0-1.0")),
        )
    },
    lora_targets={
        "attention": (*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_SECOND_ATTENTION),
        "attention-image": (*_IMAGE_ATTENTION, *_SECOND_ATTENTION),
        "blocks": (*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_SECOND_ATTENTION, *_FEED_FORWARD),
    },
    block_prefix="transformer_blocks",
    outer_modules=(
        "context_embedder",
        "norm_out.linear",
        "proj_out",
        *(f"time_text_embed.{part}_embedder.linear_{n}" for part in ("timestep", "text") for n in (1, 2)),
    ),
    block_modules=(*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_SECOND_ATTENTION, *_FEED_FORWARD, *_MODULATION),
    size_multiple=16,
    classes=_CLASSES,
)

FAMILIES: Mapping[str, FamilyFacts] = {SD3.name: SD3}


def module_names(facts: FamilyFacts, flavour: Flavour) -> list[str]:
    """Every linear layer of the flavour's transformer, by its full name, as diffusers names them."""
    names = list(facts.outer_modules)
    for block in range(flavour.block_count):
        last = block == flavour.block_count - 1
        for module in facts.block_modules:
            if module.startswith("attn2.") and block not in flavour.dual_attention_blocks:
                continue
            if last and module in {"attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2"}:
                continue
            names.append(f"{facts.block_prefix}.{block}.{module}")
    return names


def matching_modules(pattern: str, names: Iterable[str]) -> list[str]:
    """The modules a pattern of `lora_target` means, in the order of `names`.

    A pattern is a module's name or its last parts: "to_q" and "attn.to_q" mean that layer in every block; `*` stands
    for anything, dots included ("transformer_blocks.1*.attn.*").
    """
    return [name for name in names if matches(pattern, name)]


def matches(pattern: str, module_name: str) -> bool:
    """Whether a pattern of `lora_target` means a module: all of its name, or its last parts."""
    return fnmatchcase(module_name, pattern) or fnmatchcase(module_name, f"*.{pattern}")
