"""What of this machine a run can train on, and for what it can't: why, and what to type. Imports no torch.

The facts are PyTorch's and NVIDIA's own tables: which compute capabilities a CUDA build of torch holds kernels for
(pytorch/pytorch RELEASE.md, 2.11 to 2.13), and which driver a CUDA version needs (NVIDIA's "CUDA compatibility").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from simpletune.config.installed import INSTALL_CUDA
from simpletune.machine.gpus import AMD, NVIDIA, Gpu
from simpletune.machine.hardware import Machine

GIB = 1 << 30

# A CUDA context with the kernels of a training step (767 MiB measured on an H100, torch 2.11 and CUDA 13.0), and what
# the driver and a plain desktop keep of a card (480 MiB measured there, without a desktop).
CUDA_CONTEXT, DESKTOP = 3 * GIB // 4, GIB // 2
_SYSTEM = 2 * GIB  # what the operating system keeps of main memory
_APPLE_SHARE = 2 / 3  # of unified memory that Metal recommends to use at most

# CUDA's major version -> the first driver branch that runs it (Linux, Windows).
_DRIVERS = {12: (525, 528), 13: (580, 580)}
# A torch build's CUDA version, at least -> the oldest and newest compute capability it has kernels for.
_KERNELS = (((13, 0), (7, 5), None), ((12, 8), (7, 5), None), ((12, 0), (5, 0), (9, 0)))
_OLDEST_CUDA = "12.6"  # of the builds pytorch.org gives, the one that still knows cards before Turing
_OLDEST_MACOS = 14
_BF16 = (8, 0)

Reason = tuple[str, str | None]  # why not, and what to do


@dataclass(frozen=True)
class Device:
    """Something to train on. `kind` is what the key "device" calls it.

    memory_bytes: of a card its own; of "mps" and "cpu" the main memory. free_bytes: what nothing else uses now. None
    where the system gives no figure. usable: whether a run could start on it; else `why_not` (a clause) and usually
    `next_step` (what to type or do).
    """

    kind: str  # cuda | mps | cpu
    name: str
    memory_bytes: int | None
    free_bytes: int | None
    capability: tuple[int, int] | None
    usable: bool = True
    why_not: str | None = None
    next_step: str | None = None


def devices(machine: Machine) -> tuple[Device, ...]:
    """Everything to train on, best first; the processor is last and always there.

    Among usable cards the first is the one a run takes: CUDA counts them in this order.
    """
    cards = [_card(machine, gpu) for gpu in _in_order(machine)]
    cards += _silent_cards(machine)
    if machine.system == "Darwin" and machine.architecture == "arm64":
        cards.append(_apple(machine))
    return (*sorted(cards, key=lambda device: not device.usable), _processor(machine))


def lack_of_cards(found: Iterable[Device]) -> str | None:
    """Why no CUDA card can be used, in a clause; None where one can."""
    cards = [device for device in found if device.kind == "cuda"]
    if any(card.usable for card in cards):
        return None
    return f"{cards[0].name} can't be used here: {cards[0].why_not}" if cards else "this machine has no CUDA card"


def usable_memory(memory_bytes: int, kind: str = "cuda") -> int:
    """The bytes of a device's memory that a run can count on.

    A card loses CUDA's context and what a desktop shows on it, a Mac the third that Metal leaves to the system, and
    main memory what the system itself needs.
    """
    if kind == "mps":
        return int(memory_bytes * _APPLE_SHARE)
    return max(0, memory_bytes - (CUDA_CONTEXT + DESKTOP if kind == "cuda" else _SYSTEM))


def compute_precision(device: Device) -> tuple[str, str]:
    """The value of "mixed_precision" that suits a device, and the reason in a clause."""
    if device.kind == "cpu":
        return "no", "16 bits save no time on a processor"
    if device.kind == "mps":
        return "bf16", "half the memory of fp32, and it doesn't overflow as fp16 can"
    if device.capability is None:
        return "bf16", "cards since 2020 compute in it; an older one needs fp16"
    capability = "{}.{}".format(*device.capability)
    if device.capability >= _BF16:
        return "bf16", f"compute capability {capability} has it in hardware"
    return "fp16", f"compute capability {capability} computes in fp16; bf16 came with 8.0"


def kernels(device: Device, precision: str, compute: str | None = None) -> str:
    """What layers of a `..._precision` run on there, in a few words; `compute` is a value of "mixed_precision"."""
    name = {"no": "fp32"}.get(value := compute or compute_precision(device)[0], value)
    if precision == "no_change":
        return f"ordinary {name} products"
    bits = precision.removesuffix("-quanto")
    if bits == "fp8" and device.kind == "mps":
        return "none: Apple GPUs don't convert float8"
    return f"{bits} weights, turned into {name} for each {name} product (no {bits} kernels)"


def _cuda_order(machine: Machine) -> list[Gpu]:
    """The cards as CUDA numbers them: unless told otherwise the fastest is first, the others follow by their slot."""
    gpus = list(machine.gpus)
    if machine.device_order != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1:
        fastest = max(gpus, key=lambda gpu: (gpu.compute_capability or (0, 0), gpu.memory_total or 0))
        gpus.remove(fastest)
        gpus.insert(0, fastest)
    return gpus


def _in_order(machine: Machine) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES shows in its order, then the hidden ones."""
    gpus = _cuda_order(machine)
    seen = gpus if machine.visible_devices is None else visible(machine.visible_devices, gpus)
    return [*seen, *(gpu for gpu in gpus if gpu not in seen)]


