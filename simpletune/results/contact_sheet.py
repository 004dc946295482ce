"""A contact sheet: a row for each prompt and size, and for each seed the variants of the model side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simpletune.results.gallery import Column, GalleryRow, gallery
from simpletune.results.studio import Shot


def contact_sheet(
    shots: Sequence[Shot], folders: Mapping[str, Path], png_path: Path, heading: Sequence[str] = ()
) -> None:
    """Draw every shot as each variant has it into `png_path`.

    folders: where a variant's pictures are, by the name its columns get ("base", "tuned, 150 steps").
    """
    sizes = {(shot.width, shot.height) for shot in shots}
    rows: dict[tuple[str, int, int], dict[Column, Path]] = {}
    for shot in shots:
        pictures = rows.setdefault((shot.prompt, shot.width, shot.height), {})
        for name, folder in folders.items():
            pictures[Column(name, f"seed {shot.seed}")] = folder / shot.file_name
    titled = [
        GalleryRow(prompt if len(sizes) == 1 else f"{prompt}  ({width} x {height})", pictures)
        for (prompt, width, height), pictures in rows.items()
    ]
    gallery(titled, png_path, {"heading": "\n".join(heading)} if heading else None, heading)
