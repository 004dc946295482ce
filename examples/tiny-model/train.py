"""Train a tiny SD3 from pictures with captions: the VAE, then text encoders and MMDiT together. Made for one GPU.

    python examples/tiny-model/train.py PREPARED OUT [--vae-seconds 170] [--base-seconds 330] [--seed 0]

PREPARED is what prepare.py wrote. OUT gets `model/` (the pipeline folder), `log.jsonl`, sheets, and the state in
files of at most 16 MB, from which `--resume OUT` goes on: with --vae-seconds 0 it keeps the VAE as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_folder
import torch
from base import Painter, paint, train_base
from pictures import HELD_OUT, TRAIN, Pictures, as_input, load
from safetensors.torch import load_file, save_file
from sheets import curves, sheet
from torch import Tensor
from vae import encode, psnr, scale_and_shift, train_vae

VARIANTS = 8
_STATE_FILE_BYTES = 15_000_000
SHEET_STEPS, SHEET_GUIDANCES = 28, (1.0, 3.0, 5.0)


def main() -> None:
    arguments = _arguments()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device, out = torch.device(arguments.device), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = load(arguments.prepared, TRAIN), load(arguments.prepared, HELD_OUT)
    if arguments.limit:
        training, held_out = training.first(arguments.limit), held_out.first(arguments.limit)
    log = _Log(out / "log.jsonl")
    log("data")({"training": len(training), "held_out": len(held_out)})

    folder, resumed = out / "model", None
    if arguments.resume:
        vae, painter = model_folder.read(arguments.resume / "model")
        resumed = _read_state(arguments.resume)
        if not folder.exists():
            model_folder.start(folder, arguments.seed)
    else:
        vae, painter = model_folder.start(folder, arguments.seed)
    if arguments.vae_seconds:
        train_vae(
            vae, training, held_out, arguments.vae_seconds, arguments.vae_batch, device, arguments.seed, log("vae")
        )
    vae.to(device)
    with torch.no_grad():
        _reconstructions(vae, held_out, out, device)
    latents = encode(vae, training, arguments.variants, device, arguments.seed)
    unseen = encode(vae, held_out, 1, device, arguments.seed)
    if arguments.vae_seconds:
        scale, shift = scale_and_shift(latents)
        painter = Painter(painter.encoders, painter.transformer, scale, shift)
    log("latents")({"scaling_factor": painter.scale, "shift_factor": painter.shift})
    if arguments.base_seconds:
        state = train_base(
            painter, latents, training, (unseen, held_out), arguments.base_seconds, arguments.base_batch, device,
            arguments.seed, log("base"), resumed,
        )  # fmt: skip
        _write_state(out, state)
    model_folder.save(folder, vae, painter)
    _sample_sheets(painter, vae, training, out)
    curves(out / "log.jsonl", out / "curves.png")
    log("done")({})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path, help="the folder that prepare.py wrote")
    parser.add_argument("out", type=Path, help="where the model, its sheets and its state go")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vae-seconds", type=float, default=170, help="0 keeps the resumed VAE")
    parser.add_argument("--base-seconds", type=float, default=330)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--base-batch", type=int, default=512)
    parser.add_argument("--resume", type=Path, help="an OUT of an earlier run to go on from")
    parser.add_argument("--variants", type=int, default=VARIANTS, help="positions of each picture")
    parser.add_argument("--limit", type=int, default=0, help="use the first so many pictures only, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class _Log:
    """log.jsonl and one line of each entry on the screen."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._started = time.monotonic()

    def __call__(self, phase: str) -> Callable[[dict[str, float]], None]:
        def write(values: dict[str, float]) -> None:
            entry = {"phase": phase, "seconds": round(time.monotonic() - self._started, 1), **values}
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            shown = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
            sys.stdout.write(f"{entry['seconds']:7.1f} s  {phase:8}{shown}\n")
            sys.stdout.flush()

        return write


def _write_state(out: Path, state: dict[str, Tensor]) -> None:
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if size + tensor.nbytes > _STATE_FILE_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    for number, part in enumerate(parts):
        save_file(part, out / f"state-{number}.safetensors")


def _read_state(out: Path) -> dict[str, Tensor] | None:
    files = sorted(out.glob("state-*.safetensors"))
    return {name: tensor for path in files for name, tensor in load_file(path).items()} or None


def _reconstructions(vae: Any, held_out: Pictures, out: Path, device: torch.device) -> None:
    """Originals above what the VAE makes of them, sixteen that were not trained on."""
    held_out = held_out.first(16)
    pixels = held_out.pixels
    decoded = vae.decode(vae.encode(as_input(pixels.to(device))).latent_dist.mode()).sample.float().cpu()
    eight_bit = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    values = [f"{value:.1f} dB" for value in psnr(vae, held_out, device)]
    rows = []
    for start in range(0, len(values), 8):
        some = slice(start, start + 8)
        rows += [(list(pixels[some]), ["original"] * len(values[some])), (list(eight_bit[some]), values[some])]
    sheet(rows).save(out / "vae.png")


def _sample_sheets(painter: Painter, vae: Any, training: Pictures, out: Path) -> None:
    """The same captions at several guidances: one of each category, and prompts that nobody trained on."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(out / "model" / "scheduler")
    texts = [row[0] for row in _one_of_each(training)][:32]
    for name, prompts in (("samples", texts), ("new-prompts", NEW_PROMPTS)):
        rows = []
        pictures = {
            g: paint(painter, vae, scheduler, prompts, steps=SHEET_STEPS, guidance=g, seed=1) for g in SHEET_GUIDANCES
        }
        for start in range(0, len(prompts), 8):
            for guidance, made in pictures.items():
                labels = [f"{text} ({guidance:g})" for text in prompts[start : start + 8]]
                rows.append((list(made[start : start + 8]), labels))
        sheet(rows).save(out / f"{name}.png")


def _one_of_each(training: Pictures) -> list[tuple[str, ...]]:
    seen: dict[str, tuple[str, ...]] = {}
    for category, texts in zip(training.categories, training.texts, strict=True):
        seen.setdefault(category, texts)
    return list(seen.values())


NEW_PROMPTS = [
    "a drawing of a red parrot", "a drawing of a blue fish", "a drawing of a green car", "a drawing of a yellow flower",
    "a drawing of an apple", "a drawing of a house", "a drawing of a smiling face", "a drawing of a cat",
    "a drawing of a tree", "a drawing of a guitar", "a drawing of a red heart", "a drawing of a hammer",
    "a drawing of a ship", "a drawing of a cup of coffee", "a drawing of a butterfly", "a drawing of a computer",
]  # fmt: skip

if __name__ == "__main__":
    main()
