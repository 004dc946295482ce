import threading
import time

from simpletune.machine.patience import within


def test_work_that_ends_in_time():
    done = []
    assert within(5, lambda: done.append(1))
    assert done == [1]


def test_work_that_hangs_is_left_behind():
    release = threading.Event()
    start = time.monotonic()
    assert not within(0.1, lambda: release.wait(10) and None)
    assert time.monotonic() - start < 5
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    release.set()
