"""How long until the first steps, from the start of the process: `python tests/gpu/measure_start.py FOLDER`.

`simpletune train` on a real-size int8 base (random weights, built once), twice for each way of running the step: with
empty caches, and with the data's caches filled and compiled code kept. `compiled` is a run of 20,000 steps, `kernels`
one of 1,000, which is captured over eager kernels; each is interrupted after its first steps. FOLDER/start.json has
everything. A step is fast when it takes at most a quarter longer than the last ones' median.

    --tiny    on a processor and the built-in model, not compiled: for trying this script
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure_capped import write_project
from real_model import make_pictures, model_at

from simpletune.files import write_json

STEPS = 14
_RUNS = {"compiled": 20_000, "kernels": 1_000}  # steps that the run is told to take
_KEYS: dict[str, Any] = {
    "device": "cuda",
    "mixed_precision": "bf16",
    "base_model_precision": "int8-quanto",
    "lora_rank": 16,
    "resolution": 1024,
    "train_batch_size": 1,
    "gradient_checkpointing": True,
    "num_eval_images": 0,
    "lr_scheduler": "constant",
}
_CODE = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from a process's start to its first training steps.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=list(_RUNS), action="append")
    parser.add_argument("--model", type=Path, help="where the model is, or is to be built; default: in FOLDER")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every run")
    parser.add_argument("--second-only", action="store_true", help="the caches are filled already: second runs alone")
    parser.add_argument("--tiny", action="store_true", help="try this script out on a processor")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    keys = _KEYS | dict(text.split("=", 1) for text in given.set)
    if given.tiny:
        keys |= {"device": "cpu", "mixed_precision": "no", "model_flavour": "tiny", "resolution": 128}
    else:
        keys |= {"model_flavour": "sd3-medium"}
        keys |= {"pretrained_model_name_or_path": str(model_at(given.model or folder / "model"))}
    make_pictures(folder / "pictures", {(128, 128) if given.tiny else (1024, 1024): 8})
    found = []
    for name in given.only or _RUNS:
        for place in ("second",) if given.second_only else ("first", "second"):
            found.append(measure(name, place, folder, keys))
            print("\n".join(lines(found[-1])), flush=True)
            write_json(folder / "start.json", found)


def measure(name: str, place: str, folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """One run: its moments, in seconds from the process's start. Data caches and compiled code are those of `name`."""
    home = folder / name
    if place == "first":
        shutil.rmtree(home, ignore_errors=True)
    output = home / f"output-{place}"
    shutil.rmtree(output, ignore_errors=True)
    config = write_project(
        home, folder / "pictures", keys | {"max_train_steps": _RUNS[name], "output_dir": output.name}
    )
    code = {variable: str(home / "code" / variable.split("_")[0].lower()) for variable in _CODE}
    script, times = Path(__file__).with_name("timed_train.py"), home / f"times-{place}.json"
    times.unlink(missing_ok=True)
    command = [sys.executable, str(script), str(time.time()), str(times), str(STEPS), "train", str(config)]
    ended = subprocess.run(command, env=os.environ | code, capture_output=True, encoding="utf-8", check=False)
    row = {"way": name, "run": place, "rc": ended.returncode, "log": ended.stderr[-12_000:]}
    return row | (json.loads(times.read_text()) if times.exists() else {"seen": {}, "steps": [], "compiled": {}})


def lines(row: dict[str, Any]) -> list[str]:
    """When what ended, and how long it took; then the steps."""
    said = [f"\n{row['way']}, {row['run']} run (ended with {row['rc']}):"]
    for name, (began, ended) in sorted(row["seen"].items(), key=lambda item: item[1][1]):
        said.append(f"  {ended:7.2f} s  {name} ({ended - began:.2f} s)")
    steps = row["steps"]
    if not steps:
        return [*said, row["log"][-1500:]]
    times = [later - earlier for earlier, later in pairwise(steps)]
    usual = statistics.median(times[-4:]) if times else 0.0
    fast = next((end for end, seconds in zip(steps[1:], times, strict=True) if seconds <= 1.25 * usual), None)
    said.append(f"  {steps[0]:7.2f} s  first step")
    said.append(f"  {fast or 0:7.2f} s  first fast step; they take {1000 * usual:.0f} ms")
    said.append(f"           steps 2 to {len(steps)}, s: {', '.join(f'{seconds:.2f}' for seconds in times)}")
    execution = [line for line in row["log"].splitlines() if "execution" in line]
    return [*said, *(f"           {line.strip()}" for line in execution), f"           {row['compiled']}"]


if __name__ == "__main__":
    main()
