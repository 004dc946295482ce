"""Images a minute, ours and stock diffusers': `python tests/gpu/measure_sampling.py OUTFILE`.

SD3-Medium of real size with random weights and an int8 base with a LoRA of rank 16, 1024x1024, 28 steps, guidance 5.
Rows are the transformer's part of a picture, for one picture or four at once; decoding is timed by itself and is the
same in all of them. Ends in two minutes on an H100.

    stock          StableDiffusion3Pipeline over this program's quantized layers and LoRA
    stock, quanto  the same over optimum-quanto's own layers and PEFT's
    ours           models/sd3_sampling.py: plain calls, in a CUDA graph, and that over compiled blocks

`--tiny` tries the script on a processor; `--only NAME` (several) leaves rows out; `--set KEY=VALUE` changes settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simpletune.bench.batches import random_text
from simpletune.bench.clock import peaks, synchronize
from simpletune.bench.eager import _model as stock_model
from simpletune.bench.settings import default_settings
from simpletune.config.settings import Settings
from simpletune.machine.allocator import map_in_pages
from simpletune.machine.estimate import text_tokens
from simpletune.machine.execution import Way
from simpletune.models.adapters import attach_lora, trainable_parameters
from simpletune.models.family import SamplingRequest, TextEncoding
from simpletune.models.load import compute_dtype
from simpletune.models.memory import release
from simpletune.models.random_source import random_files
from simpletune.models.runtime import quiet_libraries
from simpletune.models.sd3 import SD3, _scheduler

BATCHES = (1, 4)
WARM_UP = 3  # steps: on CUDA the third is captured
_FIRST: dict[int, Tensor] = {}  # row's latents, by batch
Sample = Callable[[SamplingRequest], Tensor]


def main() -> None:
    given = arguments()
    map_in_pages()
    quiet_libraries()
    chosen = ["base_model_precision=int8-quanto", "lora_rank=16", "validation_guidance=5", *given.set]
    if given.tiny:
        chosen += ["validation_num_inference_steps=4", "validation_resolution=64x64"]
    else:
        chosen += ["validation_num_inference_steps=28", "validation_resolution=1024x1024"]
    settings = default_settings("cpu" if given.tiny else "cuda", "no" if given.tiny else "bf16", chosen)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(settings, Path(folder) / "model", given)
    found["whole_seconds"] = round(time.perf_counter() - began, 1)
    if given.outfile is not None:
        given.outfile.write_text(json.dumps(found, indent=1) + "\n")
    print(*lines(found), sep="\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Images a minute, ours and stock diffusers'.")
    parser.add_argument("outfile", type=Path, nargs="?")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", action="append", choices=("stock", "quanto", "eager", "graph", "compiled"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def measure(settings: Settings, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cpu" if given.tiny else "cuda")
    wanted = given.only or ("stock", "quanto", "eager", "graph", "compiled")
    family, dtype = SD3(), compute_dtype(settings)
    files = random_files(folder, settings.model_flavour, device, dtype)
    scheduler = _scheduler(files)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "settings": {key: getattr(settings, key) for key in ("model_flavour", "base_model_precision", "lora_rank")},
        "size": settings.validation_resolution[0],
        "steps": settings.validation_num_inference_steps,
        "guidance": settings.validation_guidance,
        "rows": [],
        "said": [],
    }
    vae = family.load_vae(files, settings, device)
    found["decode_seconds"] = round(decoding(settings, vae, device), 4)
    del vae
    transformer = family.load_transformer(files, settings, device)
    attach_lora(transformer, settings)
    with torch.no_grad():
        for _, parameter in trainable_parameters(transformer):
            parameter.normal_(0.0, 0.02)
    transformer.eval()
    if "stock" in wanted:
        found["rows"] += rows("stock", pipeline(transformer, scheduler), settings, device, found)
    ways = {
        "eager": Way(captured=False, compiled=False),
        "graph": Way(captured=device.type == "cuda", compiled=False),
        "compiled": Way(captured=device.type == "cuda", compiled=True),
    }
    for name in (name for name in ways if name in wanted):
        sampler = family.sampler(files, transformer, device, ways[name], found["said"].append)
        found["rows"] += rows(f"ours, {name}", sampler.latents, settings, device, found)
        sampler.release()
        del sampler
    if "quanto" in wanted:
        del transformer
        release(device)
        found["rows"] += quanto_rows(settings, scheduler, device, found)
    return found


def quanto_rows(
    settings: Settings, scheduler: Any, device: torch.device, found: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of the layers that diffusers' users have: they may not run on every machine."""
    try:
        model = stock_model(replace(settings, gradient_checkpointing=False), device).eval()
        model.to(compute_dtype(settings))  # as a pipeline has an adapter that it loads
        return rows("stock, quanto", pipeline(model, scheduler), settings, device, found)
    except Exception as error:  # whatever goes wrong in others' layers is a result
        found["said"].append(f"stock, quanto: {type(error).__name__}: {str(error).splitlines()[0]}")
        return []


