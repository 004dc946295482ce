"""What a training does between its steps."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from simpletune.trainer.session import Session


@pytest.mark.parametrize(
    ("is_main", "held_out", "shots", "expected"),
    [(True, (), (), 0), (True, ("a picture",), (), 1), (True, (), ("a shot",), 1), (False, (), ("a shot",), 0)],
)
def test_graphs_make_room_only_where_something_is_validated(
    is_main: bool, held_out: tuple[str, ...], shots: tuple[str, ...], expected: int
) -> None:
    session = MagicMock(step=4, validated_at=None, held_out=held_out)
    session.processes.is_main = is_main
    session.pictures.shots = shots
    Session.validate(session)
    Session.validate(session)  # of one step there is one validation
    assert session.step_function.release_memory.call_count == expected
    assert session.validated_at == 4
