"""How exact the fast ways are: `python tests/gpu/measure_fidelity.py OUTFILE [ROW...]`.

Gradients of the LoRA, real size with random weights: the compiled forward pass with each precision and kind of product
against plain calls of diffusers' modules on the same inputs. In fp32 for an unquantized base, in bf16 on the same
quantized weights else. The cosine over all numbers is computed in float64, and the smallest of a single layer's too.

Loss curves (`--curves`): 300 steps of the built-in model, which is trained, in 16 and in 8 bits: the mean of the last
100 losses and the held-out loss against those of 16 bits. A processor computes them too.

    --tiny    the gradients of the built-in model, trained weights and all; also on a processor
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simpletune.bench.batches import random_text
from simpletune.bench.settings import default_settings
from simpletune.config.builtin import tiny_folder
from simpletune.models import eight_bit
from simpletune.models.adapters import attach_lora, trainable_parameters
from simpletune.models.family import ModelFiles, TextEncoding
from simpletune.models.random_source import random_files
from simpletune.models.sd3 import SD3
from simpletune.models.sd3_forward import SD3Forward

ROWS = [
    (precision, matmul)
    for precision in ("no_change", "int8-quanto", "fp8-quanto", "int4-quanto", "int2-quanto")
    for matmul in ("bf16", "int8", "fp8")
    if matmul == "bf16" or precision in ("no_change", "int8-quanto", "fp8-quanto")
]
STEPS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the gradients of the fast ways with plain calls.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="such as int8-quanto/fp8; default: all")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--curves", action="store_true", help="compare loss curves instead")
    given = parser.parse_intermixed_args()
    if given.curves:
        write(given.outfile, {"curves": curves(given.rows)})
        return
    for precision, matmul in ROWS:
        name = f"{precision}/{matmul}"
        if not given.rows or name in given.rows:
            began = time.perf_counter()
            found = gradients(precision, matmul, tiny=given.tiny)
            print(f"{name}: {found} {time.perf_counter() - began:.0f} s", flush=True)
            write(given.outfile, {f"{'tiny ' * given.tiny}{name}": found})


def write(outfile: Path, found: dict[str, Any]) -> None:
    rows = json.loads(outfile.read_text()) if outfile.exists() else {}
    outfile.write_text(json.dumps(rows | found, indent=1))


def gradients(precision: str, matmul: str, *, tiny: bool) -> dict[str, float]:
    """Cosines of the compiled gradients with the reference's."""
    flavour, device = ("tiny" if tiny else "sd3-medium"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Products in 8 bits are for a card, and refused elsewhere; a processor computes them as for the curves.
    by_hand = device.type == "cpu" and matmul in eight_bit.KINDS
    overrides = [f"model_flavour={flavour}", f"base_model_precision={precision}", f"base_model_matmul={matmul}"]
    settings = default_settings(device.type, "bf16", overrides if device.type == "cuda" else overrides[:2])
    torch.manual_seed(0)
    family, transformer = SD3(), loaded(settings, device)
    text = random_text(settings, 231, 1, device)
    edge = settings.resolution // 8
    noisy, towards = (torch.randn(1, 16, edge, edge, device=device) for _ in range(2))
    sigma = torch.full((1,), 0.6, device=device)
    parameters = dict(trainable_parameters(transformer))
    with plain_products(matmul) if by_hand else nullcontext():
        compiled = family.compiled_predict(transformer, settings)
    found = grads(compiled, noisy, sigma, text, towards, parameters)
    if precision == "no_change":
        transformer.float()
        text = TextEncoding(text.prompt_embeds.float(), text.pooled_prompt_embeds.float())
    transformer.enable_gradient_checkpointing()
    expected = grads(partial(family.predict, transformer), noisy, sigma, text, towards, parameters)
    layers = [cosine(found[name], expected[name]) for name in parameters]
    whole = cosine(*(torch.cat([part.flatten() for part in parts.values()]) for parts in (found, expected)))
    return {"cosine": round(whole, 6), "least of a layer": round(min(layers), 6)}


def loaded(settings: Any, device: torch.device) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        files: ModelFiles = random_files(Path(folder) / "model", settings.model_flavour, device)
        if settings.model_flavour == "tiny":
            files = ModelFiles("tiny", tiny_folder(), "folder", None, None)
        transformer = SD3().load_transformer(files, settings, device)
    attach_lora(transformer, settings)
    for name, parameter in trainable_parameters(transformer):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return transformer.train()


def grads(
    predict: Any, noisy: Tensor, sigma: Tensor, text: TextEncoding, towards: Tensor, parameters: dict[str, Any]
) -> dict[str, Tensor]:
    velocity = predict(noisy, sigma, text)
    found = torch.autograd.grad((velocity.float() - towards).square().mean(), list(parameters.values()))
    return {name: gradient.double() for name, gradient in zip(parameters, found, strict=True)}


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


def curves(rows: list[str]) -> dict[str, Any]:
    """Runs of the built-in model on the quickstart's pictures; errors are relative to 16 bits' products on that base.

    On a processor blocks are plain calls, and products in 8 bits are what eight_bit.py computes there: the same
    rounding of both sides, summed in fp32.
    """
    from test_gpu_run import project

    from simpletune.progress import SilentReporter
    from simpletune.trainer.launch import launch
    from simpletune.trainer.metrics import read_metrics

    on_card = torch.cuda.is_available()
    found: dict[str, Any] = {}
    for base in ("no_change", "int8-quanto"):
        for matmul in ("bf16", "int8", "fp8"):
            if rows and f"{base}/{matmul}" not in rows and not (matmul == "bf16" and any(base in row for row in rows)):
                continue
            keys = {
                "base_model_matmul": matmul if on_card else "bf16", "base_model_precision": base,
                "execution": "graph" if on_card else "compile", "device": "cuda" if on_card else "cpu",
                "max_train_steps": STEPS, "checkpoint_step_interval": STEPS, "validation_prompt": None,
                "learning_rate": 1e-3, "train_batch_size": 4, "num_eval_images": 2, "lora_target": "attention",
            }  # fmt: skip
            with tempfile.TemporaryDirectory() as folder, nullcontext() if on_card else plain_products(matmul):
                config = project(Path(folder) / "run", **keys)
                launch(config, (), SilentReporter())
                metrics = read_metrics(config.parent / "output" / "metrics.jsonl")
                losses = torch.tensor([line["loss"] for line in metrics.steps])
                row: dict[str, float] = {"first": losses[:100].mean().item(), "last": losses[-100:].mean().item()}
                row |= {f"held out: {key}": value for key, value in metrics.validations[-1].items() if "loss" in key}
            plain = found.get(f"{base}/bf16", row)
            row["apart"] = max(abs(row[key] / plain[key] - 1) for key in row)
            row["steps apart"] = float((losses / found["_" + base] - 1).abs().max()) if "_" + base in found else 0.0
            found.setdefault("_" + base, losses)
            found[f"{base}/{matmul}"] = row
            print(base, matmul, row, flush=True)
    return {name: row for name, row in found.items() if not name.startswith("_")}


@contextmanager
def plain_products(matmul: str) -> Iterator[None]:
    """Training computes compiled blocks' products in this kind of 8 bits, and calls them without compiling."""

    def predict(self: SD3, transformer: Any, _settings: Any, **_: Any) -> Any:
        forward = SD3Forward(transformer, None, compiled=False, matmul=matmul if matmul in eight_bit.KINDS else None)

        def velocity(noisy: Tensor, sigma: Tensor, text: TextEncoding) -> Tensor:
            embeds = text.prompt_embeds
            return forward(noisy.to(embeds.dtype), 1000 * sigma.float(), embeds, text.pooled_prompt_embeds)

        del self
        return velocity

    kept, SD3.compiled_predict = SD3.compiled_predict, predict  # type: ignore[method-assign]
    try:
        yield
    finally:
        SD3.compiled_predict = kept  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
