"""Repeat the GPU figures of docs/performance.md: `python tests/gpu/measure.py FOLDER`.

Trains through the program's own command line and reads what the runs wrote. FOLDER takes a model of real size with
random weights (16 GB, built on first use) and the runs; one that is there already is not repeated.

    precisions   the quickstart's pictures on the tiny model, 50 steps, everything at one precision
    base         the real size, the base at each precision: ms a step, peak memory by phase
    text         the real size, all text encoders at each precision: peak memory while encoding
    estimate     the runs that the estimate of memory and time is fitted to (measure_estimate.py): 36 GB, 15 minutes
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from quickstart_pictures import QUICKSTART, make_pictures

PRECISIONS = ("no_change", "int8-quanto", "fp8-quanto", "int4-quanto", "int2-quanto")
WARM_UP = 4  # steps not counted: the first ones compile nothing, but allocate
PHASES = ("encode text", "encode images", "load", "train", "validate")


def main() -> None:
    parser = argparse.ArgumentParser(description="Repeat the GPU figures of docs/performance.md.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("precisions", "base", "text", "estimate"), action="append")
    parser.add_argument("--flavour", default="sd3-medium")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only or ("precisions", "base", "text", "estimate")
    if "precisions" in wanted:
        precisions(arguments)
    if {"base", "text"} & set(wanted):
        config = real_project(arguments)
        for name in ("base", "text"):
            if name in wanted:
                real_size(arguments, config, name)
    if "estimate" in wanted:
        from measure_estimate import measure

        measure(arguments.folder, arguments.device, arguments.flavour == "tiny")


def precisions(arguments: argparse.Namespace) -> None:
    """Losses after 50 steps against bf16's."""
    project = arguments.folder / "quickstart"
    if not project.exists():
        shutil.copytree(QUICKSTART, project, ignore=shutil.ignore_patterns("output", "cache"))
    rows = {}
    for precision in PRECISIONS:
        keys = {f"text_encoder_{number}_precision": precision for number in (1, 2, 3)}
        keys |= {"base_model_precision": precision, "mixed_precision": "bf16", "max_train_steps": 50}
        run = train(project / "config.json", project / f"out-{precision}", arguments.device, keys)
        losses = [line["loss"] for line in run["steps"]]
        held_out = run["validations"][-1]["validation_loss"]
        rows[precision] = (losses[-1], statistics.mean(losses[-10:]), held_out)
    print("\n| precision | last step | mean of last 10 | held out | against bf16 |\n|---|---:|---:|---:|---:|")
    for precision, values in rows.items():
        against = " / ".join(f"{a / b - 1:+.2%}" for a, b in zip(values, rows["no_change"], strict=True))
        print(f"| {precision} | {' | '.join(f'{value:.4f}' for value in values)} | {against} |")


def real_project(arguments: argparse.Namespace) -> Path:
    """Eight pictures at full size and the two files, on a built model of the flavour's real size."""
    model, project = arguments.folder / arguments.flavour, arguments.folder / "real"
    keys: dict[str, Any] = {"model_flavour": arguments.flavour}
    if arguments.flavour != "tiny":
        if not model.exists():
            command("model", "build", str(model), "--flavour", arguments.flavour)
        keys["pretrained_model_name_or_path"] = str(model.absolute())
    (project / "pictures").mkdir(parents=True, exist_ok=True)
    make_pictures(project / "pictures", arguments.resolution, 8)
    keys |= {"validation_prompt": "a drawing of a red parrot", "validation_num_inference_steps": 10}
    keys |= {"lora_rank": 16, "train_batch_size": 1, "num_eval_images": 1, "resolution": arguments.resolution}
    data = {"id": "a", "type": "local", "dataset_type": "image", "instance_data_dir": "pictures"}
    data |= {"caption_strategy": "textfile", "crop": True, "crop_aspect": "square"}
    (project / "config.json").write_text(json.dumps(keys))
    (project / "multidatabackend.json").write_text(json.dumps([data]))
    return project / "config.json"


def real_size(arguments: argparse.Namespace, config: Path, what: str) -> None:
    """A row a precision: the step's median, then each phase's peak in GiB, allocated / reserved."""
    print(f"\n| {what} | ms a step (min to max) | {' | '.join(PHASES)} |\n|---|---:|{'---:|' * len(PHASES)}")
    for precision in PRECISIONS:
        names = ["base_model"] if what == "base" else [f"text_encoder_{number}" for number in (1, 2, 3)]
        keys: dict[str, Any] = {f"{name}_precision": precision for name in names}
        keys["max_train_steps"] = arguments.steps
        run = train(config, config.parent / f"{what}-{precision}", arguments.device, keys)
        steps = [1000 / line["samples_per_second"] for line in run["steps"][WARM_UP:]]
        time = f"{statistics.median(steps):.0f} ({min(steps):.0f} to {max(steps):.0f})" if steps else "-"
        peaks = [
            f"{run['phases'][p]['peak_allocated_gib']:.2f} / {run['phases'][p]['peak_reserved_gib']:.2f}"
            for p in PHASES
        ]
        print(f"| {precision} | {time} | {' | '.join(peaks)} |", flush=True)


def train(config: Path, output: Path, device: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Run `simpletune train`, and read what it wrote: steps, validations, phases."""
    settings = keys | {"device": device, "output_dir": output.absolute()}
    if not (output / "phases.json").exists():
        command(
            "train", str(config), *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
        )
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    phases = json.loads((output / "phases.json").read_text())
    return {
        "steps": [line for line in lines if line["kind"] == "step"],
        "validations": [line for line in lines if line["kind"] == "validation"],
        "phases": {phase["phase"]: phase for phase in phases},
    }


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "simpletune", *words], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