def visible(value: str, gpus: list[Gpu]) -> list[Gpu]:
    """The cards that a CUDA_VISIBLE_DEVICES of `value` shows, in its order; one it can't read ends the list."""
    seen: list[Gpu] = []
    for entry in (part.strip() for part in value.split(",")):
        if entry.isdecimal() and int(entry) < len(gpus):
            found: Gpu | None = gpus[int(entry)]
        else:
            named = [gpu for gpu in gpus if entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry)]
            found = named[0] if len(named) == 1 else None
        if found is None:
            break
        if found not in seen:
            seen.append(found)
    return seen


def _card(machine: Machine, gpu: Gpu) -> Device:
    reason = next((found for check in _OBSTACLES if (found := check(machine, gpu)) is not None), None)
    total, free = gpu.memory_total, gpu.memory_free
    if total is None and gpu.slice is None and machine.architecture in {"aarch64", "arm64"}:
        total, free = machine.memory_total, machine.memory_available  # one memory for both, as in a DGX Spark
    name = f"{gpu.name} ({gpu.slice})" if gpu.slice else gpu.name
    why_not, next_step = reason or (None, None)
    return Device("cuda", name, total, free, gpu.compute_capability, reason is None, why_not, next_step)


def _wrong_torch(machine: Machine, gpu: Gpu) -> Reason | None:
    torch = machine.torch
    if torch is None:
        return "PyTorch is not installed", "pip install torch"
    if gpu.vendor == AMD and not torch.hip:
        what = f"was built for CUDA {torch.cuda}" if torch.cuda else "has no ROCm"
        how = "install its ROCm build with the command that pytorch.org gives; untested with this program"
        return f"the installed PyTorch {torch.version} {what}, and this is an AMD card", how
    if gpu.vendor == NVIDIA and not torch.cuda:
        what = "was built for AMD cards (ROCm)" if torch.hip else "has no CUDA"
        return f"the installed PyTorch {torch.version} {what}", install_cuda(machine)
    return None


def install_cuda(machine: Machine) -> str:
    """What to type for the installed release of torch with CUDA."""
    release = machine.torch.version.partition("+")[0] if machine.torch else ""
    if machine.system == "Windows":
        return "install PyTorch with the command that pytorch.org gives for Windows and CUDA"
    return f"{INSTALL_CUDA}=={release}" if release else INSTALL_CUDA


def _old_driver(machine: Machine, gpu: Gpu) -> Reason | None:
    cuda = _version(machine.torch.cuda if machine.torch else None)
    if gpu.vendor != NVIDIA or cuda is None or cuda[0] not in _DRIVERS:
        return None
    in_windows = machine.system == "Windows" or machine.wsl is not None
    needed = _DRIVERS[cuda[0]][in_windows]
    if machine.driver_cuda is not None:
        enough = machine.driver_cuda[0] >= cuda[0]
    else:
        branch = gpu.driver.partition(".")[0]
        enough = not branch.isdecimal() or int(branch) >= needed
    if enough:
        return None
    version = ".".join(map(str, cuda))
    update = f"update the NVIDIA driver{' in Windows' if machine.wsl else ''} to {needed} or newer"
    older = f", or install the PyTorch for CUDA {_OLDEST_CUDA} that pytorch.org gives" if cuda[0] > 12 else ""
    return f"its driver {gpu.driver} is too old for this PyTorch's CUDA {version}", update + older


