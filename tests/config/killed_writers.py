"""Writers that are killed before their n-th system call, for every n; run as a program, it prints what was found.

A program of its own, because it forks, which a process with threads (pytest's) should not.
Usage: killed_writers.py FOLDER write|recover
"""

import json
import os
import signal
import sys
from pathlib import Path

from simpletune.config.journal import recover, write_together

OLD = {"config.json": b'{"seed": 1}', "multidatabackend.json": b"[1]", "far/prompts.json": b'{"a": "old"}'}
NEW = {"config.json": b'{"seed": 2}', "multidatabackend.json": b"[2]", "far/prompts.json": b'{"a": "new"}',
       "made/new.json": b"{}"}  # fmt: skip
CALLS = ("open", "os.mkdir", "os.rename", "os.remove", "os.chmod", "os.chown", "os.rmdir", "fcntl.flock")


def kill_before(number):
    """From now on, count what changes files (and the fsyncs, which no audit event tells) and die before `number`."""
    count = 0

    def call(event, arguments):
        nonlocal count
        if event in CALLS:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda descriptor: call("open", ())
    sys.addaudithook(call)


def in_child(action, *arguments):
    """Run `action` in a forked process; whether it was killed."""
    child = os.fork()
    if child == 0:
        action(*arguments)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def fresh(folder):
    for name, content in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def state(folder):
    found = {name: (folder / name).read_bytes() for name in NEW if (folder / name).exists()}
    return "old" if found == OLD else "new" if found == NEW else "mixed"


def others(folder):
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in NEW)


def write(folder, number=0):
    kill_before(number)
    write_together(folder / "config.json", {folder / name: content for name, content in NEW.items()})


def settle(folder, number):
    kill_before(number)
    recover(folder / "config.json")


def look(folder, **found):
    before = state(folder)
    note = recover(folder / "config.json")
    return {**found, "before": before, "note": note, "after": state(folder), "others": others(folder)}


def killed_writes(root):
    number, killed = 0, True
    while killed:
        number += 1
        folder = root / str(number)
        fresh(folder)
        killed = in_child(write, folder, number)
        yield look(folder, number=number, killed=killed)


def killed_recoveries(root):
    """Writers killed at every seventh call, each followed by recoveries that are killed at every call."""
    for first in range(5, 76, 7):
        number, killed = 0, True
        while killed:
            number += 1
            folder = root / f"{first}-{number}"
            fresh(folder)
            in_child(write, folder, first)
            killed = in_child(settle, folder, number)
            yield look(folder, first=first, number=number, killed=killed)


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # nothing is cut off here but processes
    run = killed_writes if sys.argv[2] == "write" else killed_recoveries
    print(json.dumps(list(run(Path(sys.argv[1])))))
