"""Measure what the estimate of memory and time is fitted to: whole runs of the program, in one process.

The step is eager in them; the compiled one is measured by measure_steps.py.

    python tests/gpu/measure.py FOLDER --only estimate

Every case of estimate_cases.py is trained for a few steps through `trainer.run.train`, and a row of what it needed is
added to FOLDER/estimate.json; rows that are there already are not measured again. tests/machine/measurements.json is
such a file.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from estimate_cases import CASES, LIMITED, Case
from quickstart_pictures import make_pictures

from simpletune.config.load import load
from simpletune.data.forecast import plan_of
from simpletune.data.preflight import preflight
from simpletune.machine.forecast import forecast
from simpletune.progress import SilentReporter
from simpletune.trainer.run import train

PICTURES = 24
WARM_UP = 3  # steps not counted
GIB = 2**30
TITLES = (  # shown phases whose time is kept
    "loading text_encoder_3", "Encoding captions", "Encoding pictures", "loading transformer", "Sampling base"
)  # fmt: skip
TEXT_PARTS = [f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]


class Stopwatch(SilentReporter):
    """A reporter that shows nothing and keeps how long each shown phase took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Any]:
        begin = time.perf_counter()
        with super().phase(title, total, unit, done) as phase:
            yield phase
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - begin


def measure(folder: Path, device: str, tiny: bool, budget_seconds: float = 3600, only: str = "") -> Path:
    """Measure every case that is missing in folder/estimate.json, for at most about that long; returns the file."""
    begin, target = time.monotonic(), folder / "estimate.json"
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if only in case.use]
    models = {} if tiny else build_models(folder, {case.flavour for case in cases})
    make_pictures(folder / "pictures", 128 if tiny else 1024, PICTURES)
    rows = read_rows(target)
    for case in cases:
        known = any(row["name"] == case.name and row["use"] == case.use for row in rows)
        if known or time.monotonic() - begin > budget_seconds:
            continue
        rows.append(run(case, folder, device, models, tiny))
        write_rows(target, describe(device), rows)
        print(f"[{time.monotonic() - begin:4.0f} s] {line(rows[-1])}", flush=True)
    return target


def run(case: Case, folder: Path, device: str, models: dict[str, Path], tiny: bool) -> dict[str, Any]:
    """One run of the program; its row. A failure is kept as one, it may be what is to be known."""
    home = folder / "runs" / "".join(letter if letter.isalnum() else "-" for letter in f"{case.name} {case.use}")
    settings, _ = load(write_project(case, home, folder, device, models, tiny), [])
    pictures = preflight(settings)
    watch = Stopwatch()
    plan = json.loads(json.dumps(dataclasses.asdict(plan_of(settings, pictures))))
    row: dict[str, Any] = {"name": case.name, "use": case.use, "way": settings.execution, "plan": plan}
    if case.use == LIMITED:
        row["limit_gib"] = round(forecast(plan_of(settings, pictures)).peak.bytes / GIB, 3)
        settings = dataclasses.replace(settings, device_memory_gb=row["limit_gib"])
    free_device(device)
    try:
        train(settings, pictures, watch)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        traceback.print_exc(limit=-4)
    free_device(device)
    row["seconds"] = {title: round(watch.seconds[title], 3) for title in TITLES if title in watch.seconds}
    if (home / "output" / "phases.json").exists():
        row |= read_run(home / "output", watch)
    return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, each with its whole plan."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return [row | {"plan": found["plan"] | row["plan"]} for row in found["rows"]]


def write_rows(path: Path, device: dict[str, str | float], rows: list[dict[str, Any]]) -> None:
    """A row a line; what its plan has in common with the first row's, which may be older, is written once."""
    common, absent = rows[0]["plan"], object()
    lines = []
    for row in rows:
        differs = {key: value for key, value in row["plan"].items() if value != common.get(key, absent)}
        lines.append("  " + json.dumps(row | {"plan": differs}))
    text = f' "device": {json.dumps(device)},\n "plan": {json.dumps(common)},\n "rows": [\n'
    path.write_text("{\n" + text + ",\n".join(lines) + "\n ]\n}\n")


