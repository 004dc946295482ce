"""How fast `simpletune caption` is on a GPU: `python tests/gpu/measure_caption.py`, in about a minute.

The default model's architecture at its real size (2.1 billion parameters), with random weights: they never say that
they are done, so every caption is as long as it may be, which is the slowest case. Pictures are 1024 x 1024 and go
through the command's own code, in memory. A line for each batch size: pictures a second, seconds for a batch, peak
memory; then the largest batch with 8-bit language layers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from caption_models import qwen_config, qwen_tokenizer, save_qwen_processor
from transformers import Qwen3VLForConditionalGeneration

from simpletune.models.caption_loading import load_processor, quantize_language
from simpletune.models.captioning import Describer, fitted, greedy

REAL = {
    "text": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mrope_section": [24, 20, 20],
        "max_position_embeddings": 262144,
    },
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "depth": 24,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
        "num_position_embeddings": 2304,
        "patch_size": 16,
    },
    "vocabulary": 151936,
}
SMALL = {
    "text": REAL["text"] | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    "vision": REAL["vision"]
    | {"hidden_size": 32, "num_heads": 2, "depth": 2, "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
    "vocabulary": 300,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure simpletune caption.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--small", action="store_true", help="a model of next to no size, to try this script")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    describer = _describer(SMALL if arguments.small else REAL, device, arguments.tokens)
    count = sum(parameter.numel() for parameter in describer.model.parameters())
    print(
        f"{count / 1e9:.2f} billion parameters, torch {torch.__version__}, {_name(device)}, {arguments.tokens} tokens"
    )
    began = time.monotonic()
    pictures = [fitted(_picture(number)) for number in range(max(arguments.batches))]
    rate = len(pictures) / (time.monotonic() - began)
    print(f"one thread makes and shrinks {rate:.0f} pictures/s to {pictures[0].size}")
    describer.describe(pictures[:1])  # kernels are chosen and loaded
    for size in arguments.batches:
        _measure(describer, pictures[:size], "as it is")
    layers = quantize_language(describer.model, "int8-quanto", device)
    describer.describe(pictures[:1])
    _measure(describer, pictures, f"int8, {layers} layers")


def _describer(shape: dict[str, Any], device: torch.device, tokens: int) -> Describer:
    tokenizer = qwen_tokenizer()
    config = qwen_config(shape["vocabulary"], tokenizer.get_added_vocab(), dict(shape["text"]), shape["vision"])
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    model.generation_config.suppress_tokens = list(tokenizer.get_added_vocab().values())
    greedy(model)
    with tempfile.TemporaryDirectory() as folder:
        save_qwen_processor(Path(folder), tokenizer, {"shortest_edge": 65536, "longest_edge": 16777216})
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
        processor = load_processor(Path(folder))
    return Describer(model, processor, device, None, tokens)


def _measure(describer: Describer, pictures: list[Image.Image], how: str) -> None:
    cuda = describer.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    describer.prepare(pictures)
    prepared = time.monotonic() - began
    describer.describe(pictures)  # ends with the tokens on the host
    seconds = time.monotonic() - began - prepared
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    weights = sum(tensor.nbytes for tensor in (*describer.model.parameters(), *describer.model.buffers())) / 2**30
    print(
        f"{how:>20}, batch {len(pictures):3}: {len(pictures) / seconds:6.2f} pictures/s, {seconds:6.2f} s a batch "
        f"({prepared:.2f} s of it to prepare), peak {peak:.2f} GiB, weights {weights:.2f} GiB",
        flush=True,
    )


def _picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
