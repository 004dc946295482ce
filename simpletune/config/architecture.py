"""The architecture of each flavour, as JSON shipped with the package, so that nothing is fetched to know a shape.

A part is a folder of the diffusers layout: transformer, vae, scheduler, text_encoder, _2, _3, tokenizer, _2, _3.
`models/components.py` makes modules of these, `machine/shapes.py` reckons with them without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLIP_TOKENS = 77
ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZER_PARTS = ("tokenizer", "tokenizer_2", "tokenizer_3")
WEIGHT_PARTS = (*ENCODER_PARTS, "vae", "transformer")

# Of the transformer's linear layers, embedders and the output projection keep their precision: they are small and
# everything passes through them. The AdaLN linears, a third of the weights, are quantized.
FULL_PRECISION = ("pos_embed*", "time_text_embed*", "context_embedder", "norm_out*", "proj_out")

_FOLDER = Path(__file__).parent / "architectures"


def component_config(flavour: str, part: str) -> dict[str, Any]:
    """The config of one part (not a tokenizer) of a flavour: a fresh dict with its `_class_name`."""
    name = f"transformer.{flavour}.json" if part == "transformer" and flavour != "tiny" else f"{part}.json"
    text = (_FOLDER / ("tiny" if flavour == "tiny" else "sd3") / name).read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config
