"""Threads that read ahead: in order, errors and all, and a program that ends doesn't wait for one that hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from functools import partial

import pytest

from simpletune.data import readers as subject
from simpletune.data.readers import Readers

_HANGS = """
import threading
from simpletune.data import readers
readers._PATIENCE_SECONDS = 0.2
threads = readers.Readers(2, "hangs")
begun = threading.Event()
threads.submit(lambda: (begun.set(), threading.Event().wait()))
begun.wait()
threads.close()
"""


def test_each_gives_what_it_was_asked_for_or_its_error() -> None:
    readers = Readers(2, "test")
    given = [readers.submit(partial(divmod, 7, divisor)) for divisor in (1, 2, 0, 3)]
    assert [one.result(5) for one in (given[0], given[1], given[3])] == [(7, 0), (3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        given[2].result(5)
    readers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


def test_closing_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_PATIENCE_SECONDS", 0.05)
    readers, begun, go_on = Readers(1, "test"), threading.Event(), threading.Event()

    def read() -> bool:
        begun.set()
        return go_on.wait(5)

    under_way = readers.submit(read)
    waiting = readers.submit(lambda: None)
    assert begun.wait(5)
    readers.close()
    go_on.set()
    assert under_way.result(5)
    with pytest.raises(CancelledError):
        waiting.result(5)


def test_a_program_ends_though_a_disk_does_not_answer() -> None:
    assert subprocess.run([sys.executable, "-c", _HANGS], timeout=30, check=False).returncode == 0