def pipeline(transformer: nn.Module, scheduler: Any) -> Sample:
    """The stock pipeline as a function of the same request."""
    from diffusers import StableDiffusion3Pipeline

    parts = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    made = StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, **dict.fromkeys(parts))
    made.set_progress_bar_config(disable=True)

    def sample(wanted: SamplingRequest) -> Tensor:
        count = len(wanted.seeds)
        latents: Tensor = made(
            prompt_embeds=wanted.encoding.prompt_embeds,
            pooled_prompt_embeds=wanted.encoding.pooled_prompt_embeds,
            negative_prompt_embeds=wanted.negative.prompt_embeds.repeat(count, 1, 1),
            negative_pooled_prompt_embeds=wanted.negative.pooled_prompt_embeds.repeat(count, 1),
            width=wanted.width,
            height=wanted.height,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in wanted.seeds],
            output_type="latent",
        ).images
        return latents

    return sample


def rows(
    name: str, sample: Sample, settings: Settings, device: torch.device, found: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row a batch size: seconds of all steps, and how far the latents are from the first row's of that size."""
    made = []
    for batch in BATCHES:
        wanted = request(settings, batch, device)
        first, _ = timed(sample, replace(wanted, steps=WARM_UP), device)
        release(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        runs = [timed(sample, wanted, device) for _ in range(2 if batch == 1 else 1)]
        seconds, latents = min(runs, key=lambda run: run[0])
        against = _FIRST.setdefault(batch, latents.float().cpu())
        row = {
            "name": name,
            "batch": batch,
            "first_seconds": round(first, 2),
            "seconds": round(seconds, 3),
            "step_ms": round(1000 * seconds / wanted.steps, 1),
            "images_a_minute": round(60 * batch / seconds, 2),
            "with_decoding": round(60 / (seconds / batch + found["decode_seconds"]), 2),
            "reserved_gib": peaks(device).reserved_gib,
            "differs": round(float((latents.float().cpu() - against).norm() / against.norm()), 4),
        }
        print(row, flush=True)
        made.append(row)
    return made


def request(settings: Settings, batch: int, device: torch.device) -> SamplingRequest:
    torch.manual_seed(0)
    tokens = text_tokens(settings.model_flavour, settings.tokenizer_max_length)
    both = random_text(settings, tokens, batch + 1, device)
    width, height = settings.validation_resolution[0]
    return SamplingRequest(
        encoding=TextEncoding(both.prompt_embeds[1:], both.pooled_prompt_embeds[1:]),
        negative=TextEncoding(both.prompt_embeds[:1], both.pooled_prompt_embeds[:1]),
        width=width,
        height=height,
        seeds=tuple(range(batch)),
        steps=settings.validation_num_inference_steps,
        guidance=settings.validation_guidance,
        skip_layers=None,
        skip_layers_start=0.01,
        skip_layers_stop=0.2,
        skip_layers_scale=2.8,
    )


def timed(sample: Sample, wanted: SamplingRequest, device: torch.device) -> tuple[float, Tensor]:
    synchronize(device)
    began = time.perf_counter()
    latents = sample(wanted)
    synchronize(device)
    return time.perf_counter() - began, latents


def decoding(settings: Settings, vae: Any, device: torch.device) -> float:
    """Seconds of a picture, the better of two."""
    width, height = settings.validation_resolution[0]
    latents = torch.randn(1, 16, height // 8, width // 8, device=device)
    taken = []
    for _ in range(3):
        synchronize(device)
        began = time.perf_counter()
        vae.decode(latents)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def lines(found: dict[str, Any]) -> list[str]:
    width, height = found["size"]
    said = [
        f"on {found['device']}, torch {found['torch']}: {found['settings']}, {width}x{height}, {found['steps']} steps, "
        f"guidance {found['guidance']:g}; decoding takes {found['decode_seconds']} s a picture",
        f"measured in {found['whole_seconds']} s",
        *found["said"],
        "| way | batch | ms a step | images a minute | against stock | with decoding | first run, s | reserved, GiB "
        "| latents differ |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    stock = {row["batch"]: row["images_a_minute"] for row in found["rows"] if row["name"] == "stock"}
    for row in found["rows"]:
        ratio = f"{row['images_a_minute'] / stock[row['batch']]:.2f}" if row["batch"] in stock else "-"
        reserved = "-" if row["reserved_gib"] is None else f"{row['reserved_gib']:.2f}"
        said.append(
            f"| {row['name']} | {row['batch']} | {row['step_ms']} | {row['images_a_minute']} | {ratio} "
            f"| {row['with_decoding']} | {row['first_seconds']} | {reserved} | {row['differs']:.2%} |"
        )
    return said


if __name__ == "__main__":
    main()
