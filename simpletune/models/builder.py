"""Build an SD3 pipeline folder of any flavour with random weights: real shapes, real layout, nothing downloaded.

The folder loads through the ordinary code, in this program and in stock diffusers. `tiny`, untrained, takes about a
second; sd3-medium with T5-XXL, 16 GB, in less than a minute with memory for a few tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simpletune import files
from simpletune.config import architecture
from simpletune.config.builtin import NAME_KEY
from simpletune.errors import UsageError
from simpletune.models import components, vocabulary
from simpletune.models.random_weights import positions, random_tensor
from simpletune.models.tensor_file import TensorSpec, write_sharded

ALL_PARTS = (*architecture.WEIGHT_PARTS, *architecture.TOKENIZER_PARTS, "scheduler")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_MAX_SHARD_BYTES = 5_000_000_000
_CLIP_VOCABULARY_LIMIT, _T5_VOCABULARY_LIMIT = 1344, 1152  # of the tiny flavour; more would not say more


def build(
    folder: Path,
    flavour: str,
    dtype: str = "bf16",
    parts: Sequence[str] = ALL_PARTS,
    seed: int = 0,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    name: str | None = None,
    written: Callable[[int], None] = lambda _bytes: None,
) -> None:
    """Write the pipeline folder, whole or not at all; `written` is told the bytes of each tensor.

    `name` is what model_index.json calls the model, as that of the built-in one must (`config/builtin.py`).

    Raises UsageError when `folder` exists or its parent doesn't.
    """
    folder = folder.expanduser().absolute()
    if folder.exists():
        raise UsageError(f"{folder} exists already", "name a folder that doesn't exist yet")
    if not folder.parent.is_dir():
        raise UsageError(f"{folder.parent} is not a folder", "create it first")
    with files.new_folder(folder) as temporary:
        for part in parts:
            (temporary / part).mkdir()
            if part not in architecture.WEIGHT_PARTS:
                _write_description(temporary / part, part, flavour)
                continue
            config = architecture.component_config(flavour, part)
            files.write_json(temporary / part / "config.json", config)
            specs, stem = weight_specs(part, config, DTYPES[dtype]), components.weights_stem(part)
            write_sharded(temporary / part, stem, specs, _maker(seed, part, config), max_shard_bytes, written)
        files.write_json(temporary / "model_index.json", _model_index(parts, name))


def build_descriptions(folder: Path, flavour: str) -> None:
    """Write the folder without weights: the tokenizers and the scheduler. `folder` must not exist yet."""
    build(folder, flavour, parts=(*architecture.TOKENIZER_PARTS, "scheduler"))


def total_bytes(flavour: str, dtype: str, parts: Sequence[str]) -> int:
    """The size of all weights `build` would write."""
    weights = [part for part in parts if part in architecture.WEIGHT_PARTS]
    specs = [weight_specs(part, architecture.component_config(flavour, part), DTYPES[dtype]) for part in weights]
    return sum(spec.size_bytes for part in specs for spec in part)


def without_t5(parts: Sequence[str] = ALL_PARTS) -> tuple[str, ...]:
    """`parts` without the third text encoder, which a run with `use_t5` false never reads."""
    return tuple(part for part in parts if part not in {"text_encoder_3", "tokenizer_3"})


def weight_specs(part: str, config: dict[str, Any], dtype: torch.dtype) -> list[TensorSpec]:
    """Every tensor a part's weight file holds, tied ones once."""
    module = components.empty_module(part, config)
    tied = getattr(module, "_tied_weights_keys", None) or ()
    state = module.state_dict()
    return [TensorSpec(name, tuple(tensor.shape), dtype) for name, tensor in state.items() if name not in tied]


def _maker(seed: int, part: str, config: dict[str, Any]) -> Callable[[TensorSpec], Tensor]:
    def make(spec: TensorSpec) -> Tensor:
        if spec.name == "pos_embed.pos_embed":
            return positions(config, spec.shape).to(spec.dtype)
        return random_tensor(seed, part, spec.name, spec.shape, spec.dtype)

    return make


def _write_description(folder: Path, part: str, flavour: str) -> None:
    """Fill the folder of a part that has no weights."""
    if part == "scheduler":
        files.write_json(folder / "scheduler_config.json", architecture.component_config(flavour, part))
    else:
        _tokenizer(part, flavour).save_pretrained(folder)


def _tokenizer(part: str, flavour: str) -> Any:
    if part == "tokenizer_3":
        encoder = architecture.component_config(flavour, "text_encoder_3")
        return vocabulary.t5_tokenizer(min(encoder["vocab_size"], _T5_VOCABULARY_LIMIT))
    encoder = architecture.component_config(flavour, "text_encoder" + part.removeprefix("tokenizer"))
    size = min(encoder["vocab_size"], _CLIP_VOCABULARY_LIMIT)
    pad_token = "!" if part == "tokenizer_2" else vocabulary.END
    return vocabulary.clip_tokenizer(size, pad_token, encoder["max_position_embeddings"])


def _model_index(parts: Sequence[str], name: str | None) -> dict[str, Any]:
    absent = [None, None]
    classes = {part: list(names) if part in parts else absent for part, names in components.PIPELINE_CLASSES.items()}
    named = {} if name is None else {NAME_KEY: name}
    return {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.42.0", **named, **classes}
