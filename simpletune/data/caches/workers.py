"""Processes that prepare pictures, beside the one that trains: they import Pillow and numpy, never torch.

Each process is started afresh, reads, decodes and resizes one picture at a time, and lays its pixels as uint8 into
memory that it shares with its parent; what else there is to say goes through pipes. Nothing can stay behind: the
memory has no name and is gone with its last user, and a process whose parent is gone reads the end of its pipe and
ends. They are plain subprocesses, as multiprocessing would import the program's main module into each.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

import numpy as np

from simpletune.data.caches.preparation import Fault, Job, Made, make, size_bytes
from simpletune.data.sources import Source, shown
from simpletune.errors import OutOfMemory

_FEW_PICTURES = 32  # up to so many, starting processes costs more than they give
_FEW_CORES = 4  # up to so many, threads are as fast: Pillow releases the interpreter's lock for most of its work
_MOST = 16
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from simpletune.data.caches.workers import serve; serve(sys.argv[2], int(sys.argv[3]))"
)
_KILLED = -getattr(signal, "SIGKILL", 9)

Prepare = Callable[[Job], "Made | Fault"]


@contextmanager
def preparing(jobs: Sequence[Job], sources: Mapping[str, Source]) -> Iterator[tuple[ThreadPoolExecutor, Prepare]]:
    """Threads, and the function to run in them for each job: in processes of their own where `in_processes` says so.

    Leaving the block ends everything, whatever is under way. The function raises OutOfMemory when the system has
    ended a process twice over the same picture.
    """
    count = min(processors(), _MOST, len(jobs))
    if not in_processes(len(jobs)):
        with _threads(count) as pool:
            yield pool, lambda job: make(job, sources)
        return
    team = _Team(count, pickle.dumps(dict(sources)), max(job.room for job in jobs))
    with _threads(count) as pool:
        try:
            yield pool, lambda job: team.make(job, sources)
        finally:
            team.close()


def in_processes(jobs: int) -> bool:
    """Whether so many jobs are faster in processes than in threads; tests/data/measure_prepare.py tells by how much."""
    return jobs > _FEW_PICTURES and processors() > _FEW_CORES


def processors() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(count, "pictures")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Died(Exception):
    """The process ended instead of answering."""


class _Team:
    """The processes of one phase, each used by one thread at a time."""

    def __init__(self, count: int, sources: bytes, room: int) -> None:
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker(sources, room) for _ in range(count)]
        for worker in self._workers:
            self._idle.put(worker)

    def make(self, job: Job, sources: Mapping[str, Source]) -> Made | Fault:
        """What `preparation.make` gives; a picture over which a process died is given to another one, once."""
        worker = self._idle.get()
        try:
            try:
                return worker.make(job)
            except _Died:
                return worker.make(job)
        except _Died:
            return _given_up(shown(sources[job.set_id].location(job.name)), worker)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def _given_up(where: str, worker: _Worker) -> Fault:
    """What it means that a process ended over the picture, twice."""
    if worker.exit_code == _KILLED:
        raise OutOfMemory(
            f"{where}: the system ended the process that prepares it, twice: most likely memory ran out",
            "close other programs, or make the largest pictures smaller",
        )
    if worker.exit_code == 1:  # an exception of Python's that isn't about the picture
        raise RuntimeError(f"a process that prepares pictures failed:\n{worker.last_words}")
    return Fault(f"{where}: reading it crashes the decoder (exit code {worker.exit_code})")


class _Worker:
    """One process, started when it is first needed and again when it has died."""

    def __init__(self, sources: bytes, room: int) -> None:
        self._sources = sources
        self._room = _Room(room)
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.exit_code: int | None = None
        self.last_words = ""

    def make(self, job: Job) -> Made | Fault:
        """Raises _Died when the process ends before it answers."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, job)
            answer = pickle.load(process.stdout)  # noqa: S301 - from our own process
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            self._end(process)
            raise _Died from error
        if isinstance(answer, BaseException):
            raise answer
        return self._with_pixels(answer, job) if isinstance(answer, Made) else answer

    def close(self) -> None:
        """End the process, whatever it is at."""
        with self._closing:
            self._closed = True
            if self._process is not None:
                self._end(self._process)
            self._room.close()
            self._errors.close()

    def _running(self) -> subprocess.Popen[bytes]:
        with self._closing:
            if self._closed:
                raise RuntimeError("the pictures aren't wanted any more")
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), self._room.name, str(self._room.size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=self._room.descriptors,
            env=environment,
        )
        assert process.stdin is not None
        process.stdin.write(self._sources)
        return process

    def _with_pixels(self, made: Made, job: Job) -> Made:
        """The answer with its pixels, copied out of the shared memory."""
        pixels, offset = [], 0
        for placement in (job.placements[index] for index in made.missing):
            shape = placement.bucket[1], placement.bucket[0], 3
            flat = np.frombuffer(self._room.memory, np.uint8, size_bytes(placement), offset)
            pixels.append(flat.reshape(shape).copy())
            offset += size_bytes(placement)
        return replace(made, pixels=pixels)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        self.exit_code = process.wait()
        self._errors.seek(0)
        self.last_words = self._errors.read().decode("utf-8", "replace").strip()
        self._errors.seek(0)
        self._errors.truncate()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class _Room:
    """Memory for the pixels of one picture, shared with one process and without a name that could stay behind.

    Windows finds it by a name that is gone with its last user, others by a file descriptor that the process inherits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptors: tuple[int, ...] = ()
        if sys.platform == "win32":
            self.name = f"simpletune-{uuid.uuid4().hex}"
            self.memory = mmap.mmap(-1, size, tagname=self.name)
            return
        descriptor = _nameless_file()
        os.ftruncate(descriptor, size)
        self.memory = mmap.mmap(descriptor, size)
        self.descriptors, self.name = (descriptor,), str(descriptor)

    def close(self) -> None:
        """Give it up; a thread that still copies from it keeps it until it is done."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("simpletune-pictures")  # a container's /dev/shm is often too small
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def serve(name: str, size: int) -> None:
    """What a process does: answer jobs until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size, tagname=name)
    else:
        memory = mmap.mmap(int(name), size)
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, jobs), daemon=True).start()
    sources = jobs.get()
    with suppress(BrokenPipeError):
        while True:
            _send(answers, _answer(jobs.get(), sources, memory))


def _listen(requests: IO[bytes], jobs: queue.SimpleQueue[Any]) -> None:
    """Pass on what the parent sends; when it is gone, end this process, whatever it is at."""
    try:
        while True:
            jobs.put(pickle.load(requests))  # noqa: S301 - from our own parent
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _answer(job: Job, sources: Mapping[str, Source], memory: mmap.mmap) -> Made | Fault | Exception:
    try:
        made = make(job, sources)
    except Exception:  # the parent shows it as the bug that it is
        return RuntimeError(f"preparing {job.name!r}:\n{traceback.format_exc()}")
    if isinstance(made, Fault):
        return made
    offset = 0
    for pixels in made.pixels:
        memory[offset : offset + pixels.nbytes] = pixels.tobytes()
        offset += pixels.nbytes
    return replace(made, pixels=())


def _send(pipe: IO[bytes], message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()
