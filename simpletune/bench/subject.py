"""Whose speed is measured on what: a configuration's or the defaults', on this machine's best device or a named one.

Imports no torch: the process that only hands rows of a sweep to others must not take the card's memory itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simpletune.bench.duration import Extent, extent_of
from simpletune.bench.settings import configured, default_settings
from simpletune.config.families import FAMILIES
from simpletune.config.settings import Settings
from simpletune.data.forecast import sketch
from simpletune.machine.devices import Device, compute_precision, devices, usable_memory
from simpletune.machine.forecast import Plan, on_device
from simpletune.machine.hardware import look
from simpletune.machine.toolchain import gap


@dataclass(frozen=True)
class Subject:
    """Settings, how much their run has to do, and the device; `is_default`: no configuration was named."""

    settings: Settings
    extent: Extent
    device: Device
    is_default: bool

    @property
    def size(self) -> tuple[int, int]:
        """Of a training picture, (width, height) in pixels: the bucket with most pictures, else a square."""
        settings = self.settings
        edge = max((entry.resolution for entry in settings.image_sets), default=settings.resolution)
        step = FAMILIES[settings.model_family].size_multiple
        edge = max(step, edge // step * step)
        return self.extent.bucket or (edge, edge)

    @property
    def plan(self) -> Plan:
        """What the estimates depend on."""
        plan = replace(sketch(self.settings), bucket=self.size, steps=self.extent.steps)
        return on_device(plan, self.device, can_compile=gap(self.device.kind) is None)

    @property
    def is_tiny(self) -> bool:
        """Whether it is the built-in model, which any processor trains."""
        return FAMILIES[self.settings.model_family].flavours[self.settings.model_flavour].hub_id is None

    @property
    def usable_bytes(self) -> int | None:
        """What a run can count on of memory that is shared with the system; None for a card's own."""
        device = self.device
        memory = device.free_bytes if device.kind == "cpu" else device.memory_bytes
        if device.kind == "cuda" or memory is None:
            return None
        return memory if device.kind == "cpu" else usable_memory(memory, device.kind)


def subject_of(config: Path | None, overrides: Sequence[str], device: str | None) -> Subject:
    """What is measured; `device` as --device says it. Raises ConfigError for what is wrong in the settings."""
    overrides = (*overrides, f"device={device}") if device else tuple(overrides)
    if config is None:
        named = [text.partition("=")[2] for text in overrides if text.startswith("device=")]
        found = find_device(named[-1] if named else "auto")
        settings = default_settings(found.kind, compute_precision(found)[0], overrides)
        return Subject(settings, Extent(settings.max_train_steps or 1000), found, True)
    settings, has_data = configured(config, overrides)
    return Subject(settings, extent_of(settings, has_data=has_data), find_device(settings.device), False)


def find_device(named: str) -> Device:
    """The device that a value of the key "device" means; one that isn't usable where no other is of that kind."""
    found = devices(look(Path.cwd()))
    of_kind = [one for one in found if named in ("auto", one.kind)]
    usable = [one for one in of_kind if one.usable]
    return next(iter(usable or of_kind), Device(named, named, None, None, None, usable=False))
