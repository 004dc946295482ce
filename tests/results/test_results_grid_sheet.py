"""Sheets of a grid: every picture once, side by side with what it is compared with, on pages that can be looked at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simpletune.progress import SilentReporter
from simpletune.results import grid_sheet as subject
from simpletune.results.adapter_choice import AdapterChoice
from simpletune.results.gallery import GalleryRow, pages
from simpletune.results.grid_sheet import grid_sheets
from simpletune.results.order import Order
from simpletune.results.variants import variants_of


def adapter(steps: int) -> AdapterChoice:
    return AdapterChoice(Path(f"run/{steps}.safetensors"), f"step-{steps:06d}", steps)


def order(
    prompts: int = 1,
    seeds: int = 1,
    sizes: tuple[tuple[int, int], ...] = ((64, 64),),
    adapters: int = 1,
    scales: tuple[float, ...] = (1.0,),
    base: bool = True,
) -> Order:
    return Order(
        prompts={f"prompt{number}": f"prompt number {number}" for number in range(prompts)},
        seeds=tuple(range(seeds)),
        sizes=sizes,
        steps=1,
        guidance=1.0,
        negative_prompt="",
        skip=None,
        variants=variants_of([adapter(steps) for steps in range(1, adapters + 1)], scales, base or not adapters),
    )


def drawn(asked: Order, folder: Path = Path("out")) -> list[list[GalleryRow]]:
    return list(subject._arranged(asked, folder))


@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([((64, 64),), ((64, 64), (32, 64)), ((64, 64), (32, 64), (64, 32))]),
    st.integers(0, 9),
    st.sampled_from([(1.0,), (0.5, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8)]),
    st.booleans(),
)
def test_every_picture_is_drawn_once(
    prompts: int, seeds: int, sizes: tuple[tuple[int, int], ...], adapters: int, scales: tuple[float, ...], base: bool
) -> None:
    asked = order(prompts, seeds, sizes, adapters, scales, base)
    expected = {Path("out", variant.name, shot.file_name) for variant in asked.variants for shot in asked.shots()}
    strips = drawn(asked)
    counts = Counter(path for rows in strips for row in rows for path in row.pictures.values())
    assert set(counts) == expected
    assert all(count == 1 for path, count in counts.items() if path.parent.name != "base")
    for rows in strips:
        assert len({column for row in rows for column in row.pictures}) <= 8
        compared = [path.name for row in rows for path in row.pictures.values() if path.parent.name == "base"]
        assert len(compared) in (0, len(asked.shots())), "the base is on each of the sheets, or isn't asked for"
        assert len({(row.prompt, row.note) for row in rows}) == len(rows), "no two rows are called the same"


def names(rows: list[GalleryRow]) -> list[tuple[str, str]]:
    return [tuple(column) for column in rows[0].pictures]


def test_which_axis_stands_where() -> None:
    (rows,) = drawn(order(2, 2))
    assert names(rows) == [
        ("base", "seed 0"),
        ("tuned, 1 step", "seed 0"),
        ("base", "seed 1"),
        ("tuned, 1 step", "seed 1"),
    ]
    assert [(row.prompt, row.note, row.again) for row in rows] == [
        ("prompt number 0", "", False),
        ("prompt number 1", "", False),
    ]
    (rows,) = drawn(order(1, 2, adapters=2, scales=(0.5, 1)))
    assert names(rows)[:3] == [("base", ""), ("scale 0.5", "tuned, 1 step"), ("scale 1", "tuned, 1 step")]
    assert [(row.note, row.again) for row in rows] == [("seed 0", False), ("seed 1", True)]
    (rows,) = drawn(order(1, 1, sizes=((64, 64), (32, 64))))
    assert [group for _, group in names(rows)] == ["64 x 64", "64 x 64", "32 x 64", "32 x 64"]
    (rows,) = drawn(order(1, 2, sizes=((64, 64), (32, 64))))
    assert [row.note for row in rows] == ["64 x 64", "32 x 64"]
    (rows,) = drawn(order(1, 12))
    assert [row.note for row in rows] == ["seeds 0, 1, 2, 3", "seeds 4, 5, 6, 7", "seeds 8, 9, 10, 11"]
    first, second = drawn(order(1, 1, adapters=3, scales=(0.5, 1, 1.5)))
    assert [len(names(first)), len(names(second))] == [7, 4], "an adapter's scales stay together"


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simpletune.results.gallery._TALLEST", (900, 0))


def test_pages_and_those_that_are_no_longer_needed(tmp_path: Path, small_pages: None) -> None:
    many, few = order(prompts=7), order(prompts=2)
    for variant in many.variants:
        (tmp_path / variant.name).mkdir()
        for shot in many.shots():
            Image.new("RGB", (64, 64)).save(tmp_path / variant.name / shot.file_name)
    mine = tmp_path / "sheet-9.png"
    Image.new("RGB", (8, 8)).save(mine)
    made = grid_sheets(many, tmp_path, ["a model"], SilentReporter())
    assert [path.name for path in made] == ["sheet.png", "sheet-2.png", "sheet-3.png", "sheet-4.png"]
    said = []
    for number, path in enumerate(made, 1):
        with Image.open(path) as image:
            assert image.height <= 900
            assert f"sheet {number} of 4" in image.text["heading"]
            said += [text for name, text in image.text.items() if name.startswith("prompt")]
    assert said == list(many.prompts.values())
    assert [path.name for path in grid_sheets(few, tmp_path, ["a model"], SilentReporter())] == ["sheet.png"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"sheet.png", mine.name}, "a picture of one's own stays"


def test_a_long_prompt_is_shortened_over_its_pictures_and_whole_in_the_file(tmp_path: Path) -> None:
    prompt = "x" * 5000
    asked = order(seeds=9)
    asked.prompts["prompt0"] = prompt  # type: ignore[index]
    (sheet,) = grid_sheets(asked, tmp_path, [], SilentReporter())
    with Image.open(sheet) as image:
        assert image.text["prompt 1"] == prompt
        assert image.height < 1500


def test_a_page_has_one_row_at_least(small_pages: None) -> None:
    rows = [GalleryRow("word " * 3000, row.pictures) for row in drawn(order(seeds=1))[0]] * 3
    assert [len(page) for page in pages(rows, ["heading"] * 60)] == [1, 1, 1]
