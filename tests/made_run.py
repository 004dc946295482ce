"""Folders of runs as the trainer leaves them, made of numbers and pictures that nobody trained."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpletune.results.pictures import save_picture

BATCH = 4


def make_run(
    folder: Path, *, steps: int = 60, validations: int = 3, prompts: int = 2, edge: int = 64, trained: int = 3
) -> Path:  # fmt: skip
    """A run's folder in `folder`/output, of made-up numbers and pictures in the trainer's own formats."""
    run = folder / "output"
    pictures = folder / "pictures"
    for path in (run, pictures):
        path.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    rows = []
    for index in range(trained):
        Image.fromarray(painting(draw, edge)).save(pictures / f"{index:03}.jpg", quality=90)
        rows.append(
            {"data_set": "paintings", "name": f"{index:03}.jpg", "captions": [f"painting number {index}"],
             "size": [edge, edge], "bucket": [edge, edge], "crops": [], "latents": []}
        )  # fmt: skip
    role = {"role": "training", "loss_weight": 1.0, "mask_source": "none"}
    (run / "data.json").write_text(json.dumps({"data_sets": {"paintings": role}, "trained": rows, "held_out": []}))
    (run / "run.json").write_text(json.dumps(described(pictures, run, steps, prompts)))
    write_metrics(run / "metrics.jsonl", steps, validations)
    every = max(1, steps // validations)
    for step in range(0, validations + 1):
        name = "base" if step == 0 else f"step-{step * every:06d}"
        (run / "samples" / name).mkdir(parents=True, exist_ok=True)
        for prompt in range(prompts):
            about = {"prompt": f"a prompt, number {prompt}", "seed": "42", "size": f"{edge}x{edge}"}
            path = run / "samples" / name / f"prompt{prompt}-{edge}x{edge}-42.png"
            save_picture(path, painting(draw, edge), about)
    (run / "finished.json").write_text(json.dumps({"step": steps}))
    (run / "pytorch_lora_weights.safetensors").write_bytes(bytes(1000))
    return run


def painting(draw: np.random.Generator, edge: int) -> np.ndarray[Any, Any]:
    """uint8 (edge, edge, 3): smooth colours under a little grain, about as hard to pack as a photograph."""
    coarse = Image.fromarray(draw.integers(0, 256, (edge // 24 + 1, edge // 24 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((edge, edge), Image.Resampling.BICUBIC), dtype=np.int16)
    return np.clip(smooth + draw.normal(0, 6, (edge, edge, 1)), 0, 255).astype(np.uint8)


def described(pictures: Path, run: Path, steps: int, prompts: int) -> dict[str, Any]:
    config = {
        "model_flavour": "sd3-medium", "lora_rank": 16, "learning_rate": 1e-4, "max_train_steps": steps,
        "train_batch_size": BATCH, "validation_resolution": "1024x1024", "tokenizer_max_length": 154,
        "mixed_precision": "bf16", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3-medium-diffusers",
        "output_dir": str(run),
    }  # fmt: skip
    data = {"id": "paintings", "type": "local", "instance_data_dir": str(pictures), "caption_strategy": "textfile"}
    return {
        "config": {key: {"value": value, "origin": "config.json:3"} for key, value in config.items()},
        "datasets": [{key: {"value": value, "origin": "multidatabackend.json:3"} for key, value in data.items()}],
        "text_embeds": [],
        "validation_prompts": {f"prompt{index}": f"a prompt, number {index}" for index in range(prompts)},
        "model": {"source": "stabilityai/stable-diffusion-3-medium-diffusers", "layout": "folder", "commit": None},
        "versions": {"simpletune": "0.1.0"},
        "device": "cuda:0",
        "total_steps": steps,
    }


def write_metrics(path: Path, steps: int, validations: int) -> None:
    draw = random.Random(1)
    every = max(1, steps // validations)
    lines = [{"kind": "validation", "step": 0, "validation_loss": 0.5}]
    for step in range(1, steps + 1):
        sigmas = [round(draw.random(), 6) for _ in range(BATCH)]
        losses = [round(0.1 + 0.4 * sigma + draw.gauss(0, 0.03) + 0.2 * math.exp(-step / 900), 6) for sigma in sigmas]
        lines.append(
            {"kind": "step", "step": step, "epoch": step * BATCH // 20, "loss": sum(losses) / BATCH,
             "learning_rate": 1e-4 * (1 - step / steps), "grad_norm": abs(draw.gauss(0.2, 0.05)), "sigma": sigmas,
             "sample_loss": losses, "samples_per_second": draw.gauss(18.5, 0.4), "data_wait": 0.0, "memory_gib": 14.6}
        )  # fmt: skip
        if step % every == 0:
            lines.append({"kind": "validation", "step": step, "validation_loss": 0.3 + 0.2 * math.exp(-step / 2000)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
