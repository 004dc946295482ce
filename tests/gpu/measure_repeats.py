"""Is a training the same twice? `python tests/gpu/measure_repeats.py OUTFILE`.

A transformer of SD3-Medium's width with a few blocks is trained twice from the same start, 12 steps over two shapes,
each way a step can run, and with `deterministic` and without: are losses and weights the same bit for
bit, and if not, how far apart are they? Weights are compared by how far they have moved. What continues a run repeats
it from a checkpoint on, so that this is how exact a continued run can be.

    --tiny    on a processor, small and not captured: for trying this script
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from measure_shapes import FewBlocks, Trained

from simpletune.bench.settings import default_settings
from simpletune.machine.allocator import map_in_pages
from simpletune.models.load import compute_dtype
from simpletune.models.memory import release

STEPS = 12
_SIZES = [(1024, 1024), (1152, 896)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Two trainings from the same start, compared.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument("--precision", default="int8-quanto")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    map_in_pages()
    rows = []
    for way in ("eager", "auto") if given.tiny else ("eager", "graph"):
        for deterministic in (False, True):
            given.deterministic = deterministic
            rows.append({"execution": way, "deterministic": deterministic, **compared(given, way)})
            print(json.dumps(rows[-1]), flush=True)
            given.outfile.write_text(json.dumps(rows, indent=1))


def compared(given: argparse.Namespace, way: str) -> dict[str, Any]:
    try:
        first, second = trained(given, way), trained(given, way)
    except RuntimeError as error:  # an operation that has no deterministic form says so
        return {"error": str(error).splitlines()[0][:300]}
    moved = (first["weights"] - first["start"]).norm()
    return {
        "losses_equal": first["losses"] == second["losses"],
        "weights_equal": bool(torch.equal(first["weights"], second["weights"])),
        "largest_loss_difference": max(abs(a - b) / a for a, b in zip(first["losses"], second["losses"], strict=True)),
        "weights_apart": float((first["weights"] - second["weights"]).norm() / moved),
    }


def trained(given: argparse.Namespace, way: str) -> dict[str, Any]:
    """A fresh training: its losses, and all its weights before and after, in one row (N,) float64 on the host."""
    device, flavour = ("cpu", "tiny") if given.tiny else ("cuda", "sd3-medium")
    sizes = [(128, 128), (144, 112)] if given.tiny else _SIZES
    keys = [f"model_flavour={flavour}", "max_train_steps=20000", f"base_model_precision={given.precision}"]
    keys += [f"execution={way}", f"deterministic={json.dumps(given.deterministic)}"]
    keys += [*([] if given.tiny else ["resolution=896"])]
    settings = default_settings(device, "no" if given.tiny else "bf16", keys)
    torch.manual_seed(settings.seed)
    FewBlocks.blocks = given.blocks
    files = FewBlocks("random", Path(), "folder", None, None, flavour, torch.device(device), compute_dtype(settings))
    made = Trained(settings, files, STEPS, sizes)
    start = weights(made)
    losses = [float(made.step(made._batch(sizes[number % len(sizes)])).loss) for number in range(STEPS)]
    found = {"losses": losses, "start": start, "weights": weights(made)}
    del made
    release(torch.device(device))
    return found


def weights(made: Trained) -> torch.Tensor:
    return torch.cat([one.detach().double().flatten().cpu() for one in made.step._parameters])


if __name__ == "__main__":
    main()
