from pathlib import Path

from simpletune.config.reference import reference


def test_the_reference_is_fresh():
    written = Path(__file__).parents[2] / "docs" / "config-reference.md"
    assert written.read_text(encoding="utf-8") == reference(), (
        "python -m simpletune.config.reference > docs/config-reference.md"
    )
