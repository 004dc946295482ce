"""Machines, answers of the hub and projects for the tests of the checks and of doctor."""

import json
from email.message import Message
from importlib import metadata as real
from pathlib import Path
from types import SimpleNamespace

from simpletune.config.installed import TorchBuild
from simpletune.machine.gpus import Gpu
from simpletune.machine.hardware import Machine
from simpletune.machine.hub_access import Access
from simpletune.machine.package_index import IndexAccess

GIB = 1 << 30
CUDA = TorchBuild("2.13.0+cu130", "13.0", None)
NO_CUDA = TorchBuild("2.13.0+cpu", None, None)
CARD = Gpu(0, "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, "580.65.06", (8, 9))
REPO = "stabilityai/stable-diffusion-3-medium-diffusers"
HUB = "https://hub.example"


def a_machine(*cards, torch=CUDA, **facts):
    facts = {"memory_total": 64 * GIB, "memory_available": 60 * GIB, "processor": "Some Processor", **facts}
    return Machine(gpus=cards, disk_free=10**12, cpu_count=16, torch=torch, **facts)


def access(**facts):
    """What the hub says; by default that it gives the model to somebody who accepted its licence."""
    known = {"reachable": True, "has_token": True, "licence": "accepted", "cached": False, "available": True}
    message = f"{HUB} gives {REPO}, and the licence is accepted"
    return Access(**{"repo_id": REPO, "endpoint": HUB, "message": message, "next_step": None, **known, **facts})


NEEDED = {
    "has_token": False, "licence": "needed", "available": False,
    "message": f"{REPO} is behind a licence, and nobody is logged in to the hub here",
    "next_step": f"run `hf auth login`, and accept the licence at {HUB}/{REPO} (or name a local folder)",
}  # fmt: skip


def isolate(patch, machine=None, hub=None, index=None):
    """Replace the ways to the world: the machine, the hub, the package index. None leaves the machine as it is."""
    from simpletune.wizard.readiness import model, run, subject

    if machine is not None:
        patch.setattr(subject, "look", lambda folder: machine)
        patch.setattr(run, "disk_free", lambda place: machine.disk_free)
    patch.setattr(subject, "check_access", lambda *args, **kwargs: hub or access())
    answer = index or IndexAccess("https://index.example", True, "https://index.example answers")
    patch.setattr(model, "check_index", lambda: answer)
    patch.setattr(model, "is_cached", lambda *args: False)


def packages(patch, **versions):
    """Let simpletune ask for numpy>=1.26, torch<2.14,>=2.11 and, as an extra, bitsandbytes>=0.48."""
    from simpletune.wizard.readiness import packages as module

    installed = {"numpy": "2.5.2", "torch": "2.13.0", "bitsandbytes": "0.50.2", **versions}

    def version(name):
        if installed.get(name) is None:
            raise real.PackageNotFoundError(name)
        return installed[name]

    wanted = ["numpy>=1.26", "torch<2.14,>=2.11", "bitsandbytes>=0.48; extra == 'adamw8bit'", "ruff; extra == 'dev'"]
    about = Message()
    for name, value in (("Requires-Python", ">=3.10"), ("Provides-Extra", "adamw8bit"), ("Provides-Extra", "dev")):
        about[name] = value
    patch.setattr(
        module,
        "metadata",
        SimpleNamespace(
            requires=lambda name: wanted,
            metadata=lambda name: about,
            version=version,
            PackageNotFoundError=real.PackageNotFoundError,
        ),
    )


def make_project(folder, pictures=4, **settings):
    """Two files and a few pictures of 512 pixels, each with a caption; the path of config.json."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True)
    for number in range(pictures):
        Image.new("RGB", (512, 512), (number, 99, 0)).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"picture number {number}")
    config = {"resolution": 512, "max_train_steps": 100, **settings}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    entry = {"id": "set", "type": "local", "dataset_type": "image", "instance_data_dir": "pictures",
             "caption_strategy": "textfile"}  # fmt: skip
    (folder / "multidatabackend.json").write_text(json.dumps([entry], indent=2))
    return Path(folder / "config.json")
