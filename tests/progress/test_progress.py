"""What long work looks like, on a terminal and in a pipe, with a clock that stands still."""

import io
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from simpletune.progress import PlainReporter, RichReporter, SilentReporter, terminal_reporter


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock):
    stream = io.StringIO()
    return PlainReporter(stream, clock), stream


def rich(clock):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None, markup=False, legacy_windows=False)
    return RichReporter(console, clock), stream


def visible(stream):
    """What a terminal was sent, without the codes that move its cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())


def wait_for(condition):
    """The live screen is drawn by a thread of its own, eight times a second."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def test_units_have_their_own_plurals(clock):
    reporter, stream = plain(clock)
    with reporter.phase("Reading caches", 3, "entry") as phase:
        clock.now += 1.5
        phase.advance(3)
    assert stream.getvalue().splitlines() == [
        "Reading caches: 3 entries",
        "Reading caches: done, 3 entries in 1.5 s (2 entries/s)",
    ]


def test_plain_training(clock):
    reporter, stream = plain(clock)
    with reporter.phase("Training", 100, "step", done=20) as phase:
        for _ in range(80):
            clock.now += 0.5
            phase.advance(1, loss="0.213", lr="1e-4")
    assert stream.getvalue().splitlines() == [
        "Training: 100 steps, 20 steps already done",
        "Training: 30/100 steps, 2 steps/s, 35 s left, loss 0.213, lr 1e-4",
        "Training: 40/100 steps, 2 steps/s, 30 s left, loss 0.213, lr 1e-4",
        "Training: 50/100 steps, 2 steps/s, 25 s left, loss 0.213, lr 1e-4",
        "Training: 60/100 steps, 2 steps/s, 20 s left, loss 0.213, lr 1e-4",
        "Training: 70/100 steps, 2 steps/s, 15 s left, loss 0.213, lr 1e-4",
        "Training: 80/100 steps, 2 steps/s, 10 s left, loss 0.213, lr 1e-4",
        "Training: 90/100 steps, 2 steps/s, 5 s left, loss 0.213, lr 1e-4",
        "Training: done, 80 steps in 40 s (2 steps/s), loss 0.213, lr 1e-4",
    ]


def test_plain_bytes_slow_units_and_unknown_totals(clock):
    reporter, stream = plain(clock)
    with reporter.phase("Downloading", 3 * 2**30, "B") as phase:
        clock.now += 12
        phase.advance(2**30)
    with reporter.phase("Sampling", 2, "image") as phase:
        clock.now += 20
        phase.advance()
    with reporter.phase("Looking for images", None, "image") as phase:
        phase.advance()
    assert stream.getvalue().splitlines() == [
        "Downloading: 3.0 GiB",
        "Downloading: 1.0 GiB of 3.0 GiB, 85.3 MiB/s, 24 s left",
        "Downloading: done, 1.0 GiB in 12 s (85.3 MiB/s)",
        "Sampling: 2 images",
        "Sampling: 1/2 images, 20 s/image, 20 s left",
        "Sampling: done, 1 image in 20 s (20 s/image)",
        "Looking for images ...",
        "Looking for images: done, 1 image in 0 s",
    ]


@pytest.mark.parametrize("make", [plain, rich])
def test_a_phase_that_fails_says_how_far_it_came(clock, make):
    reporter, stream = make(clock)

    def interrupted():
        with reporter.phase("Training", 10, "step") as phase:
            clock.now += 3700
            phase.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "Training: stopped, at 4/10 steps in 1:01:40 (925 s/step)" in visible(stream)


