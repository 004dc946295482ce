"""docs/reproduce-the-report.md at real size, timed by phase: `python tests/gpu/reproduce_full_size.py FOLDER`.

SD3-Medium with random weights (built once, 15 GB) and the settings of examples/sargent/16gb: int8 base and T5, LoKr,
batches of 2 at 1024 x 1024. The hub's data set is stood in for by a Parquet file on the disk, with the quickstart's
drawings and the artist as a label; captions by a model are left out. Then, each a process of its own: `train` for a few
steps with validation, `generate`, `evaluate --statistics`, `report`, `card`. FOLDER/full-size.json has everything, the
logs too; a table is printed. Meant to end within 150 s on an H100, after the model is built.

    --tiny         on a processor with the built-in model, at a sixteenth of the size: for trying this script
    --set K=V      another key of the config
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from real_model import model_at
from wikiart_set import SARGENT, write_wikiart

from simpletune.config.installed import is_installed
from simpletune.files import write_json

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sargent" / "16gb"
ARTISTS = ["claude-monet", SARGENT, "mary-cassatt"] * 20
PROMPT = "a painting by John Singer Sargent, a woman in a velvet evening dress"
_OF_THE_HUB = ("dataset_name", "dataset_split", "dataset_filter", "image_column", "streaming", "max_num_samples")
_LOG = 20_000  # characters of a log that are kept


def main() -> None:
    given = arguments()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    model = None if given.tiny else model_at(given.model or folder / "model")
    began = time.perf_counter()
    home = write_project(folder, given, model)
    found: list[dict[str, Any]] = [{"command": "make the data set", "seconds": time.perf_counter() - began, "rc": 0}]
    for words in commands(given):
        found.append(run(words, home))
        print(f"{found[-1]['command']}: {found[-1]['seconds']:.1f} s", flush=True)
        if found[-1]["rc"]:
            break
    whole = time.perf_counter() - began
    phases = json.loads(read(home / "output" / "phases.json") or "[]")
    write_json(folder / "full-size.json", {"seconds": whole, "commands": found, "phases": phases})
    print("\n".join(table(found, phases, whole)))
    print(figures(home / "output"))
    if found[-1]["rc"]:
        raise SystemExit(found[-1]["log"][-3000:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The report's run at real size with random weights, timed by phase.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="where the model is, or is to be built; default: in FOLDER")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another key of the config")
    parser.add_argument("--tiny", action="store_true", help="try this script out on a processor")
    return parser.parse_args()


def write_project(folder: Path, given: argparse.Namespace, model: Path | None) -> Path:
    """The example's files with this model and data set, in a folder of their own that is begun anew."""
    home = folder / "sargent"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(EXAMPLE, home)
    side = 64 if given.tiny else 1024
    data = write_pictures(folder / "wikiart", side)
    keys = {
        "max_train_steps": given.steps,
        "lr_warmup_steps": 2,
        "gradient_accumulation_steps": 1,
        "num_eval_images": 4,
        "checkpoint_step_interval": given.steps,
        "validation_step_interval": given.steps,
        "validation_num_inference_steps": given.sampling_steps,
        "num_validation_images": 1,
        "validation_resolution": f"{side}x{side}",
        "resolution": side,
    }
    if model is None:
        keys |= {"model_flavour": "tiny", "device": "cpu", "device_memory_gb": None, "mixed_precision": "no"}
        keys |= {"text_encoder_3_precision": "no_change"}
    else:
        keys |= {"pretrained_model_name_or_path": str(model)}
    config = json.loads((home / "config.json").read_text(encoding="utf-8")) | keys
    (home / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    entry = json.loads((home / "multidatabackend.json").read_text(encoding="utf-8"))[0]
    kept = {key: value for key, value in entry.items() if key not in _OF_THE_HUB}
    (home / "multidatabackend.json").write_text(json.dumps([kept | data | {"resolution": side}]), encoding="utf-8")
    return home


def write_pictures(folder: Path, side: int) -> dict[str, Any]:
    """A made-up WikiArt, and the keys that name his pictures in it; without `datasets`, his alone in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pictures = write_wikiart(folder, ARTISTS, (side, side))
    if is_installed("datasets"):
        return {"type": "huggingface", "dataset_name": str(folder), "dataset_filter": {"artist": SARGENT}}
    print("datasets isn't installed: the pictures go into a folder, and the filter isn't tried", flush=True)
    (folder / "his").mkdir()
    for row, (data, artist) in enumerate(zip(pictures, ARTISTS, strict=True)):
        if artist == SARGENT:
            (folder / "his" / f"{row:06d}.jpg").write_bytes(data)
    return {"type": "local", "instance_data_dir": str(folder / "his")}


def commands(given: argparse.Namespace) -> list[list[str]]:
    sets = [word for text in given.set for word in ("--set", text)]
    side, how = ("64" if given.tiny else "1024"), ["--steps", str(given.sampling_steps)]
    draw = ["--prompt", PROMPT, "--size", f"{side}x{side}", *how]
    return [
        ["data", "--no-duplicates", *sets],
        ["validate", *sets],
        ["train", *sets],
        ["generate", *draw, "--seeds", "2", *sets],
        # The pictures of `generate` are drawn anew: those of an evaluation are its own.
        ["evaluate", *draw, "--seeds", "2", "--statistics", "--clip", "none", "--dino", "none", *sets],
        ["report", "--plots", "plots"],
        ["card"],
    ]


def run(words: list[str], home: Path) -> dict[str, Any]:
    """A command in a process of its own: its seconds, exit code and what it said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "simpletune", *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    seconds = time.perf_counter() - began
    return {"command": words[0], "seconds": seconds, "rc": ended.returncode, "log": ended.stdout[-_LOG:]}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def table(found: list[dict[str, Any]], phases: list[dict[str, Any]], whole: float) -> list[str]:
    """A row a command, and below `train` one for each of its phases with the card's memory."""
    lines = ["| what | s | GiB allocated / reserved at most |", "|---|---:|---:|"]
    for one in found:
        ended = f", ended with {one['rc']}" if one["rc"] else ""
        lines.append(f"| {one['command']}{ended} | {one['seconds']:.1f} | |")
        if one["command"] == "train":
            for phase in phases:
                peaks = f"{phase['peak_allocated_gib']:.2f} / {phase['peak_reserved_gib']:.2f}"
                lines.append(f"| - {phase['phase']} | {phase['seconds']:.1f} | {peaks} |")
    return [*lines, f"| all | {whole:.1f} | |"]


def figures(output: Path) -> str:
    """The steps' pace and what is left on the disk, in a line."""
    lines = [json.loads(line) for line in read(output / "metrics.jsonl").splitlines()]
    pace = [line["samples_per_second"] for line in lines if line["kind"] == "step"]
    losses = [line["validation_loss"] for line in lines if line["kind"] == "validation"]
    later = sorted(pace[len(pace) // 2 :])
    middle = f"{later[len(later) // 2]:.2f} pictures/s in the later steps; " if later else ""
    adapter = output / "pytorch_lora_weights.safetensors"
    size = f"adapter {adapter.stat().st_size / 1e6:.1f} MB; " if adapter.exists() else ""
    return f"{middle}{size}held-out loss {losses}"


if __name__ == "__main__":
    main()
