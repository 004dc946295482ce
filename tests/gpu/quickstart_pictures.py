"""The quickstart's pictures at another size, with their captions: what the GPU is measured with."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def make_pictures(folder: Path, edge: int, count: int) -> None:
    """Squares of `edge` pixels on white, beside their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in sorted((QUICKSTART / "pictures").glob("*.png"))[:count]:
        drawn = Image.open(picture).convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        white.alpha_composite(drawn)
        ImageOps.fit(white.convert("RGB"), (edge, edge)).save(folder / picture.name)
        (folder / picture.name).with_suffix(".txt").write_text(picture.with_suffix(".txt").read_text())
