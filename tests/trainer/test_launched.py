"""`python -m simpletune.trainer`, as launchers start it: what it says of errors."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from simpletune.errors import TrainingFailed
from simpletune.trainer import __main__ as subject
from simpletune.trainer import launch

TOKEN = "hf_" + "Q7x" * 11


@pytest.mark.parametrize(
    "error", [RuntimeError(f"unforeseen, with {TOKEN}"), TrainingFailed(f"\x1b[2Jfailed with {TOKEN}", "see to it")]
)
def test_no_token_and_no_escape_is_in_what_it_says(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(launch, "launch", fails)
    monkeypatch.setattr(subject, "map_in_pages", lambda: None)
    monkeypatch.setattr(sys, "argv", ["trainer", "config.json"])
    assert subject.main() == 1
    said = capsys.readouterr().err
    assert "with" in said
    assert TOKEN not in said
    assert "\x1b" not in said
