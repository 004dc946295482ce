"""Whole runs of real size, each held to a few GiB of the card: `python tests/gpu/measure_capped.py FOLDER`.

A model with random weights is built (15 GB, once), pictures of two shapes are made, and every case is `simpletune
train` in a process of its own, all side by side: encode text and pictures, train, validate with a picture of 1024 x
1024. `device_memory_gb` is the cap, by torch.cuda.set_per_process_memory_fraction. Side by side, memory is what it is
alone (a run looks at no more than its cap) and times are not; `--alone N` then times N steps of each case with the card
to itself. FOLDER/capped.json has everything, the logs too; the table is printed.

    --case NAME KEY=VALUE ...   another case, as often as wanted; --only WORDS: of CASES those with these words
    --tiny                      on a processor, at an eighth of the size and without compiling: for trying this script
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from host_memory import HostMemory
from real_model import make_pictures, model_at

from simpletune.files import write_json

INT8, INT4 = "int8-quanto", "int4-quanto"
CASES: dict[str, dict[str, Any]] = {
    "6 GiB, int8": {"device_memory_gb": 6, "base_model_precision": INT8, "text_encoder_3_precision": INT8},
    "4 GiB, int4": {"device_memory_gb": 4, "base_model_precision": INT4, "text_encoder_3_precision": INT4},
    "2.5 GiB, int4": {"device_memory_gb": 2.5, "base_model_precision": INT4, "text_encoder_3_precision": INT4},
}
COMMON: dict[str, Any] = {
    "device": "cuda",
    "mixed_precision": "bf16",
    "execution": "graph",  # as a long run would, however short this one is
    "resolution": 1024,
    "lora_rank": 16,
    "train_batch_size": 1,
    "gradient_checkpointing": True,
    "lr_scheduler": "constant",
    "num_eval_images": 1,
    "validation_prompt": "a drawing of a red parrot",
    "validation_resolution": "1024x1024",
    "validation_num_inference_steps": 8,
}
SIZES = {(1024, 1024): 6, (1216, 832): 5}  # pixels: pictures
PHASES = ("encode text", "encode images", "load", "train", "validate")
_WARM_UP = 6  # steps: three of each of two shapes, compiling and capturing
_LOG = 30_000  # characters of a log that are kept


def main() -> None:
    given = arguments()
    cases = {name: keys for name, keys in CASES.items() if given.only in name} | extra_cases(given.case)
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    common = COMMON | {"max_train_steps": given.steps, "validation_step_interval": given.steps}
    common |= dict(text.split("=", 1) for text in given.set)
    if given.tiny:
        common |= {"device": "cpu", "mixed_precision": "no", "execution": "auto", "resolution": 128}
        common |= {"model_flavour": "tiny", "validation_resolution": "128x128"}
    else:
        common |= {"model_flavour": "sd3-medium"}
        common |= {"pretrained_model_name_or_path": str(model_at(given.model or folder / "model"))}
    scale = 8 if given.tiny else 1
    make_pictures(folder / "pictures", {(w // scale, h // scale): count for (w, h), count in SIZES.items()})
    began = time.perf_counter()
    running = {name: Run(name, folder, common | keys) for name, keys in cases.items()}
    found = {name: run.result() for name, run in running.items()}
    print(f"side by side: {time.perf_counter() - began:.0f} s", flush=True)
    if given.alone:
        for name, keys in cases.items():
            if found[name]["rc"] == 0:
                found[name]["alone"] = alone(name, folder, common | keys, given.alone)
    write_json(folder / "capped.json", found)
    print("\n".join(table(found)))
    for name, case in found.items():
        print(f"\n{name}: {case['log'][-1500:]}" if case["rc"] else f"\n{name}:\n" + "\n".join(notes(case)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whole runs of real size, held to a few GiB of the card.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every case")
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--alone", type=int, default=0, metavar="N", help="time so many steps of each by itself")
    parser.add_argument("--model", type=Path, help="where the model is, or is to be built; default: in FOLDER")
    parser.add_argument("--tiny", action="store_true", help="try this script out on a processor")
    return parser.parse_args()


def extra_cases(given: list[list[str]]) -> dict[str, dict[str, Any]]:
    return {name: dict(text.split("=", 1) for text in words) for name, *words in given}


class Run:
    """`simpletune train` in a process of its own, with its output; caches by case, so that a second run finds them."""

    def __init__(self, name: str, folder: Path, keys: dict[str, Any], suffix: str = "") -> None:
        self._began = time.perf_counter()
        self._home = folder / "runs" / "".join(letter if letter.isalnum() else "-" for letter in name)
        self._output = self._home / f"output{suffix}"
        shutil.rmtree(self._output, ignore_errors=True)
        config = write_project(self._home, folder / "pictures", keys | {"output_dir": self._output.name})
        self._log = self._home / f"log{suffix}.txt"
        command = [sys.executable, "-m", "simpletune", "train", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._watch = HostMemory(self._process)
        self._watch.start()

    def result(self) -> dict[str, Any]:
        """Wait for its end: the exit code, phases, steps, the host's memory and the log."""
        code = self._process.wait()
        seconds = time.perf_counter() - self._began
        self._watch.join()
        log = self._log.read_text(encoding="utf-8", errors="replace")
        phases = read(self._output / "phases.json")
        steps = [1000 / line["samples_per_second"] for line in read_steps(self._output / "metrics.jsonl")]
        return {
            "rc": code,
            "seconds": round(seconds, 1),
            "phases": phases or [],
            "step_ms": [round(step, 1) for step in steps],
            "host_gib": {"own": self._watch.own, "tree": self._watch.tree},
            "log_shows_phases": any(line.strip().startswith("reserved  GiB at most") for line in log.splitlines()),
            "log": log[-_LOG:],
        }


