"""What this machine has: GPUs, memory, disk, processors, and what torch was built for. Imports no torch.

`devices.py` says what of it a run can use.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.installed import TorchBuild, torch_build
from simpletune.machine.gpus import Gpu, amd_gpus, cards_on_bus, driver_cuda, nvidia_gpus
from simpletune.machine.toolchain import gap

__all__ = ["Gpu", "Machine", "disk_free", "look", "memory", "usable_cpus"]

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes; a figure the system doesn't give is None.

    system: "Linux", "Windows" or "Darwin" (a Mac). architecture: "x86_64", "aarch64", "arm64", "AMD64". wsl: 1 or 2
    inside Windows. visible_devices: CUDA_VISIBLE_DEVICES as it is set. gpu_problem: what nvidia-smi said instead of
    listing cards. driver_cuda: the newest CUDA version the driver runs. cards: the makers of cards on the bus.
    can_compile: torch.compile lacks nothing it needs for a CUDA card.
    """

    gpus: tuple[Gpu, ...]
    memory_total: int | None
    memory_available: int | None
    disk_free: int | None
    cpu_count: int
    torch: TorchBuild | None
    system: str = "Linux"
    architecture: str = "x86_64"
    release: str = ""
    processor: str = "processor"
    wsl: int | None = None
    in_container: bool = False
    visible_devices: str | None = None
    device_order: str = "FASTEST_FIRST"
    gpu_problem: str | None = None
    driver_cuda: tuple[int, int] | None = None
    cards: frozenset[str] = frozenset()
    can_compile: bool = True


def look(folder: Path) -> Machine:
    """This machine, with the free disk space of `folder` (which need not exist yet).

    Takes as long as nvidia-smi does: some 50 ms, a second or two where its driver has to be woken first.
    """
    total, available = memory()
    nvidia = nvidia_gpus()
    return Machine(
        gpus=(*nvidia.gpus, *amd_gpus()),
        memory_total=total,
        memory_available=available,
        disk_free=disk_free(folder),
        cpu_count=usable_cpus(),
        torch=torch_build(),
        system=platform.system(),
        architecture=platform.machine(),
        release=platform.mac_ver()[0] or platform.release(),
        processor=processor_name(),
        wsl=wsl_version(platform.release()),
        in_container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        device_order=os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST"),
        gpu_problem=nvidia.problem,
        driver_cuda=driver_cuda() if nvidia.gpus else None,
        cards=cards_on_bus(),
        can_compile=gap("cuda") is None,
    )


def wsl_version(kernel: str) -> int | None:
    """1 or 2 inside the Windows Subsystem for Linux, by the kernel's name; None elsewhere."""
    if "microsoft" not in kernel.lower():
        return None
    return 2 if "wsl2" in kernel.lower() or "microsoft-standard" in kernel else 1


def memory() -> tuple[int | None, int | None]:
    """Main memory in bytes: all this process may use, and what is free; None where the system does not say."""
    total, available = _system_memory()
    limit, used = _container_memory()
    if limit is None or (total is not None and limit >= total):
        return total, available
    left = max(0, limit - used)
    return limit, left if available is None else min(left, available)


def _system_memory() -> tuple[int | None, int | None]:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return _memory_elsewhere()
    parted = (line.partition(":") for line in lines)
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in parted if rest.strip()}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _memory_elsewhere() -> tuple[int | None, int | None]:
    """macOS and Windows."""
    try:
        import psutil

        found = psutil.virtual_memory()
    except (ImportError, OSError, RuntimeError):
        return None, None
    return int(found.total), int(found.available)


def _container_memory() -> tuple[int | None, int]:
    """A container's limit and what is used of it, in bytes; (None, 0) without a limit. cgroup version 2, then 1."""
    old = _CGROUP / "memory"
    for limit, used, details in (
        (_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat"),
        (old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat"),
    ):
        size = _number(limit)
        if size is not None:
            return size, max(0, (_number(used) or 0) - _file_cache(details))
    return None, 0


def _file_cache(details: Path) -> int:
    """Bytes of files read lately, which count as used and make way for anything else."""
    try:
        lines = details.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


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
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return count


def processor_name() -> str:
    """What the processor calls itself, such as "Apple M2 Pro"."""
    if platform.system() == "Darwin":
        return _apple_name() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "processor"


def _apple_name() -> str:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
