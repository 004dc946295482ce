"""A thousand steps over eight shapes of picture: `python tests/gpu/measure_shapes.py OUTFILE`.

A transformer of SD3-Medium's width with few blocks, so that it ends in a minute, through the training step of a run:
graphs over compiled blocks, or with `--kernels` over eager ones. Every shape comes three times, then all as their
shares say. Looked at: memory and the number of graphs after 50, 500 and 1,000 steps, what was captured or compiled
after step 50, and the pace of the mixed run beside that of single shapes, each weighted by its share. `--fresh N` also
times the first N shapes each in a step of its own, as a run of one shape would compile it.

    --tiny    on a processor, small and not captured: for trying this script
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from simpletune.bench.batches import Batches
from simpletune.bench.settings import default_settings
from simpletune.config.settings import Settings
from simpletune.data.loader import StepBatch
from simpletune.machine.allocator import map_in_pages
from simpletune.machine.estimate import text_tokens
from simpletune.models import components
from simpletune.models.adapters import attach_lora
from simpletune.models.load import compute_dtype
from simpletune.models.memory import release
from simpletune.models.random_source import RandomFiles, RandomSource
from simpletune.models.sd3 import SD3
from simpletune.trainer.assemble import assemble
from simpletune.trainer.optimizers import parameter_dtype
from simpletune.trainer.processes import Processes
from simpletune.trainer.step import TrainingStep

SHARES = {  # of the pictures, by (width, height) in pixels
    (1024, 1024): 0.30, (1152, 896): 0.18, (896, 1152): 0.15, (1216, 832): 0.12,
    (832, 1216): 0.10, (1344, 768): 0.07, (768, 1344): 0.05, (1536, 640): 0.03,
}  # fmt: skip
_FIRST_ROUNDS = 3  # of all shapes: two runs of each, and its capture
_SETTLED = 50
_ALONE = 40  # steps of one shape that are timed
_SAID: list[str] = []


class FewBlocks(RandomFiles):
    """Random weights of a transformer with `blocks` blocks."""

    blocks: int = 4

    def config(self, part: str) -> dict[str, Any]:
        config = super().config(part)
        return config | {"num_layers": self.blocks} if part == "transformer" else config

    def weights(self, part: str) -> RandomSource:
        source = super().weights(part)
        state = components.empty_module(part, self.config(part)).state_dict()
        source._tensors = {name: tuple(tensor.shape) for name, tensor in state.items()}  # the last block is another one
        return source


class Trained:
    """A transformer, its step, and batches of every shape."""

    def __init__(self, settings: Settings, files: RandomFiles, steps: int, sizes: Sequence[tuple[int, int]]) -> None:
        self.processes, family = Processes(settings), SD3()
        self.device = self.processes.device
        transformer = family.load_transformer(files, settings, self.device)
        attach_lora(transformer, settings, parameter_dtype(settings.optimizer))
        tokens = text_tokens(settings.model_flavour, settings.tokenizer_max_length)
        self.step: TrainingStep = assemble(
            settings, family, transformer, self.processes, steps, None, _SAID.append
        ).step
        self._batches = {size: Batches(settings, family, size, tokens, self.device) for size in sizes}
        self.number = 0

    def train(self, sizes: Sequence[tuple[int, int]]) -> float:
        """A step of each size in turn; seconds until the device is done."""
        self.wait()
        began = time.perf_counter()
        for size in sizes:
            self.step(self._batch(size))
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _batch(self, size: tuple[int, int]) -> StepBatch:
        self.number += 1
        return self._batches[size].step(self.number)

    def state(self) -> dict[str, Any]:
        """Memory in GiB, captured graphs and compiled ones."""
        from torch._dynamo.utils import counters

        graphs = getattr(self.step, "_graphs", None)
        on_card = self.device.type == "cuda"
        return {
            "step": self.number,
            "reserved_gib": round(torch.cuda.memory_reserved() / 2**30, 3) if on_card else None,
            "allocated_gib": round(torch.cuda.memory_allocated() / 2**30, 3) if on_card else None,
            "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3) if on_card else None,
            "graphs": None if graphs is None else graphs.count,
            "compiled": counters["stats"].get("unique_graphs", 0),
        }


def main() -> None:
    given = arguments()
    map_in_pages()
    shares = SHARES
    if given.tiny:
        shares = {(width // 128 * 16, height // 128 * 16): share for (width, height), share in SHARES.items()}
    flavour, device = ("tiny", "cpu") if given.tiny else ("sd3-medium", "cuda")
    overrides = [f"model_flavour={flavour}", "max_train_steps=20000", f"base_model_precision={given.precision}"]
    overrides += [] if given.tiny else [f"resolution={max(map(min, shares))}"]
    overrides += [f"execution={'auto' if given.kernels or given.tiny else 'graph'}", *given.set]
    settings = default_settings(device, "no" if given.tiny else "bf16", overrides)
    FewBlocks.blocks = given.blocks
    files = FewBlocks("random", Path(), "folder", None, None, flavour, torch.device(device), compute_dtype(settings))
    found = measure(settings, files, shares, given)
    given.outfile.write_text(json.dumps(found, indent=1))
    print("\n".join(lines(found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A thousand training steps over eight shapes of picture.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--precision", default="int8-quanto")
    parser.add_argument("--kernels", action="store_true", help="graphs over eager kernels")
    parser.add_argument("--fresh", type=int, default=0, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def measure(
    settings: Settings, files: RandomFiles, shares: dict[tuple[int, int], float], given: argparse.Namespace
) -> dict[str, Any]:
    steps = given.steps if given.kernels else 20_000  # a short run isn't compiled
    sizes = list(shares)
    trained = Trained(settings, files, steps, sizes)
    began = time.perf_counter()
    first = _FIRST_ROUNDS * sizes
    trained.train(first)
    ready = time.perf_counter() - began
    order = random.Random(0).choices(sizes, weights=list(shares.values()), k=given.steps - len(first))
    places, states, seconds = [50, given.steps // 2, given.steps], [], 0.0
    for until in places:
        part = order[trained.number - len(first) : until - len(first)]
        taken = trained.train(part)
        seconds += taken if until > _SETTLED else 0.0
        states.append(trained.state())
    drawn = order[_SETTLED - len(first) :]
    alone = {size: trained.train([size] * _ALONE) / _ALONE for size in sizes}
    expected = sum(alone[size] for size in drawn)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if trained.device.type == "cuda" else "cpu",
        "said": list(dict.fromkeys(_SAID)),
        "first_rounds_seconds": round(ready, 1),
        "states": states,
        "mixed_ms": round(1000 * seconds / len(drawn), 3),
        "expected_ms": round(1000 * expected / len(drawn), 3),
        "alone_ms": {f"{width}x{height}": round(1000 * each, 3) for (width, height), each in alone.items()},
    }
    trained.processes.close()
    del trained
    release(torch.device(files.device))
    found["fresh_ms"] = {f"{size[0]}x{size[1]}": fresh(settings, files, steps, size) for size in sizes[: given.fresh]}
    return found


def fresh(settings: Settings, files: RandomFiles, steps: int, size: tuple[int, int]) -> float:
    """Milliseconds of a step of one shape alone, compiled for it."""
    torch._dynamo.reset()
    trained = Trained(replace(settings), files, steps, [size])
    trained.train([size] * 8)
    seconds = trained.train([size] * _ALONE) / _ALONE
    trained.processes.close()
    return round(1000 * seconds, 3)


def lines(found: dict[str, Any]) -> list[str]:
    said = [f"on {found['device']}: {'; '.join(found['said'])}", f"first rounds: {found['first_rounds_seconds']} s"]
    said += ["| after step | reserved, GiB | peak reserved | allocated | graphs captured | graphs compiled |"]
    said += ["|---:|---:|---:|---:|---:|---:|"]
    keys = ("step", "reserved_gib", "peak_reserved_gib", "allocated_gib", "graphs", "compiled")
    said += [f"| {' | '.join(str(state[key]) for key in keys)} |" for state in found["states"]]
    mixed, expected = found["mixed_ms"], found["expected_ms"]
    said += [
        f"a step of the mixed run: {mixed} ms; of the same shapes one by one: {expected} ({mixed / expected - 1:+.1%})"
    ]
    said += [f"one by one: {found['alone_ms']}"]
    return said + ([f"each compiled afresh: {found['fresh_ms']}"] if found["fresh_ms"] else [])


if __name__ == "__main__":
    main()
