"""Compiled code is kept between runs, in a folder that nobody but its owner can write: it is code that will be run.

torch's own place for it is a folder under the system's temporary one, whose name everybody can guess. Ours has mode
0700 and stands among the user's caches, with one folder for each version of torch. TORCHINDUCTOR_CACHE_DIR and
TRITON_CACHE_DIR, which torch and Triton read, keep what the user set them to.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from torch._inductor import config as inductor

from simpletune import __version__
from simpletune.errors import EnvironmentNotReady
from simpletune.machine.user_cache import cache_folder

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
_THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
_SUBFOLDERS = {INDUCTOR: "inductor", TRITON: "triton"}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_COMPILERS = 8
"""Processes that compile at once, at most: each holds 0.4 GiB of the host's memory until the run ends."""


def prepare() -> str | None:
    """Have this process, and those it starts, keep compiled code, and few of them compile; to be called before that.

    Returns a line to show when it can't be kept past this process. Raises EnvironmentNotReady when the folder isn't
    this user's alone.
    """
    if _THREADS not in os.environ:
        inductor.compile_threads = min(inductor.compile_threads, _COMPILERS)
    unset = [name for name in _SUBFOLDERS if _chosen(name) is None]
    if not unset:
        return None
    note = None
    try:
        folder = _private(_root()) / _version()
        for name in unset:
            (folder / _SUBFOLDERS[name]).mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        note = f"compiled code can't be kept for the next run: {reason}"
        folder = Path(tempfile.mkdtemp(prefix="simpletune-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update({name: str(folder / _SUBFOLDERS[name]) for name in unset})
    return note


def _chosen(name: str) -> str | None:
    """The folder that the user named in a variable.

    torch itself fills in TORCHINDUCTOR_CACHE_DIR while parts of it are imported, with its own place (`torchinductor_`
    and the user's name, among the temporary files), which is not a choice of the user's.
    """
    folder = os.environ.get(name)
    return None if not folder or folder.startswith(str(Path(tempfile.gettempdir()) / "torchinductor_")) else folder


def _root() -> Path:
    return cache_folder() / "compiled"


def _version() -> str:
    return f"torch-{torch.__version__}-simpletune-{__version__}"


def _private(folder: Path) -> Path:
    """The folder, made if need be; raises EnvironmentNotReady when somebody else could put code there."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    reason = None if os.name == "nt" else _not_private(folder)
    if reason is not None:
        raise EnvironmentNotReady(
            f"{folder} keeps compiled code, which is run, and {reason}",
            f"remove it if you don't know why, or name folders of your own in {INDUCTOR} and {TRITON}",
        )
    return folder


def _not_private(folder: Path) -> str | None:
    """Why others could put something into the folder, as a clause; None when only this user can."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "it is no folder but a link or a file"
    if status.st_uid != os.geteuid():
        return f"it belongs to another user (number {status.st_uid})"
    if status.st_mode & _OTHERS_WRITE:
        return f"other users can write there (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
