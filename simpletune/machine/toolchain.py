"""What stands in the way of torch.compile on this machine, found out without compiling anything. Imports no torch.

For CUDA torch.compile writes Triton kernels, and Triton builds a small launcher in C for them; for the processor it
writes C++. Both include Python's own headers (torch/_inductor/cpp_builder.py, triton/runtime/build.py).
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.installed import is_installed

_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")
_HEADER_PATHS = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")
_INSTALL = {"darwin": "xcode-select --install", "win32": "install the C++ build tools of Visual Studio"}
_NO_COMPILER = "no {} compiler is found for torch.compile"


@dataclass(frozen=True)
class Gap:
    """Why something can't be had: what is in the way, as a clause, and what to do about it if anything."""

    what: str
    remedy: str | None = None

    @property
    def line(self) -> str:
        return self.what if self.remedy is None else f"{self.what} ({self.remedy})"


def gap(device_type: str) -> Gap | None:
    """The first thing that keeps torch.compile from working for "cuda" or "cpu"; None when nothing does."""
    switch = _turned_off(os.environ)
    if switch is not None:
        return Gap(f"{switch} turns torch.compile off", f"unset {switch}")
    if device_type == "mps":
        return Gap("torch.compile is still being made for Apple GPUs")
    if device_type == "cuda" and not is_installed("triton"):
        return Gap(
            "Triton is not installed", "pip install " + ("triton-windows" if sys.platform == "win32" else "triton")
        )
    return _no_compiler(device_type) or _no_headers()


def _turned_off(environment: Mapping[str, str]) -> str | None:
    return next((name for name in _SWITCHES if environment.get(name, "0").lower() not in ("", "0", "false")), None)


def _no_compiler(device_type: str) -> Gap | None:
    names: tuple[str, ...] = ("g++",)
    language, variable = "C++", "CXX"
    if sys.platform == "win32":
        if device_type == "cuda":
            return None  # Triton for Windows brings a C compiler of its own
        names = ("cl",)
    elif device_type == "cuda":
        language, variable, names = "C", "CC", ("gcc", "clang")
    elif sys.platform == "darwin":
        names = ("clang++",)
    if _found(variable, names):
        return None
    return Gap(_NO_COMPILER.format(language), _INSTALL.get(sys.platform, f"install {names[0]}, or set {variable}"))


def _found(variable: str, names: tuple[str, ...]) -> bool:
    """Whether the compiler that an environment variable names is there, or where it names none any of `names`."""
    chosen = os.environ.get(variable)
    return any(shutil.which(name) is not None for name in ((chosen,) if chosen else names))


def _no_headers() -> Gap | None:
    folders = [sysconfig.get_path("include")]
    if "posix_prefix" in sysconfig.get_scheme_names():  # Debian's own Python names another folder than it has
        folders.append(sysconfig.get_path("include", "posix_prefix"))
    for name in _HEADER_PATHS:
        folders += os.environ.get(name, "").split(os.pathsep)
    if any((Path(folder) / "Python.h").is_file() for folder in folders if folder):
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    remedy = f"install them: python{version}-dev on Debian and Ubuntu, python{version}-devel on Fedora"
    return Gap("Python's headers (Python.h), which torch.compile needs, are not installed", remedy)
