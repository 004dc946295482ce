"""The graphics cards of this machine, as their drivers and the system describe them. Imports no torch.

NVIDIA's come from nvidia-smi, AMD's from Linux's sysfs. A card whose driver doesn't answer is found on the PCI bus, so
that the person can be told that it is there and idle.
"""

from __future__ import annotations

import csv
import ctypes
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

NVIDIA, AMD = "nvidia", "amd"
MEBIBYTE = 1 << 20

_QUERY = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap", "uuid", "mig.mode.current")
_REQUIRED_COLUMNS = 6
_TIMEOUT_SECONDS = 10
_SMI_IN_WSL = Path("/usr/lib/wsl/lib/nvidia-smi")  # on the search path of a login shell only
_PCI_VENDORS = {"0x10de": NVIDIA, "0x1002": AMD}
_PCI_DISPLAY = "0x03"  # the class of graphics and 3D controllers


@dataclass(frozen=True)
class Gpu:
    """A card; memory in bytes (None where the driver gives no figure), `compute_capability` such as (9, 0).

    `slice` is the profile of a MIG instance ("1g.10gb"), which is then all a program sees of the card.
    """

    index: int
    name: str
    memory_total: int | None
    memory_free: int | None
    driver: str
    compute_capability: tuple[int, int] | None
    uuid: str = ""
    slice: str | None = None
    vendor: str = NVIDIA


@dataclass(frozen=True)
class Found:
    """NVIDIA's cards, or what nvidia-smi said instead of listing them (None where there is no such program)."""

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


def nvidia_gpus() -> Found:
    """The GPUs nvidia-smi lists; none when there is no driver."""
    program = shutil.which("nvidia-smi") or (str(_SMI_IN_WSL) if _SMI_IN_WSL.exists() else None)
    if program is None:
        return Found()
    listed = _ask(program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
    gpus = parse_gpus(listed.stdout)
    if not gpus:  # a driver that doesn't know the newer columns refuses the whole question
        listed = _ask(program, f"--query-gpu={','.join(_QUERY[:_REQUIRED_COLUMNS])}", "--format=csv,noheader,nounits")
        gpus = parse_gpus(listed.stdout)
    if not gpus:
        return Found(problem=_complaint(listed))
    if any(gpu.slice is not None for gpu in gpus):
        gpus = with_slices(gpus, _ask(program, "-L").stdout)
    return Found(gpus)


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What nvidia-smi answers; a failure to run it reads as its complaint."""
    try:
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 1, "", f"nvidia-smi gave no answer within {_TIMEOUT_SECONDS} seconds")
    except OSError as error:
        return subprocess.CompletedProcess([], 1, "", f"nvidia-smi can't be run: {error.strerror}")


def _complaint(answer: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (answer.stderr + "\n" + answer.stdout).splitlines() if line.strip()]
    return lines[0] if lines else "nvidia-smi lists no GPU"


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """nvidia-smi's CSV lines; a figure it does not know ("[N/A]") is None, a line that is none of its is left out."""
    rows = ([cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)))
    return tuple(_gpu(row) for row in rows if len(row) >= _REQUIRED_COLUMNS and row[0].isdecimal())


def _gpu(row: Sequence[str]) -> Gpu:
    index, name, total, free, driver, capability = row[:_REQUIRED_COLUMNS]
    uuid, mig = (*row[_REQUIRED_COLUMNS:], "", "")[:2]
    major, _, minor = capability.partition(".")
    known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
    sliced = "" if mig == "Enabled" else None
    return Gpu(int(index), name, _bytes(total), _bytes(free), driver, known, uuid, sliced)


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * MEBIBYTE if mebibytes.isdecimal() else None


def with_slices(gpus: Sequence[Gpu], listing: str) -> tuple[Gpu, ...]:
    """Cards in MIG mode replaced by their instances, as `nvidia-smi -L` lists them below each card.

    A program sees one instance at a time, of the size its profile names in GB ("1g.10gb"). A card in MIG mode without
    an instance stays, with `slice` "" and no memory: nothing runs on it.
    """
    instances: dict[int, list[tuple[str, str]]] = {}
    card = -1
    for line in listing.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            card = int(match[1])
        elif match := re.match(r"\s+MIG (\S+)\s.*UUID: ([^)\s]+)", line):
            instances.setdefault(card, []).append((match[1], match[2]))
    return tuple(part for gpu in gpus for part in _parts(gpu, instances.get(gpu.index, [])))


def _parts(gpu: Gpu, instances: Sequence[tuple[str, str]]) -> Iterator[Gpu]:
    if gpu.slice is None:
        yield gpu
    elif not instances:
        yield replace(gpu, memory_total=None, memory_free=None)
    for profile, uuid in instances if gpu.slice is not None else ():
        size = re.search(r"(\d+)gb", profile)
        memory = int(size[1]) << 30 if size else None
        yield replace(gpu, memory_total=memory, memory_free=None, uuid=uuid, slice=profile)


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version the driver library runs, such as (13, 0); None without one.

    It counts a compatibility package that lies over the driver, which the driver's own version number doesn't.
    """
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    version = ctypes.c_int(0)
    try:
        if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def amd_gpus(drm: Path = Path("/sys/class/drm")) -> tuple[Gpu, ...]:
    """The cards that Linux's amdgpu driver shows."""
    cards = sorted(drm.glob("card[0-9]*/device/mem_info_vram_total"))
    return tuple(_amd(index, total.parent) for index, total in enumerate(cards))


def _amd(index: int, device: Path) -> Gpu:
    total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
    free = None if total is None or used is None else total - used
    return Gpu(index, _text(device / "product_name") or "AMD GPU", total, free, "", None, vendor=AMD)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdecimal() else None


def cards_on_bus(pci: Path = Path("/sys/bus/pci/devices")) -> frozenset[str]:
    """The makers (NVIDIA, AMD) of graphics cards on the PCI bus, with a driver or without; Linux only."""
    found = set()
    for device in pci.glob("*"):
        maker = _PCI_VENDORS.get(_text(device / "vendor"))
        if maker is not None and _text(device / "class").startswith(_PCI_DISPLAY):
            found.add(maker)
    return frozenset(found)
