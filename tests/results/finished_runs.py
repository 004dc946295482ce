"""Finished runs as a trainer leaves them, made without training: what cards and uploads are tested on."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from simpletune.config.load import load, resolved
from simpletune.results.card.facts import Facts, gather_facts
from simpletune.results.pictures import save_picture

STEPS = 20
VERSIONS = {"simpletune": "0.1.0", "diffusers": "0.42.1"}


def make_run(folder: Path, *, bytes_of_adapter: int = 0, data: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A finished run of STEPS steps below `folder`, on three pictures whose names and captions nobody should see; its
    output folder. `keys` go into config.json, `data` into the data set."""
    pictures = folder / "private pictures"
    pictures.mkdir(parents=True)
    save_picture(pictures / "aunt-mabel.png", np.zeros((64, 64, 3), np.uint8), {})
    entry = {"id": "mabels", "type": "local", "dataset_type": "image", "instance_data_dir": str(pictures)}
    (folder / "multidatabackend.json").write_text(json.dumps([entry | (data or {})]))
    config = {"model_flavour": "tiny", "output_dir": "runs/balls", "resolution": 64, "mixed_precision": "no"}
    (folder / "config.json").write_text(json.dumps(config | keys))
    settings = load(folder / "config.json")[0]
    output = settings.output_dir
    output.mkdir(parents=True)
    source = settings.pretrained_model_name_or_path or "tiny-2"
    described = {
        **resolved(settings),
        "model": {"source": source, "layout": "folder", "commit": None},
        "versions": VERSIONS,
        "device": "cpu",
    }
    (output / "run.json").write_text(json.dumps(described))
    rows = [
        {"data_set": "mabels", "name": name, "captions": [f"mabel {name}"], "size": [64, 64], "bucket": [64, 64]}
        for name in ("aunt-mabel.png", "b.png", "c.png")
    ]
    role = {"role": "training", "repeats": 1}
    manifest = {"data_sets": {"mabels": role}, "trained": rows[:2], "held_out": rows[2:]}
    (output / "data.json").write_text(json.dumps(manifest))
    losses = [{"kind": "validation", "step": step, "validation_loss": loss} for step, loss in ((0, 0.9), (STEPS, 0.5))]
    (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    (output / "phases.json").write_text(json.dumps([{"phase": "train", "seconds": 12.0}]))
    write_adapter(output / "pytorch_lora_weights.safetensors", STEPS, bytes_of_adapter)
    (output / "finished.json").write_text(json.dumps({"step": STEPS}))
    return output


def write_adapter(path: Path, steps: int, more: int = 0, fill: bytes = b"\1") -> None:
    """A LoRA of one layer, rank 2, with `more` bytes of another tensor."""
    layer = "transformer.transformer_blocks.0.attn.to_q"
    shapes = {f"{layer}.lora_A.weight": [2, 8], f"{layer}.lora_B.weight": [8, 2], "ballast": [more // 4]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "simpletune": json.dumps({"steps": steps})}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + fill * end)


def take_pictures(output: Path, prompts: dict[str, str], step: int = STEPS, side: int = 64) -> None:
    """The base's and a step's pictures of each prompt, as validation takes them."""
    for name, prompt in prompts.items():
        about = {"prompt": prompt, "negative_prompt": "", "seed": "42", "size": f"{side}x{side}"}
        for place, adapter, colour in (("base", "none", 40), (f"step-{step:06d}", "raw", 200)):
            (output / "samples" / place).mkdir(parents=True, exist_ok=True)
            more = {"adapter": adapter} | ({"step": str(step)} if adapter == "raw" else {})
            pixels = np.full((side, side, 3), colour, np.uint8)
            save_picture(output / "samples" / place / f"{name}-{side}x{side}-42.png", pixels, about | more)


def facts_of(output: Path) -> Facts:
    return gather_facts(output)
