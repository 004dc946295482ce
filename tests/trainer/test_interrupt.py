"""What Ctrl-C says while training, and who says it."""

from __future__ import annotations

import signal

import pytest

from simpletune.trainer.interrupt import stop_requests


@pytest.mark.parametrize("shown", [True, False])
def test_a_display_says_itself_that_the_run_stops(shown: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with stop_requests(lambda: shown) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        said = capfd.readouterr().err
        assert said == (
            "" if shown else "\nstopping: the step is finished and saved first; again to end without saving\n"
        )
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