def alone(name: str, folder: Path, keys: dict[str, Any], steps: int) -> dict[str, Any]:
    """The case with warm caches and without validation, by itself: the median, least and most of its later steps."""
    keys = {key: value for key, value in keys.items() if not key.startswith("validation_")}
    run = Run(name, folder, keys | {"max_train_steps": steps + _WARM_UP + 2}, "-alone").result()
    timed = run["step_ms"][_WARM_UP + 2 :]
    if run["rc"] or not timed:
        return {"error": run["log"][-1500:]}
    median, least, most = statistics.median(timed), min(timed), max(timed)
    return {"median_ms": round(median, 1), "least_ms": least, "most_ms": most, "seconds": run["seconds"]}


def write_project(home: Path, pictures: Path, keys: dict[str, Any]) -> Path:
    """The two files of a run, with caches beside them."""
    home.mkdir(parents=True, exist_ok=True)
    images = {"id": "a", "type": "local", "dataset_type": "image", "instance_data_dir": str(pictures)}
    images |= {"caption_strategy": "textfile", "cache_dir_vae": "cache/vae"}
    texts = {"id": "t", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}
    (home / "multidatabackend.json").write_text(json.dumps([images, texts]))
    config = home / "config.json"
    config.write_text(json.dumps({key: typed(value) for key, value in keys.items()}))
    return config


def typed(value: Any) -> Any:
    """A value of the command line as JSON has it, if it is any."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def read_steps(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == "step"]


def notes(case: dict[str, Any]) -> list[str]:
    """What the log says of how the run went, without progress and without the phases' table."""
    words = ("execution", "fit", "need", "memory", "at once", "at a time", "tile", "one by one", "offload")
    lines = [line.strip() for line in case["log"].splitlines()]
    return [f"  {line[:160]}" for line in dict.fromkeys(lines) if any(word in line for word in words)][:12]


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """A row a case: seconds, allocated / reserved by phase, the host's anonymous and pinned memory, the step."""
    heads = ["case", "ends with", "s", *PHASES, "most reserved", "host, anonymous: own / all", "pinned", "ms alone"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for name, case in found.items():
        phases = {phase["phase"]: phase for phase in case["phases"]}
        cells = [peaks(phases.get(phase)) for phase in PHASES]
        most = max((phase["peak_reserved_gib"] for phase in case["phases"]), default=0.0)
        own, tree = case["host_gib"]["own"], case["host_gib"]["tree"]
        pinned = f"{own.get('shared', 0):.2f} or {own.get('driver', 0):.2f}"
        host = f"{own.get('anonymous', 0):.2f} / {tree.get('anonymous', 0):.2f}"
        step = case.get("alone", {}).get("median_ms", "-")
        row = [name, str(case["rc"]), f"{case['seconds']:.0f}", *cells, f"{most:.2f}", host, pinned, str(step)]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def peaks(phase: dict[str, Any] | None) -> str:
    if phase is None:
        return "-"
    return f"{phase['peak_allocated_gib']:.2f} / {phase['peak_reserved_gib']:.2f}, {phase['seconds']:.0f} s"


if __name__ == "__main__":
    main()
