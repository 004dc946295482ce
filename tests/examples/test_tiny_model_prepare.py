"""The tiny model's training set, made of a small library of our own."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from simpletune.progress import SilentReporter

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES / "tiny-model"))

import drawing  # noqa: E402
from captions import with_article  # noqa: E402
from look import look  # noqa: E402
from prepare import prepare  # noqa: E402
from styles import style_pictures, write  # noqa: E402
from titles import Metadata, Subjects, read_metadata  # noqa: E402

RDF = """<svg xmlns="http://www.w3.org/2000/svg"><metadata><rdf:RDF><cc:Work rdf:about="">
<dc:title>{title}</dc:title><dc:subject><rdf:Bag><rdf:li>hash(0x1)</rdf:li>{keywords}</rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>The Library</dc:title></cc:Agent></dc:publisher>
<dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata></svg>"""
Draw = Callable[[ImageDraw.ImageDraw], None]


def ellipse(colour: str, box: tuple[int, ...] = (40, 60, 160, 140), outline: str = "black") -> Draw:
    return lambda pen: pen.ellipse(box, fill=colour, outline=outline, width=4)


def triangle(colour: str) -> Draw:
    return lambda pen: pen.polygon((20, 180, 100, 20, 180, 180), fill=colour, outline="black", width=3)


def polygon(corners: list[tuple[int, ...]], colour: str, pen: ImageDraw.ImageDraw) -> None:
    pen.polygon(corners, fill=colour)


class Library:
    def __init__(self, folder: Path) -> None:
        self.png, self.svg = folder / "png", folder / "svg"

    def add(
        self, path: str, draw: Draw, title: str = "", creator: str = "", keywords: str = "", side: int = 200
    ) -> Path:
        picture = Image.new("RGBA", (side, side), (255, 0, 0, 0))
        draw(ImageDraw.Draw(picture))
        file = self.png / f"{path}.png"
        for target in (file, self.svg / path):
            target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords.split())
        (self.svg / f"{path}.svg").write_text(RDF.format(title=title, creator=creator, keywords=items))
        return file

    def prepared(self, out: Path) -> dict[str, dict[str, Any]]:
        prepare(self.png, self.svg, out, SilentReporter(), processes=1)
        rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
        assert [row["name"] for row in rows] == zipfile.ZipFile(out / "pictures.zip").namelist()
        return {row["name"].removesuffix(".webp"): row for row in rows}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def subject(stem: str, title: str = "", creator: str = "") -> str:
    return Subjects.load().subject(stem, Metadata(title.lower(), creator.lower()), frozenset({"various cliparts"}))


@pytest.mark.parametrize(
    ("stem", "title", "creator", "expected"),
    [
        ("duck_nicu_bucul_01", "", "Nicu Buculei", "duck"),
        ("flying_wasp_gerald_g._02", "Flying Wasp", "Gerald G.", "flying wasp"),
        ("gallo_di_profilo_archite_01", "Gallo di profilo", "Architetto Francesco", "rooster"),
        ("cavallo_architetto_franc_03", "Cavallo", "Architetto Francesco", "horse head"),
        ("rose", "Various Cliparts", "Architetto Francesco", "pink roses"),
        ("hamburger_bw", "Hamburger (B and W)", "Gerald G.", "hamburger"),
        ("2_dead_frogs_lumen_desig_01", "2 dead frogs", "Lumen Design", "two dead frogs"),
        ("arrow-down-blue_benji_01", "arrow-down-blue", "Benji Park", "blue arrow down"),
        ("white_c_q", "card", "", "queen of clubs"),
        ("emule_01", "xyz@example.org", "", "donkey head"),
        ("ganson", "ganson", "ganson", ""),
    ],
)
def test_a_subject_is_the_title_in_english_without_authors_and_numbers(
    stem: str, title: str, creator: str, expected: str
) -> None:
    assert subject(stem, title, creator) == expected


def test_metadata_is_the_works_own(library: Library) -> None:
    library.add("a", ellipse("red"), "Caf&amp;eacute;", "A. Painter", "food drink")
    assert read_metadata(library.svg / "a.svg") == Metadata("cafe", "a. painter", ("food", "drink"))
    assert read_metadata(library.svg / "none.svg") == Metadata()


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("sleeping cat", "a sleeping cat"),
        ("owl on branch", "an owl on branch"),
        ("leaves", "leaves"),
        ("bus", "a bus"),
        ("glass of milk", "a glass of milk"),
        ("two dogs", "two dogs"),
        ("bread", "bread"),
        ("red and green parrot", "a red and green parrot"),
    ],
)
def test_a_caption_has_an_article_where_english_has_one(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected


def test_a_drawing_is_trimmed_centred_and_on_white(library: Library) -> None:
    drawn = drawing.read(library.add("a", ellipse("green", (100, 120, 190, 150))), 128, 6)
    ink = np.argwhere(drawn.pixels.min(axis=2) < 240)
    (top, left), (bottom, right) = ink.min(axis=0), ink.max(axis=0)
    assert (left, right) == (6, 121)
    assert top + bottom == pytest.approx(127, abs=1)
    assert drawn.pixels[0, 0].tolist() == [255, 255, 255], "what is transparent is white, whatever colour it hides"


def test_stripes_too_fine_to_see_keep_their_light(library: Library) -> None:
    def stripes(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((0, 0, 463, 463), fill="white")
        for x in range(0, 464, 2):
            pen.line((x, 0, x, 463), fill="black")

    drawn = drawing.read(library.add("a", stripes, side=464), 128, 6)
    assert drawn.pixels[40:90, 40:90].mean() == pytest.approx(188, abs=3), "half the light is 188 of 255, not 127"


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (lambda pen: None, "empty"),
        (ellipse("white", outline="white"), "empty"),
        (lambda pen: pen.rectangle((10, 10, 190, 40), fill="red", outline="blue", width=5), "long"),
        (ellipse("red", (10, 10, 25, 25)), "tiny"),
        (ellipse("#fff4ff", outline="#fff4ff"), "one colour"),
    ],
)
def test_what_shows_nothing_is_left_out(library: Library, draw: Draw, why: str) -> None:
    with pytest.raises(drawing.UnfitError, match=why):
        drawing.read(library.add("a", draw), 128, 6)


@pytest.mark.parametrize(
    ("draw", "kind", "colours"),
    [
        (ellipse("red"), "colour", ("red",)),
        (ellipse("#804010", outline="#804010"), "colour", ("brown",)),
        (ellipse("black"), "silhouette", ("black",)),
        (ellipse("white"), "outline", ("black", "white")),
        (ellipse("#909090"), "gray", ("gray",)),
    ],
)
def test_looks_are_measured(library: Library, draw: Draw, kind: str, colours: tuple[str, ...]) -> None:
    seen = look(drawing.read(library.add("a", draw), 128, 6))
    assert (seen.kind, seen.colours) == (kind, colours)


def test_the_set(library: Library, tmp_path: Path) -> None:
    library.add("animals/mammals/gatto_cat_archit_01", ellipse("red"), "Gatto cat", "Architetto", "animal mammal")
    library.add("animals/gatto_cat_archit_01", ellipse("#f80808", (43, 60, 162, 141)), "Gatto cat", "Architetto")
    library.add("food/fruit/pear_simple", triangle("green"), "Pear", "Gerald G.")
    library.add("food/fruit/pear_simple_bw", triangle("white"), "Pear", "Gerald G.")
    library.add("plants/leaf_01", ellipse("white"), "Leaf")
    library.add("special/patterns/dots", triangle("blue"), "Dots")
    library.add("computer/icons/kfoo", triangle("yellow"), "kfoo")
    library.add("computer/icons/printer_01", triangle("yellow"), "Printer")
    style = next(picture for picture in style_pictures() if picture.folder == "quickstart")
    library.add(style.path, ellipse("blue"), "Hotel")
    library.add("people/someone", ellipse("blue"), "Someone")
    rows = library.prepared(tmp_path / "one")
    assert set(rows) == {"animals/mammals/gatto_cat_archit_01", "food/fruit/pear_simple", "computer/icons/printer_01"}
    cat = rows["animals/mammals/gatto_cat_archit_01"]
    assert cat["category"] == "mammals"
    assert cat["texts"] == ["a drawing of a cat", "cat, mammal, animal", "mammals: cat", "a drawing of a red cat"]
    with zipfile.ZipFile(tmp_path / "one" / "pictures.zip") as archive:
        assert Image.open(io.BytesIO(archive.read("food/fruit/pear_simple.webp"))).size == (128, 128)
    library.prepared(tmp_path / "two")
    for name in ("pictures.zip", "captions.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pictures_that_look_alike_are_on_one_side_of_the_split(library: Library, tmp_path: Path) -> None:
    """Of 60 shapes in two shades each, about 3 are held out, with both of their shades."""
    random = np.random.default_rng(1)
    for number in range(60):
        corners = [tuple(corner) for corner in random.integers(0, 200, (6, 2)).tolist()]
        for name, colour in (("red", "red"), ("pale", "#ff5030")):
            library.add(f"animals/birds/{number:02}_{name}", partial(polygon, corners, colour), "Bird")
    rows = library.prepared(tmp_path / "out")
    sides = [{rows[f"animals/birds/{number:02}_{name}"]["split"] for name in ("red", "pale")} for number in range(60)]
    assert all(len(side) == 1 for side in sides)
    assert 0 < sides.count({"held out"}) < 12


def test_a_style_set_is_written_with_captions_and_authors(library: Library, tmp_path: Path) -> None:
    picture = style_pictures("[styles/dots]\nx/dot_01 | dot | dot with a hat\n")[0]
    library.add(picture.path, ellipse("blue"), "Dot", "A. Painter")
    write(picture, library.png, tmp_path)
    folder = tmp_path / "styles" / "dots" / "pictures"
    assert (folder / "dot.txt").read_text() == "a drawing of a dot with a hat\n"
    with Image.open(folder / "dot.png") as written:
        assert written.size == (256, 256)
