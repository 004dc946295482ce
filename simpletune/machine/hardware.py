"""What this machine has: GPUs, memory, disk, processors, and what torch was built for. Imports no torch."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.installed import TorchBuild, torch_build

_QUERY = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
_MEBIBYTE = 1 << 20
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it; memory in bytes, `compute_capability` such as (9, 0)."""

    index: int
    name: str
    memory_total: int
    memory_free: int
    driver: str
    compute_capability: tuple[int, int] | None


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes; a figure the system doesn't give is None."""

    gpus: tuple[Gpu, ...]
    memory_total: int | None
    memory_available: int | None
    disk_free: int | None
    cpu_count: int
    torch: TorchBuild | None


def look(folder: Path) -> Machine:
    """This machine, with the free disk space of `folder` (which need not exist yet)."""
    total, available = memory()
    return Machine(nvidia_gpus(), total, available, disk_free(folder), usable_cpus(), torch_build())


def nvidia_gpus() -> tuple[Gpu, ...]:
    """The GPUs nvidia-smi lists; none when there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(answer.stdout) if answer.returncode == 0 else ()


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """nvidia-smi's CSV lines; a line with a figure it does not know ("[N/A]") is left out."""
    rows = ([cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)))
    return tuple(gpu for row in rows if len(row) == len(_QUERY) and (gpu := _gpu(row)))


def _gpu(row: list[str]) -> Gpu | None:
    index, name, total, free, driver, capability = row
    try:
        major, _, minor = capability.partition(".")
        known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
        return Gpu(int(index), name, int(total) * _MEBIBYTE, int(free) * _MEBIBYTE, driver, known)
    except ValueError:
        return None


def memory() -> tuple[int | None, int | None]:
    """Main memory: all of it, and what is free for use; (None, None) where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _physical_memory(), None
    parted = (line.partition(":") for line in lines)
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in parted if rest.strip()}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def disk_free(folder: Path) -> int | None:
    """Free bytes where `folder` is, or will be."""
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100
    for place in (absolute, *absolute.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def usable_cpus() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
