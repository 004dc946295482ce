"""Processes prepare what this one would, are replaced when they die, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from data_helpers import colours
from worker_sources import Broken, Deadly, Slow

from simpletune.data.caches import workers
from simpletune.data.caches.pipeline import read_ahead
from simpletune.data.caches.preparation import Fault, Job, Made, make
from simpletune.data.caches.workers import preparing
from simpletune.data.geometry import Placement
from simpletune.data.sources import Source
from simpletune.data.sources.local import Folder
from simpletune.errors import OutOfMemory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

CENTRE = Placement((80, 60), (8, 6, 72, 54), (64, 48))
PLACEMENTS = (CENTRE, replace(CENTRE, crop=(16, 12, 80, 60)), replace(CENTRE, mirrored=True))


earlier: set[int] = set()


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    """However few pictures there are, processes prepare them: two."""
    monkeypatch.setattr(workers, "in_processes", lambda jobs: True)
    monkeypatch.setattr(workers, "_MOST", 2)
    earlier.clear()
    earlier.update(child.pid for child in psutil.Process().children(recursive=True))


@pytest.fixture
def jobs(save, tmp_path) -> list[Job]:
    for index in range(6):
        save(f"{index}.png", colours(80, 60, 20 * index))
    return [Job("a", f"{index}.png", (80, 60), PLACEMENTS, str(tmp_path / "cache"), "vae") for index in range(6)]


def run(jobs: list[Job], source: Source) -> list[Made | Fault]:
    with preparing(jobs, {"a": source}) as (pool, prepare):
        return [made for _, made in read_ahead(pool, prepare, jobs, 4)]


def children() -> list[psutil.Process]:
    """The processes that this test started, and not, say, a resource tracker of an earlier one."""
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in earlier]


def test_processes_give_what_this_one_would(jobs, folder):
    source = Folder(str(folder))
    found = run([*jobs, replace(jobs[0], name="gone.png"), replace(jobs[0], size=(60, 80))], source)
    for job, made in zip(jobs, found[:6], strict=True):
        expected = make(job, {"a": source})
        assert made == expected
        assert len(made.pixels) == len(expected.pixels) == 3
        assert all(np.array_equal(*pair) for pair in zip(made.pixels, expected.pixels, strict=True))
    assert [made.keys for made in found[:6]] == [make(job, {"a": source}).keys for job in jobs]
    assert "gone.png: No such file" in found[6].message
    assert "changed since it was scanned" in found[7].message
    assert children() == []


def test_what_is_cached_already_isnt_decoded(jobs, folder, tmp_path):
    source = {"a": Folder(str(folder))}
    keys = make(jobs[0], source).keys
    entry = tmp_path / "cache" / keys[1][:2] / f"{keys[1]}.safetensors"
    entry.parent.mkdir(parents=True)
    entry.touch()
    assert make(jobs[0], source).missing == (0, 2)
    assert make(replace(jobs[0], again=frozenset(keys)), source).missing == (0, 1, 2)
    for key in keys:
        (entry.parents[1] / key[:2]).mkdir(exist_ok=True)
        (entry.parents[1] / key[:2] / f"{key}.safetensors").touch()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:100])  # what isn't decoded isn't found out
    assert isinstance(make(jobs[0], source), Fault)


def test_they_import_no_torch():
    code = (
        "import sys, simpletune.data.caches.workers, simpletune.data.sources.local\n"
        "sys.exit(bool({'torch', 'safetensors', 'transformers', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestDeath:
    @pytest.fixture
    def deadly(self, folder, tmp_path) -> Callable[[int, int], Deadly]:
        (tmp_path / "deaths").mkdir()
        return lambda number, times: Deadly(str(folder), "2.png", number, times, str(tmp_path / "deaths"))

    def test_the_picture_of_a_process_that_dies_is_given_to_another(self, jobs, deadly, folder):
        found = run(jobs, deadly(signal.SIGKILL, 1))
        assert found == [make(job, {"a": Folder(str(folder))}) for job in jobs]

    def test_the_system_killing_twice_is_out_of_memory(self, jobs, deadly):
        with pytest.raises(OutOfMemory, match=r"2\.png: the system ended the process that prepares it, twice"):
            run(jobs, deadly(signal.SIGKILL, 2))
        assert children() == []

    def test_a_picture_that_crashes_the_decoder_is_left_out(self, jobs, deadly):
        found = run(jobs, deadly(signal.SIGSEGV, 2))
        assert "2.png: reading it crashes the decoder" in found[2].message
        assert all(isinstance(made, Made) for made in found[:2] + found[3:])

    def test_a_source_that_cant_be_read_as_a_whole_and_a_bug(self, jobs, folder):
        assert run(jobs[:1], Broken(str(folder), bug=False)) == [Fault("the bucket is gone", "log in again")]
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            run(jobs, Broken(str(folder), bug=True))


class TestLeavingNothing:
    def test_an_exception_ends_the_processes_at_once(self, jobs, folder, tmp_path):
        begun = tmp_path / "begun"
        begun.mkdir()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with preparing(jobs, {"a": Slow(str(folder), str(begun))}) as (pool, prepare):
                for job in jobs:
                    pool.submit(prepare, job)
                wait_for(lambda: len(list(begun.iterdir())) == 2)
                raise KeyboardInterrupt
        assert children() == []

    def test_processes_whose_parent_is_killed_end_too(self, save, folder, tmp_path):
        begun = tmp_path / "begun"
        begun.mkdir()
        before = shared_memory()
        code = (
            "import sys; sys.path.append(sys.argv[1])\n"
            "from worker_sources import Slow; from simpletune.data.geometry import Placement\n"
            "from simpletune.data.caches import workers; from simpletune.data.caches.preparation import Job\n"
            "workers.in_processes = lambda jobs: True\n"
            "CENTRE = Placement((80, 60), (8, 6, 72, 54), (64, 48))\n"
            "jobs = [Job('a', f'{n}.png', (80, 60), (CENTRE,), 'cache', 'vae') for n in range(4)]\n"
            "with workers.preparing(jobs, {'a': Slow(sys.argv[2], sys.argv[3])}) as (pool, prepare):\n"
            "    list(pool.map(prepare, jobs))\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(begun)])
        wait_for(lambda: len(list(begun.iterdir())) >= 1)
        pids = [int(path.name) for path in begun.iterdir()]
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        assert shared_memory() == before


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("simpletune", "psm_"))}


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
