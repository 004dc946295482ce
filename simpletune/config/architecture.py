"""The architecture of each flavour, as JSON shipped with the package, so that nothing is fetched to know a shape.

A part is a folder of the diffusers layout: transformer, vae, scheduler, text_encoder, _2, _3, tokenizer, _2, _3.
`models/components.py` makes modules of these, `machine/shapes.py` reckons with them without torch. The tiny flavour's
are the config files of the model itself (`config/builtin.py`), those of SD3's flavours stand in `architectures/`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from simpletune import outside
from simpletune.config import builtin
from simpletune.config.families import FAMILIES

ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZER_PARTS = ("tokenizer", "tokenizer_2", "tokenizer_3")
WEIGHT_PARTS = (*ENCODER_PARTS, "vae", "transformer")

# Of the transformer's linear layers, embedders and the output projection keep their precision: they are small and
# everything passes through them. The AdaLN linears, a third of the weights, are quantized.
FULL_PRECISION = ("pos_embed*", "time_text_embed*", "context_embedder", "norm_out*", "proj_out")

_FOLDER = Path(__file__).parent / "architectures" / "sd3"


def component_config(flavour: str, part: str) -> dict[str, Any]:
    """The config of one part (not a tokenizer) of a flavour: a fresh dict.

    Raises ModelUnavailable for tiny where the installation lacks the built-in model.
    """
    if flavour == builtin.TINY:
        return builtin.read_config(f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json")
    name = f"transformer.{flavour}.json" if part == "transformer" else f"{part}.json"
    config: dict[str, Any] = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return config


@cache
def clip_tokens(flavour: str) -> int:
    """Tokens of a caption that a flavour's CLIPs read: its positions. A model's own files have the last word."""
    tokens: int = component_config(flavour, "text_encoder")["max_position_embeddings"]
    return tokens


@cache
def largest_side(flavour: str) -> int:
    """The longest side of a picture, in pixels, that a flavour has positions for."""
    positions: int = component_config(flavour, "transformer")["pos_embed_max_size"]
    return positions * FAMILIES["sd3"].size_multiple


def side_limit(flavour: str, folder: Path | None) -> int:
    """`largest_side` of the very model, where it is a folder in the diffusers layout; else the flavour's."""
    positions = config_number(folder / "transformer" / "config.json", "pos_embed_max_size") if folder else None
    return positions * FAMILIES["sd3"].size_multiple if positions else largest_side(flavour)


def config_number(path: Path, key: str) -> int | None:
    """A whole number that a part's config file says; None where it doesn't, or there is no such file."""
    try:
        value = outside.read_json(path)[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None
