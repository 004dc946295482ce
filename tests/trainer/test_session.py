"""What a training does between its steps."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from simpletune.trainer.interrupt import StopRequest
from simpletune.trainer.session import Session
from simpletune.trainer.validation import picture_count


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
    session._validate = lambda check: Session._validate(session, check)
    Session.validate(session, StopRequest())
    Session.validate(session, StopRequest())  # of one step there is one validation
    assert session.step_function.release_memory.call_count == expected
    assert session.validated_at == 4


@pytest.mark.parametrize(("average", "expected"), [(False, 4 * (1 + 3)), (True, 4 * (1 + 2 * 3))])
def test_pictures_of_a_run_are_the_bases_and_those_of_each_validation(average: bool, expected: int) -> None:
    """After steps 10, 20 and 25: a prompt in two sizes with two seeds."""
    settings = MagicMock(
        validation_prompts={"a": "a cat"},
        validation_resolution=((64, 64), (96, 64)),
        num_validation_images=2,
        validation_seed=42,
        validation_step_interval=10,
        use_ema=average,
    )
    assert picture_count(settings, 25) == expected
