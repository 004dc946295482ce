"""Pictures that may be copies, each beside the training picture it is nearest to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simpletune.config.problems import shown
from simpletune.evaluate.features import Picture
from simpletune.evaluate.measure import Memorized, View
from simpletune.evaluate.pictures import Found
from simpletune.evaluate.results import FlaggedPair
from simpletune.results.gallery import Column, GalleryRow, gallery
from simpletune.results.generate import Picture as Made
from simpletune.results.pictures import save_picture

SHEET = "memorization.png"
_SHOWN = 24
_FOLDER = "training"


def flagged_pairs(
    memorized: Memorized, made: Mapping[str, Sequence[Made]], training: Sequence[Found], folder: Path
) -> tuple[FlaggedPair, ...]:
    """Every flagged picture with its nearest training picture, variant by variant, the nearest first."""
    pairs = []
    for variant, pictures in made.items():
        for place in memorized.flagged(variant):
            sample = training[int(memorized.nearest[variant][place])].sample
            pairs.append(
                FlaggedPair(
                    variant,
                    pictures[place].path.relative_to(folder).as_posix(),
                    sample.set_id,
                    sample.name,
                    float(memorized.distances[variant][place]),
                    memorized.threshold.distance,
                )
            )
    return tuple(pairs)


def draw_sheet(pairs: Sequence[FlaggedPair], training: Sequence[Found], folder: Path, view: View) -> str | None:
    """`folder`/memorization.png with the nearest pairs side by side, the training picture as training shows it; its
    name, None without any pair."""
    if not pairs:
        (folder / SHEET).unlink(missing_ok=True)
        return None
    by_name = {(found.sample.set_id, found.sample.name): found.picture for found in training}
    chosen = sorted(pairs, key=lambda pair: pair.distance)[:_SHOWN]
    rows = [
        GalleryRow(
            f"{pair.variant}: {Path(pair.picture).name}, nearest to {shown(pair.training)} "
            f"(distance {pair.distance:.4f}, flagged below {pair.threshold:.4f})",
            {
                Column("made"): folder / pair.picture,
                Column("training picture"): _as_trained(by_name[pair.data_set, pair.training], folder / _FOLDER),
            },
        )
        for pair in chosen
    ]
    heading = ["Possible copies of training pictures", f"{len(chosen)} of {len(pairs)}, by {view.model}"]
    gallery(rows, folder / SHEET, {"heading": "\n".join(heading)}, heading)
    return SHEET


def _as_trained(picture: Picture, folder: Path) -> Path:
    path = folder / f"{picture.digest[:32]}.png"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(path, np.asarray(picture.open()), {})
    return path
