"""A data set like huggan/wikiart, made here: pictures with the numbers of their artist, genre and style as labels."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from PIL import Image, ImageOps
from pyarrow import parquet

SARGENT = "john-singer-sargent"
LABELS = {
    "artist": ("claude-monet", SARGENT, "mary-cassatt"),
    "genre": ("landscape", "portrait"),
    "style": ("Impressionism", "Realism"),
}
_QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart" / "pictures"
_COLOURS = ("white", "wheat", "lightblue", "pink", "palegreen", "lavender", "khaki")


def write_wikiart(folder: Path, artists: Sequence[str], size: tuple[int, int], a_group: int = 10) -> list[bytes]:
    """data/train-00000-of-00001.parquet with a row for each of `artists`; the pictures, in order, as they stand in it.

    Each is a drawing of the quickstart at `size` (width, height), on a colour of its own.
    """
    drawings = sorted(_QUICKSTART.glob("*.png"))
    pictures = [_picture(drawings[row % len(drawings)], row, size) for row in range(len(artists))]
    rows = [
        {
            "image": {"bytes": data, "path": None},
            "artist": LABELS["artist"].index(artist),
            "genre": row % 2,
            "style": row % 2,
        }
        for row, (data, artist) in enumerate(zip(pictures, artists, strict=True))
    ]
    features = {name: {"names": list(names), "_type": "ClassLabel"} for name, names in LABELS.items()}
    told = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})}
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema([("image", image), *((name, pyarrow.int64()) for name in LABELS)], told)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=a_group)
    return pictures


def _picture(drawing: Path, row: int, size: tuple[int, int]) -> bytes:
    drawn = Image.open(drawing).convert("RGBA")
    paper = Image.new("RGBA", drawn.size, _COLOURS[row % len(_COLOURS)])
    paper.alpha_composite(drawn)
    data = io.BytesIO()
    ImageOps.fit(paper.convert("RGB"), size).save(data, "JPEG", quality=80)
    return data.getvalue()
