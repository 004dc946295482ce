"""Where a training step's time goes on a card: `python tests/gpu/profile_step.py OUTFILE [CASE...]`.

Cases are bench_table.py's, real size with random weights. After some steps a few replayed ones are recorded by torch's
profiler: milliseconds of kernels a step, by what they compute and by kernel, and how long the card had none at work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_table import CASES, overrides_of, settings_of
from torch.profiler import ProfilerActivity, profile

from simpletune.bench.batches import Batches
from simpletune.bench.settings import default_settings
from simpletune.models.adapters import attach_lora
from simpletune.models.random_source import random_files
from simpletune.models.registry import get_family
from simpletune.trainer.assemble import assemble
from simpletune.trainer.optimizers import parameter_dtype
from simpletune.trainer.processes import Processes

WARM_UP, STEPS, RUN = 8, 5, 20_000
TEXT_TOKENS = 231
# What a kernel's name tells of it, the first that fits; the rest are element-wise kernels of torch, as are those of its
# compiler, which are named after what they took in.
KINDS = {
    "attention": ("sdpa", "fmha", "flash", "attention", "cudnn::fusion"),
    "products": ("gemm", "nvjet", "cutlass", "cublas", "triton_tem"),
    "copies": ("memcpy", "memset"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Profile training steps of real size.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", default=["bf16-b4"], help=f"of {', '.join(CASES)}")
    parser.add_argument("--top", type=int, default=30, help="kernels to name")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.outfile.read_text()) if given.outfile.exists() else {}
    for case in given.cases:
        found[case] = profiled(settings_of(case), given.top)
        given.outfile.write_text(json.dumps(found, indent=1))
        print(f"{case}:\n" + "\n".join(lines(found[case])), flush=True)


def profiled(keys: dict[str, Any], top: int) -> dict[str, Any]:
    settings = default_settings(keys["device"], "bf16", overrides_of(keys))
    family, processes = get_family(settings.model_family), Processes(settings)
    with tempfile.TemporaryDirectory() as folder:
        files = random_files(Path(folder) / "model", settings.model_flavour, processes.device)
        transformer = family.load_transformer(files, settings, processes.device)
    attach_lora(transformer, settings, parameter_dtype(settings.optimizer))
    size = (settings.resolution, settings.resolution)
    batches = Batches(settings, family, size, TEXT_TOKENS, processes.device)
    step = assemble(settings, family, transformer, processes, RUN, None, print).step
    for number in range(WARM_UP):
        step(batches.step(number))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for number in range(STEPS):
            step(batches.step(WARM_UP + number))
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    kernels = [one for one in events if one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    return summary([(one["name"], one["ts"], one["dur"]) for one in kernels], top)


def summary(kernels: Sequence[tuple[str, float, float]], top: int) -> dict[str, Any]:
    """Of (name, start, length) in microseconds: milliseconds a step, of kinds and of the longest kernels."""
    kinds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, _, length in kernels:
        kinds[kind_of(name)] += length
        names[name] += length
        counts[name] += 1
    busy, until = 0.0, 0.0
    for _, start, length in sorted(kernels, key=lambda kernel: kernel[1]):
        busy += max(0.0, start + length - max(start, until))
        until = max(until, start + length)
    whole = until - min(start for _, start, _ in kernels)

    def each(microseconds: float) -> float:
        return round(microseconds / STEPS / 1000, 3)

    return {
        "ms a step": each(whole),
        "no kernel": each(whole - busy),
        "kernels a step": round(len(kernels) / STEPS),
        "kinds": {kind: each(spent) for kind, spent in kinds.most_common()},
        "longest": [
            {"ms": each(spent), "a step": round(counts[name] / STEPS, 1), "name": name}
            for name, spent in names.most_common(top)
        ],
    }


def kind_of(name: str) -> str:
    lower = name.lower()
    if lower == "_kernel":
        return "products"  # models/int8_kernel.py's
    if lower.startswith("triton_") and "triton_tem" not in lower:
        return "element-wise"
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "element-wise")


def lines(found: dict[str, Any]) -> list[str]:
    said = [f"  {name}: {found[name]}" for name in ("ms a step", "no kernel", "kernels a step", "kinds")]
    return said + [f"  {one['ms']:8.3f} ms {one['a step']:6} x {one['name'][:110]}" for one in found["longest"]]


if __name__ == "__main__":
    main()
