"""The pictures that a run's folder holds: validation's samples, and what `simpletune generate` made beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from simpletune.results.run_folder import GENERATED_FOLDER, SAMPLES_FOLDER

BASE = "base"
_STEP = re.compile(r"step-(\d+)(-ema)?")
_SHOT = re.compile(r"(?P<name>.*)-(?P<size>\d+x\d+)-(?P<seed>\d+)")


@dataclass(frozen=True)
class Column:
    """The pictures of one set of weights: a folder. `step` is None for the base and what isn't known."""

    name: str
    title: str
    step: int | None
    averaged: bool = False


@dataclass(frozen=True)
class Shot:
    """A picture as every set of weights has it: what it was asked for, and its file by column name."""

    prompt: str
    seed: str
    size: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Album:
    """Pictures taken alike: all samples of validation, or one folder of `simpletune generate`."""

    title: str
    columns: tuple[Column, ...]
    shots: tuple[Shot, ...]

    @property
    def tuned(self) -> Column | None:
        """The weights after the most steps, as they are; without them whatever isn't the base."""
        found = [column for column in self.columns if column.name != BASE]
        plain = [column for column in found if column.step is not None and not column.averaged]
        return next(reversed(plain or found), None)


def albums(folder: Path) -> list[Album]:
    """Validation's album, then those of `simpletune generate`; only those with pictures."""
    found = [_album("Samples", folder / SAMPLES_FOLDER)]
    generated = folder / GENERATED_FOLDER
    found += [_album(f"Generated: {made.name}", made) for made in _folders(generated)]
    return [album for album in found if album.shots]


def _album(title: str, folder: Path) -> Album:
    columns = sorted((_column(one.name) for one in _folders(folder)), key=_order)
    files: dict[str, dict[str, Path]] = {}
    for column in columns:
        for path in _pictures(folder / column.name):
            files.setdefault(path.name, {})[column.name] = path
    shots = tuple(_shot(name, of_one) for name, of_one in files.items())
    used = {name for shot in shots for name in shot.files}
    return Album(title, tuple(column for column in columns if column.name in used), shots)


def _column(name: str) -> Column:
    match = _STEP.fullmatch(name)
    if match is None:
        return Column(name, name, None)
    step, averaged = int(match[1]), match[2] is not None
    title = f"step {step:,}"
    return Column(name, f"{title}, averaged" if averaged else title, step, averaged)


def _order(column: Column) -> tuple[bool, float, bool, str]:
    """The base first, then by steps."""
    return column.name != BASE, column.step if column.step is not None else float("inf"), column.averaged, column.name


def _shot(file_name: str, files: dict[str, Path]) -> Shot:
    """What a picture was asked for: by its own entries, else by its name."""
    about = next((found for path in files.values() if (found := _described(path))), {})
    match = _SHOT.fullmatch(Path(file_name).stem)
    named = match.groupdict() if match else {"name": Path(file_name).stem, "size": "", "seed": ""}
    prompt = about.get("prompt", named["name"])
    return Shot(prompt, about.get("seed", named["seed"]), about.get("size", named["size"]).replace("x", " × "), files)


def _described(path: Path) -> dict[str, str]:
    """The text entries before a PNG's pixels, which aren't read."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return {str(name): str(value) for name, value in picture.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {}


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
