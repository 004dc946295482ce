"""The steps of docs/performance.md, each beside the eager loop: `python tests/gpu/bench_table.py OUTFILE [CASE...]`.

Every case is `simpletune bench` in a process of its own, training alone, on real sizes with random weights. A line is
printed and OUTFILE written when a case is done; a case that OUTFILE has is not repeated. Try it out on a processor:
`--set model_flavour=tiny --set device=cpu --set mixed_precision=no`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from simpletune.bench.sweep import run_bench


def _lycoris(**kind: Any) -> dict[str, Any]:
    """A LyCORIS config for the attention layers, which LoRA trains by default; written to a file when it is run."""
    config = {**kind, "multiplier": 1.0, "apply_preset": {"target_module": ["Attention"]}}
    return {"lora_type": "lycoris", "lycoris_config": config}


_SD35 = {"model_flavour": "sd3.5-medium", "lora_rank": 128, "train_batch_size": 3}
_INT8 = {"base_model_precision": "int8-quanto"}
CASES: dict[str, dict[str, Any]] = {
    "bf16-b1-ckpt": {},
    "bf16-b1": {"gradient_checkpointing": False},
    "bf16-b4": {"gradient_checkpointing": False, "train_batch_size": 4},
    "int8-b1-ckpt": {"base_model_precision": "int8-quanto"},
    "int8-b4": {"base_model_precision": "int8-quanto", "gradient_checkpointing": False, "train_batch_size": 4},
    "int4-b1-ckpt": {"base_model_precision": "int4-quanto"},
    "fp8-b1-ckpt": {"base_model_precision": "fp8-quanto"},
    "bf16-b4-fp8-products": {
        "gradient_checkpointing": False, "train_batch_size": 4, "base_model_matmul": "fp8",
    },
    "int8-b4-fp8-products": {
        "base_model_precision": "int8-quanto", "gradient_checkpointing": False, "train_batch_size": 4,
        "base_model_matmul": "fp8",
    },
    "int8-b4-int8-products": {
        "base_model_precision": "int8-quanto", "gradient_checkpointing": False, "train_batch_size": 4,
        "base_model_matmul": "int8",
    },
    "sd35-r128-b3": {**_SD35, "gradient_checkpointing": False},
    "sd35-r128-b3-ckpt": _SD35,
    "sd35-int8-r128-b3-ckpt": {**_SD35, "base_model_precision": "int8-quanto"},
    # Kinds of adapter and what repeating a run exactly costs, each beside int8-b1-ckpt.
    "int8-dora": {**_INT8, "use_dora": True},
    "int8-loha-8": {**_INT8, **_lycoris(algo="loha", linear_dim=8, linear_alpha=8)},
    "int8-lokr-16": {**_INT8, **_lycoris(algo="lokr", linear_dim=10_000, linear_alpha=1, factor=16)},
    "int8-deterministic": {**_INT8, "deterministic": True},
}  # fmt: skip
_COMMON = {
    "device": "cuda",
    "model_flavour": "sd3-medium",
    "base_model_precision": "no_change",
    "gradient_checkpointing": True,
    "train_batch_size": 1,
    "lora_rank": 16,
    "max_train_steps": 20_000,  # long enough that compiling is worth its time
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training steps of real size, each beside the eager loop.")
    parser.add_argument("outfile", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--without-eager", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    found: dict[str, Any] = json.loads(given.outfile.read_text()) if given.outfile.exists() else {}
    for case in given.cases or CASES:
        if case in found:
            print(f"{case}: there already", flush=True)
            continue
        began = time.perf_counter()
        result = dict(measure(case, given))
        result["wall_seconds"] = round(time.perf_counter() - began, 1)
        if "error" not in result:
            found[case] = result
            given.outfile.write_text(json.dumps(found, indent=1))
        print(line(case, result), flush=True)


def settings_of(case: str) -> dict[str, Any]:
    """What a case sets of config.json."""
    return {**_COMMON, **CASES[case]}


def measure(case: str, given: argparse.Namespace) -> Any:
    settings = settings_of(case)
    arguments = ["--phases", "train", "--json", "--steps", str(given.steps)]
    arguments += [] if given.without_eager else ["--against", "eager"]
    with tempfile.TemporaryDirectory() as folder:
        if (config := settings.get("lycoris_config")) is not None:
            path = Path(folder) / "lycoris_config.json"
            path.write_text(json.dumps(config))
            settings["lycoris_config"] = str(path)
        overrides = [*overrides_of(settings), *given.overrides]
        return run_bench([*arguments, *(word for text in overrides for word in ("--set", text))])


def overrides_of(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in settings.items()]


def line(case: str, result: dict[str, Any]) -> str:
    """One line: ours, theirs, how many times as fast."""
    if "error" in result:
        return f"{case}: FAILED: {result['error']}\n{result['stderr']}"
    ratio = "" if result["speed_up"] is None else f"; {result['speed_up']:.2f} x"
    text = f"{case}: {_step(result['train'])}; eager {_step(result['eager'])}{ratio}; {result['wall_seconds']} s in all"
    return f"{text}\n    {result['train'].get('execution')}, ready in {result['train'].get('ready_seconds')} s"


def _step(found: dict[str, Any] | None) -> str:
    if found is None or "reason" in found:
        return "-" if found is None else f"none ({found['reason'][:150]})"
    timing, memory = found["timing"], found["memory"]
    held = (
        "" if memory["allocated_gib"] is None else f" {memory['allocated_gib']:.2f} / {memory['reserved_gib']:.2f} GiB"
    )
    least, most = (1000 * timing[name] for name in ("low", "high"))
    share = "" if found["share"] is None else f", {found['tflops']:.3g} TFLOP/s = {found['share']:.0%}"
    return f"{found['ms_per_step']:.1f} ms ({least:.1f} to {most:.1f}){held}{share}"


if __name__ == "__main__":
    main()
