"""What the files ask of this machine that it does not have: exit code 3, with what to install."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator

from simpletune.config.installed import INSTALL_CUDA, is_installed, torch_build
from simpletune.config.problems import Problem
from simpletune.config.view import View

# Optimizer -> the module to look for and what to install for it.
OPTIMIZER_LIBRARIES = {
    "adamw8bit": ("bitsandbytes", "'simpletune[adamw8bit]'"),
    "prodigy": ("prodigyopt", "'simpletune[prodigy]'"),
    "adamw_bf16": ("optimi", "torch-optimi"),
    "lion": ("optimi", "torch-optimi"),
}


def environment_problems(whole: View) -> Iterator[Problem]:
    if whole.config.fine("optimizer"):
        yield from _optimizer(whole)
    if whole.config.fine("device"):
        yield from _device(whole)


def _optimizer(whole: View) -> Iterator[Problem]:
    name = whole.config["optimizer"]
    module, package = OPTIMIZER_LIBRARIES.get(name, ("torch", "torch"))
    if not is_installed(module):
        message = f'"optimizer" {name} needs {module}, which is not installed'
        yield whole.config.error("optimizer", message, f"pip install {package}", kind="environment")


def _device(whole: View) -> Iterator[Problem]:
    device = whole.config["device"]
    build = torch_build()
    if build is None:
        message = "PyTorch is not installed"
        yield whole.config.error("device", message, "pip install torch", kind="environment")
    elif device == "cuda" and not (build.cuda or build.hip):
        message = f'"device" is cuda, but the installed PyTorch {build.version} has no CUDA'
        release = build.version.partition("+")[0]
        hint = f"{INSTALL_CUDA}=={release}, which has CUDA on Linux; on Windows take the command that pytorch.org gives"
        if shutil.which("nvidia-smi") is None:
            hint = "no NVIDIA driver is here: train where the card is; here, --set device=cpu checks all the rest"
        yield whole.config.error("device", message, hint, kind="environment")
    elif device == "mps" and platform.system() != "Darwin":
        message = '"device" is mps, which is for Macs'
        yield whole.config.error("device", message, "use auto, cuda or cpu", kind="environment")
