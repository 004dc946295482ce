"""Threads that write caches: what Ctrl-C leaves of them is waited for."""

import threading
import time

import pytest

from simpletune.data.caches import pipeline


def test_a_writer_that_is_just_being_started_is_waited_for(monkeypatch):
    """As when the signal comes between a thread's entry in Python's list and its start."""
    done = []

    def work():
        time.sleep(0.05)
        done.append(True)

    late = threading.Thread(target=work, name=f"{pipeline._WRITER}_9")
    threads = threading.enumerate()
    monkeypatch.setattr(threading, "enumerate", lambda: [*threads, late])
    timer = threading.Timer(0.05, late.start)
    timer.start()
    with pytest.raises(KeyboardInterrupt), pipeline.writing():
        raise KeyboardInterrupt
    assert done
    timer.join()


def test_one_that_never_starts_is_given_up(monkeypatch):
    never = threading.Thread(name=f"{pipeline._WRITER}_9")
    monkeypatch.setattr(threading, "enumerate", lambda: [never])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pipeline.writing():
        pass
    assert not never.is_alive()