def _no_kernels(machine: Machine, gpu: Gpu) -> Reason | None:
    cuda = _version(machine.torch.cuda if machine.torch else None)
    capability = gpu.compute_capability
    if gpu.vendor != NVIDIA or cuda is None or capability is None:
        return None
    oldest, newest = next((span[1:] for span in _KERNELS if cuda >= span[0]), ((0, 0), None))
    version, own = ".".join(map(str, cuda)), "{}.{}".format(*capability)
    what = f"this PyTorch's CUDA {version} has no kernels for compute capability {own}"
    if capability < (5, 0):
        return what, "no PyTorch that this program works with knows this card"
    if capability < oldest:
        return what, f"install the PyTorch for CUDA {_OLDEST_CUDA} with the command that pytorch.org gives"
    if newest is not None and capability[0] > newest[0]:
        return what, install_cuda(machine)
    return None


def _hidden(machine: Machine, gpu: Gpu) -> Reason | None:
    if machine.visible_devices is None or gpu in visible(machine.visible_devices, _cuda_order(machine)):
        return None
    unset = "Remove-Item Env:CUDA_VISIBLE_DEVICES" if machine.system == "Windows" else "unset CUDA_VISIBLE_DEVICES"
    return f'CUDA_VISIBLE_DEVICES="{machine.visible_devices}" hides it', unset


def _not_the_slice(machine: Machine, gpu: Gpu) -> Reason | None:
    """A program sees one MIG instance: the first, or the one CUDA_VISIBLE_DEVICES names first."""
    if gpu.slice is None:
        return None
    if not gpu.slice:
        return "it is in MIG mode and has no instance", "make one (`nvidia-smi mig -cgi PROFILE -C`), or turn MIG off"
    if gpu == next(other for other in _in_order(machine) if other.slice):
        return None
    return "a program sees one MIG instance at a time", f"set CUDA_VISIBLE_DEVICES={gpu.uuid} to train on this one"


def _first_wsl(machine: Machine, _gpu: Gpu) -> Reason | None:
    if machine.wsl != 1:
        return None
    return "WSL 1 can't use graphics cards", "in Windows: wsl --set-version DISTRIBUTION 2"


# In the order in which a person would have to remove them.
_OBSTACLES: tuple[Callable[[Machine, Gpu], Reason | None], ...] = (
    _hidden,
    _first_wsl,
    _not_the_slice,
    _wrong_torch,
    _old_driver,
    _no_kernels,
)


def _silent_cards(machine: Machine) -> Iterator[Device]:
    """Cards that are in the machine, and whose driver isn't there or doesn't answer."""
    if not any(gpu.vendor == NVIDIA for gpu in machine.gpus):
        reason = _silent_nvidia(machine)
        if reason is not None:
            yield Device("cuda", "NVIDIA card", None, None, None, False, *reason)
    if (
        AMD in machine.cards
        and not any(gpu.vendor == AMD for gpu in machine.gpus)
        and machine.torch
        and machine.torch.hip
    ):
        yield Device("cuda", "AMD card", None, None, None, False, "its driver (amdgpu) isn't loaded", "install ROCm")


def _silent_nvidia(machine: Machine) -> Reason | None:
    if machine.gpu_problem is not None:
        if "mismatch" in machine.gpu_problem:
            return f"its driver was updated and isn't running yet: {machine.gpu_problem}", "restart the machine"
        return f"its driver doesn't answer: {machine.gpu_problem}", "restart, or install the NVIDIA driver again"
    if NVIDIA not in machine.cards:
        return None
    if machine.in_container:
        return "it isn't handed to this container", "start the container with `--gpus all`"
    return "its driver isn't installed", "install the NVIDIA driver, then restart"


def _apple(machine: Machine) -> Device:
    major = machine.release.partition(".")[0]
    why_not, next_step = None, None
    if machine.torch is None:
        why_not, next_step = "PyTorch is not installed", "pip install torch"
    elif major.isdecimal() and int(major) < _OLDEST_MACOS:
        why_not = f"PyTorch's Apple GPU support needs macOS {_OLDEST_MACOS}, and this is {machine.release}"
        next_step = "update macOS"
    name = f"{machine.processor} GPU"
    return Device(
        "mps", name, machine.memory_total, machine.memory_available, None, why_not is None, why_not, next_step
    )


def _processor(machine: Machine) -> Device:
    torch = machine.torch is not None
    why_not, next_step = (None, None) if torch else ("PyTorch is not installed", "pip install torch")
    total, free = machine.memory_total, machine.memory_available
    return Device("cpu", machine.processor, total, free, None, torch, why_not, next_step)


def _version(text: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else None
