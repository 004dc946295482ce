"""What a signal does where the program is, what it says, and who says it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from simpletune.trainer.interrupt import HANG_UP, Stopped, StopRequest, stop_requests


class Left(Exception):
    """Stands for the end of the process."""


def leave(code: int) -> NoReturn:
    raise Left(code)


@contextmanager
def noted_signals(*, launched: bool = False, tell: Callable[[], bool] = lambda: False) -> Iterator[StopRequest]:
    """A block in which signals are noted; they are raised at its end."""
    request = StopRequest(launched=launched, leave=leave)
    with pytest.raises(Stopped), stop_requests(request), request.deferred(tell):
        yield request


@pytest.mark.parametrize("shown", [True, False])
def test_a_display_says_itself_that_the_run_stops(shown: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with noted_signals(tell=lambda: shown) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        said = capfd.readouterr().err
        assert said == (
            "" if shown else "\nstopping: the step is finished and saved first; again to end without saving\n"
        )
        with pytest.raises(Left, match="130"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANG_UP])
def test_elsewhere_it_ends_what_is_under_way(number: int) -> None:
    with stop_requests(StopRequest(leave=leave)) as stop:
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(number)
        assert caught.value.signal == number
        assert isinstance(caught.value, KeyboardInterrupt), "what cleans up after Ctrl-C cleans up after it"
        with pytest.raises(Stopped), stop.deferred():
            raise AssertionError("begun although the run was asked to stop, in case somebody swallowed that")


def test_only_ctrl_c_again_ends_it_at_once() -> None:
    """Closing a terminal sends SIGHUP twice, and a launcher passes SIGTERM on to those who have it already."""
    with noted_signals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, HANG_UP, HANG_UP):
            signal.raise_signal(number)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Left):
            signal.raise_signal(signal.SIGINT)


def test_a_launcher_passing_ctrl_c_on_is_not_pressing_it_again() -> None:
    with noted_signals(launched=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [HANG_UP, signal.SIGINT])
def test_what_is_ignored_stays_ignored(number: int) -> None:
    """SIGHUP under nohup; SIGINT of what a script starts in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_requests(StopRequest(leave=leave)) as stop:
            signal.raise_signal(number)
            assert not stop.requested
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_handler_that_python_does_not_know_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """signal.signal returns None for what a library in C has put there."""
    before, real = signal.getsignal(signal.SIGTERM), signal.signal

    def from_c(number: int, handler: Any) -> Any:
        kept = real(number, handler)
        return None if kept == before else kept

    monkeypatch.setattr(signal, "signal", from_c)
    try:
        with stop_requests():
            pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        real(signal.SIGTERM, before)
