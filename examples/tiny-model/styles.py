"""Make the pictures, captions and lists of sources of the two style sets in examples/ from the Open Clip Art Library.

    python examples/tiny-model/styles.py --png PNG_FOLDER --svg SVG_FOLDER [EXAMPLES_FOLDER]

Which pictures these are stands in styles.txt; prepare.py leaves them and all that look like them out of the base
model's training set.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import drawing
from captions import with_article
from PIL import Image
from titles import read_metadata

SIDE, MARGIN = 256, 12
_HERE = Path(__file__).resolve().parent
_COLOURS = 256  # of the palette, a third of the size of RGB


@dataclass(frozen=True)
class StylePicture:
    folder: str
    path: str  # in the library, without ending
    name: str
    subject: str


def style_pictures(text: str | None = None) -> list[StylePicture]:
    """The lines of styles.txt, or of `text`."""
    folder, found = "", []
    for line in (text if text is not None else (_HERE / "styles.txt").read_text(encoding="utf-8")).splitlines():
        if line.startswith("["):
            folder = line.strip("[] ")
        elif "|" in line and not line.startswith("#"):
            path, name, subject = (part.strip() for part in line.split("|"))
            found.append(StylePicture(folder, path, name, subject))
    return found


def write(picture: StylePicture, png: Path, examples: Path) -> None:
    """One picture with its caption."""
    folder = examples / picture.folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(drawing.read(png / f"{picture.path}.png", SIDE, MARGIN).pixels)
    flat = drawn.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat.save(folder / f"{picture.name}.png", optimize=True)
    (folder / f"{picture.name}.txt").write_text(f"a drawing of {with_article(picture.subject)}\n", encoding="utf-8")


def sources(pictures: list[StylePicture], svg: Path) -> str:
    """The table of SOURCES.md: file in the library and author, as the SVG's metadata has it."""
    rows = ["| picture | file in the library | author |", "|---|---|---|"]
    for picture in pictures:
        author = read_metadata(svg / f"{picture.path}.svg").creator.title() or "not stated"
        rows.append(f"| {picture.name}.png | {picture.path}.png | {author} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example style sets from openclipart's pictures.")
    parser.add_argument("--png", type=Path, required=True, help="folder of the library's PNG files")
    parser.add_argument("--svg", type=Path, required=True, help="folder of its SVG files, for the authors' names")
    parser.add_argument("examples", type=Path, nargs="?", default=_HERE.parent, help="where the sets' folders go")
    arguments = parser.parse_args()
    pictures = style_pictures()
    for picture in pictures:
        write(picture, arguments.png, arguments.examples)
    for folder in dict.fromkeys(picture.folder for picture in pictures):
        file = arguments.examples / folder / "SOURCES.md"
        text = file.read_text(encoding="utf-8").partition("| picture |")[0] if file.exists() else ""
        table = sources([picture for picture in pictures if picture.folder == folder], arguments.svg)
        file.write_text(text + table, encoding="utf-8")


if __name__ == "__main__":
    main()
