"""A model of real size with random weights and pictures to train on, for the scripts that measure whole runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps
from quickstart_pictures import QUICKSTART

# `simpletune model build`, but not waiting for the disk: nobody needs this model after a power cut.
_BUILD = "import os, sys; os.fsync = lambda _file: None; from simpletune.cli.main import main; sys.exit(main())"


def model_at(folder: Path, flavour: str = "sd3-medium") -> Path:
    """The model's folder, built where it isn't there yet: 15 GB."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        words = ["model", "build", str(folder), "--flavour", flavour]
        ended = subprocess.run(
            [sys.executable, "-c", _BUILD, *words], capture_output=True, encoding="utf-8", check=False
        )
        if ended.returncode:
            raise SystemExit(f"the model could not be built:\n{ended.stderr[-2000:]}")
        print(f"model built in {time.perf_counter() - began:.0f} s", flush=True)
    return folder.absolute()


def make_pictures(folder: Path, sizes: dict[tuple[int, int], int]) -> None:
    """So many of the quickstart's drawings at each size (width, height), on white, beside their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = iter(sorted((QUICKSTART / "pictures").glob("*.png")))
    for size, count in sizes.items():
        for _, path in zip(range(count), drawings, strict=False):
            drawn = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            white.alpha_composite(drawn)
            ImageOps.fit(white.convert("RGB"), size).save(folder / path.name)
            (folder / path.name).with_suffix(".txt").write_text(path.with_suffix(".txt").read_text())
