"""The documents show the wizard as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from document_screens import HOME, filled, named, shortened, taken

pytest.importorskip("pexpect")
if sys.platform != "linux":
    pytest.skip("the screens of the documents are taken on Linux", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "docs" / "first-run.md", ROOT / "README.md")


@pytest.fixture(scope="module")
def screens() -> dict[str, str]:
    return taken()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_screens_of_a_document_are_those_of_the_program(document: Path, screens: dict[str, str]) -> None:
    text = document.read_text(encoding="utf-8")
    now = filled(text, screens)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        document.write_text(now, encoding="utf-8")
    elif text != now:
        pytest.fail(f"{document.name} shows older screens: run this with UPDATE_SNAPSHOTS=1, and read what changed")


def test_every_screen_that_is_taken_is_shown(screens: dict[str, str]) -> None:
    shown = {name for document in DOCUMENTS for name in named(document.read_text(encoding="utf-8"))}
    assert shown == set(screens)


def test_the_screens_fit_80_columns_and_name_no_machine(screens: dict[str, str]) -> None:
    assert [line for text in screens.values() for line in text.splitlines() if len(line) > 80] == []
    assert "/tmp/" not in "".join(screens.values())
    assert HOME in screens["review"]


def test_blocks_are_found_and_filled() -> None:
    text = "a\n<!-- screen: one -->\n```text\nold\n```\nb\n```text\nkept\n```\n"
    assert named(text) == ["one"]
    assert filled(text, {"one": "new\nlines"}) == text.replace("old", "new\nlines")
    with pytest.raises(KeyError):
        filled(text, {})


def test_long_screens_are_cut_in_the_middle() -> None:
    assert shortened(list("abcdef"), 2, 1) == ["a", "b", "  ...", "f"]
    assert shortened(list("abc"), 2, 1) == list("abc")