def read_run(output: Path, watch: Stopwatch) -> dict[str, Any]:
    lines = [json.loads(text) for text in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [1000 / line["samples_per_second"] for line in lines if line["kind"] == "step"]
    samples = len(next(line for line in lines if line["kind"] == "step")["sigma"])
    ran = {"train"}
    ran |= {"encode text"} if "Encoding captions" in watch.seconds else set()
    ran |= {"encode images"} if "Encoding pictures" in watch.seconds else set()
    ran |= {"validate"} if "Sampling base" in watch.seconds else set()
    phases = {
        phase["phase"]: {key: phase[key] for key in ("peak_allocated_gib", "peak_reserved_gib", "seconds")}
        for phase in json.loads((output / "phases.json").read_text())
        if phase["phase"] in ran | {"load"}
    }
    return {"phases": phases, "step_ms": round(samples * statistics.median(steps[WARM_UP:]), 1)}


def write_project(case: Case, home: Path, folder: Path, device: str, models: dict[str, Path], tiny: bool) -> Path:
    """The two files of a case. Its caches are its own when it encodes, else those of all."""
    keys = case.config() | {"device": device, "output_dir": "output"}
    if tiny:
        keys = as_tiny(keys)
    else:
        keys |= {"pretrained_model_name_or_path": str(models[case.flavour])}
        keys |= {"pretrained_text_encoders_path": str(models["text"])}
    cache = home / "cache" if case.encodes else folder / "cache"
    images = {"id": "a", "type": "local", "dataset_type": "image", "instance_data_dir": str(folder / "pictures")}
    images |= {"caption_strategy": "textfile", "crop": True, "crop_aspect": "square"}
    images |= {"cache_dir_vae": str(cache / "vae")}
    texts = {"id": "t", "dataset_type": "text_embeds", "default": True, "cache_dir": str(cache / "text")}
    home.mkdir(parents=True, exist_ok=True)
    (home / "multidatabackend.json").write_text(json.dumps([images, texts]))
    (home / "config.json").write_text(json.dumps(keys))
    return home / "config.json"


def as_tiny(keys: dict[str, Any]) -> dict[str, Any]:
    """The same case at an eighth of its size, on the built-in model: for trying this script without a GPU."""
    keys = keys | {"model_flavour": "tiny", "resolution": keys["resolution"] // 8}
    if "validation_resolution" in keys:
        width, _, height = keys["validation_resolution"].partition("x")
        keys["validation_resolution"] = f"{int(width) // 8}x{int(height) // 8}"
    return keys


def build_models(folder: Path, flavours: set[str]) -> dict[str, Path]:
    """Models of real size with random weights, 36 GB in all: each flavour's own parts, and the text encoders once."""
    wanted = {"text": TEXT_PARTS} | {flavour: ["transformer", "vae", "scheduler"] for flavour in flavours}
    paths = {name: folder / "models" / name for name in wanted}
    (folder / "models").mkdir(parents=True, exist_ok=True)
    code = "import sys; from pathlib import Path; from simpletune.models.builder import build; "
    code += "build(Path(sys.argv[1]), sys.argv[2], parts=sys.argv[3:])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name.replace("text", "sd3-medium"), *wanted[name]])
        for name, path in paths.items()
        if not path.exists()
    ]
    if any(process.wait() for process in running):
        raise SystemExit("a model could not be built")
    return paths


def describe(device: str) -> dict[str, str | float]:
    """The machine and the versions; `context_gib` is what the device had in use beside torch's own memory."""
    from importlib.metadata import version

    names = ("torch", "diffusers", "transformers", "peft", "optimum-quanto")
    about: dict[str, str | float] = {name: version(name) for name in names} | {"python": sys.version.split()[0]}
    if device != "cuda":
        return about | {"name": device}
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    context = (total - free - torch.cuda.memory_reserved()) / GIB
    return about | {"name": torch.cuda.get_device_name(), "context_gib": round(context, 3)}


def free_device(device: str) -> None:
    """Leave nothing of the last run: neither its tensors nor its limit."""
    gc.collect()
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        left = torch.cuda.memory_allocated() / GIB
        if left > 0.1:
            print(f"  {left:.2f} GiB are still held", flush=True)


def line(row: dict[str, Any]) -> str:
    peaks = ", ".join(
        f"{name} {phase['peak_allocated_gib']:.2f}/{phase['peak_reserved_gib']:.2f}"
        for name, phase in row.get("phases", {}).items()
    )
    return f"{row['use']}: {row['name']}: {row.get('step_ms', '-')} ms; {peaks}{row.get('error', '')}"
