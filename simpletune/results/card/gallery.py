"""The pictures of a card: the base's beside the final adapter's, small enough to be looked at on a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from simpletune import files
from simpletune.results.card.facts import Facts
from simpletune.results.pictures import read_description
from simpletune.results.run_folder import SAMPLES_FOLDER

FOLDER = "card"
_MOST = 8
_LONGEST_SIDE = 768  # pixels
_QUALITY = 90


@dataclass(frozen=True)
class Shown:
    """One prompt's pictures, as names relative to the run's folder, and how they were made."""

    prompt: str
    negative: str
    seed: int
    width: int
    height: int
    base: str | None
    tuned: str


def make_pictures(facts: Facts) -> tuple[Shown, ...]:
    """Copy the last validation's pictures of the final adapter, one a prompt, into card/; what was there goes.

    Only pictures of the very step that the final adapter has are shown: none of a checkpoint's.
    """
    folder = facts.run.folder / FOLDER
    found = list(_of_the_end(facts))
    if found:
        folder.mkdir(exist_ok=True)
    made = tuple(_made(facts, folder, number, *one) for number, one in enumerate(found, start=1))
    kept = {Path(name).name for one in made for name in (one.base, one.tuned) if name is not None}
    for old in folder.glob("*.jpg") if folder.is_dir() else ():
        if old.name not in kept:
            files.remove(old)
    return made


def _of_the_end(facts: Facts) -> Iterator[tuple[Path, dict[str, str]]]:
    """The pictures that were taken with the final adapter, the first of each prompt, in the order of the prompts."""
    if facts.adapter.steps is None:
        return
    folder = facts.run.folder / SAMPLES_FOLDER / f"step-{facts.adapter.steps:06d}"
    described = [(path, about) for path in sorted(folder.glob("*.png")) if (about := read_description(path))]
    order = {prompt: index for index, prompt in enumerate(facts.prompts.values())}
    first: dict[str, tuple[Path, dict[str, str]]] = {}
    for path, about in sorted(described, key=lambda one: (order.get(one[1].get("prompt", ""), len(order)), one[0])):
        if about.get("step") == str(facts.adapter.steps) and about.get("adapter") == "raw":
            first.setdefault(about.get("prompt", ""), (path, about))
    yield from list(first.values())[:_MOST]


def _made(facts: Facts, folder: Path, number: int, path: Path, about: dict[str, str]) -> Shown:
    base = facts.run.folder / SAMPLES_FOLDER / "base" / path.name
    with Image.open(path) as picture:
        width, height = picture.size
    return Shown(
        prompt=about.get("prompt", ""),
        negative=about.get("negative_prompt", ""),
        seed=int(about.get("seed", "0")),
        width=width,
        height=height,
        base=_small(base, folder / f"{number:02d}-base.jpg") if read_description(base) else None,
        tuned=_small(path, folder / f"{number:02d}-tuned.jpg"),
    )


def _small(source: Path, target: Path) -> str:
    """A JPEG copy without what the PNG says of itself; its name relative to the run's folder."""
    with Image.open(source) as picture:
        copy = picture.convert("RGB")
    copy.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    files.write_with(target, lambda temporary: copy.save(temporary, format="JPEG", quality=_QUALITY))
    return os.path.join(target.parent.name, target.name).replace(os.sep, "/")  # noqa: PTH118