def test_a_fast_phase_has_two_lines_and_a_long_one_not_thousands(clock):
    reporter, stream = plain(clock)
    with reporter.phase("Caching", 5000, "image") as phase:
        for _ in range(5000):
            clock.now += 0.0001
            phase.advance()
    assert len(stream.getvalue().splitlines()) == 2
    with reporter.phase("Training", 36_000, "step") as phase:
        for _ in range(36_000):
            clock.now += 1
            phase.advance()
    assert 500 < len(stream.getvalue().splitlines()) < 700


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=200), total=st.one_of(st.none(), st.floats(1, 1e12)), amount=st.integers(0, 10**12))
def test_plain_lines_fit_80_columns_without_control_characters(text, total, amount):
    clock = Clock()
    reporter, stream = plain(clock)
    with reporter.phase(text, total, "image") as phase:
        clock.now += 11
        phase.advance(amount, value=text)
    reporter.note(text)
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 80 for line in lines if " " in line[:80] or "..." in line)


def test_long_notes_are_wrapped_between_words_and_paths_stay_whole(clock):
    reporter, stream = plain(clock)
    path = "/data/" + "very-long-folder-name/" * 6
    reporter.note(f"The adapter of this run was written to {path}")
    reporter.warn("two\nlines")
    assert stream.getvalue().splitlines() == [
        "The adapter of this run was written to",
        path,
        "warning: two",
        "lines",
    ]


@pytest.mark.parametrize("make", [plain, rich])
def test_a_command_in_a_note_stays_in_one_line_to_be_copied(clock, make):
    reporter, stream = make(clock)
    command = "    simpletune train config.json " + "--set max_train_steps=50 " * 4 + "--set output_dir=output-2"
    reporter.note(f"to continue this one later:\n{command}")
    assert command in stream.getvalue().splitlines()


@pytest.mark.parametrize("make", [plain, rich])
@pytest.mark.parametrize("text", ["[bold]x[/bold]", "/data/[my set]/x", "[/foo]", ":smile: {x} %s"])
def test_user_text_is_shown_as_it_is(clock, make, text):
    reporter, stream = make(clock)
    reporter.note(text)
    reporter.warn(text)
    with reporter.phase(text, 2, "step") as phase:
        phase.advance(1, name=text)
    shown = visible(stream)
    assert shown.count(text) >= 4


@pytest.mark.parametrize("make", [plain, rich])
def test_control_characters_and_tokens_are_not_shown(clock, make, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary-token-value")
    reporter, stream = make(clock)
    reporter.note("a\x1b[2Jb canary-token-value")
    assert "a?[2Jb [redacted]" in visible(stream)
    assert "\x1b[2J" not in stream.getvalue()


def test_the_live_screen(clock):
    reporter, stream = rich(clock)
    with reporter.phase("Training", 1000, "step") as phase:
        clock.now = 50
        phase.advance(100, loss="0.213", lr="1e-4")
        with reporter.phase("A validation with a title far too long", 4, "image") as inner:
            inner.advance()
            reporter.note("Note")
            wait_for(lambda: "1/4 images" in visible(stream))
    screen = visible(stream)
    assert re.search(r"Training  ━+─+  100/1000 steps, 2 steps/s, 7:30 left\n  loss 0.213, lr 1e-4\n", screen)
    assert re.search(r"A validation with a title f…  ━+─+  1/4 images", screen)
    assert "Note\n" in screen
    assert screen.endswith("Training: done, 100 steps in 50 s (2 steps/s), loss 0.213, lr 1e-4\n")
    assert stream.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_threads_advance_together(clock):
    reporter, stream = plain(clock)
    with reporter.phase("Caching", 4000, "image") as phase:
        threads = [threading.Thread(target=lambda: [phase.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "done, 4000 images" in stream.getvalue()


def test_the_terminal_decides(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(terminal_reporter(Terminal()), RichReporter)
    assert isinstance(terminal_reporter(io.StringIO()), PlainReporter)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(terminal_reporter(Terminal()), PlainReporter)


def test_progress_goes_to_stderr(capsys):
    reporter = terminal_reporter()
    reporter.note("hello")
    captured = capsys.readouterr()
    assert captured.err == "hello\n"
    assert captured.out == ""


def test_silence(capsys):
    reporter = SilentReporter()
    reporter.note("a")
    reporter.warn("b")
    with reporter.phase("c", 1, "step") as phase:
        phase.advance(1, loss="1")
    assert capsys.readouterr() == ("", "")
