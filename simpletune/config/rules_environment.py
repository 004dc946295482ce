"""What the files ask of this machine that it does not have: exit code 3, with what to install."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator

from simpletune.config.document import Keys
from simpletune.config.installed import INSTALL_CUDA, is_installed, torch_build
from simpletune.config.problems import Problem
from simpletune.config.rules_captions import reads_table
from simpletune.config.trackers import TRACKER_LIBRARIES, wandb_login
from simpletune.config.view import View

# Optimizer -> the module to look for and what to install for it.
OPTIMIZER_LIBRARIES = {
    "adamw8bit": ("bitsandbytes", "'simpletune[adamw8bit]'"),
    "prodigy": ("prodigyopt", "'simpletune[prodigy]'"),
    "adamw_bf16": ("optimi", "torch-optimi"),
    "lion": ("optimi", "torch-optimi"),
}

# (key, value) of a data set -> the module to look for and what to install for it.
DATA_LIBRARIES = {
    ("type", "huggingface"): ("datasets", "'simpletune[huggingface]'"),
    ("type", "s3"): ("s3fs", "'simpletune[s3]'"),
    ("caption_strategy", "parquet"): ("pyarrow", "'simpletune[parquet]'"),
    ("crop_style", "face"): ("cv2", "'simpletune[faces]'"),
}


def environment_problems(whole: View) -> Iterator[Problem]:
    for entry in whole.images:
        yield from _data_set(entry)
    if whole.config.fine("optimizer"):
        yield from _optimizer(whole)
    if whole.config.fine("report_to"):
        yield from _trackers(whole)
    if whole.config.fine("device"):
        yield from _device(whole)


def _optimizer(whole: View) -> Iterator[Problem]:
    name = whole.config["optimizer"]
    module, package = OPTIMIZER_LIBRARIES.get(name, ("torch", "torch"))
    if not is_installed(module):
        message = f'"optimizer" {name} needs {module}, which is not installed'
        yield whole.config.error("optimizer", message, f"pip install {package}", kind="environment")


def _data_set(entry: Keys) -> Iterator[Problem]:
    table = entry["metadata_path"]
    for (key, value), (module, package) in DATA_LIBRARIES.items():
        unused = key == "crop_style" and not entry["crop"]
        if entry.given(key) and entry[key] == value and not unused and not is_installed(module):
            message = f'"{key}" {value} needs {module}, which is not installed'
            yield entry.error(key, message, f"pip install {package}", kind="environment")
    in_parquet = isinstance(table, str) and table.lower().endswith(".parquet") and reads_table(entry)
    module, package = DATA_LIBRARIES["caption_strategy", "parquet"]
    if in_parquet and entry["caption_strategy"] != "parquet" and not is_installed(module):
        message = f'"metadata_path": a Parquet file needs {module}, which is not installed'
        yield entry.error("metadata_path", message, f"pip install {package}", kind="environment")


def _trackers(whole: View) -> Iterator[Problem]:
    """Packages that are missing, and a login that would be asked for in the middle of the run."""
    config = whole.config
    for index, name in enumerate(config["report_to"]):
        module, package = TRACKER_LIBRARIES[name]
        if not is_installed(module):
            message = f'"report_to" {name} needs {module}, which is not installed'
            yield config.error("report_to", message, f"pip install {package}", item=index, kind="environment")
        elif name == "wandb" and not (login := wandb_login()).ready:
            message = f'"report_to" wandb: there is no login for {login.server}'
            hint = "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to keep everything here"
            yield config.error("report_to", message, hint, item=index, kind="environment")


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
