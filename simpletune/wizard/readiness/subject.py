"""What the checks are about: this machine, and the two files if there are any; each thing is looked at once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from simpletune.config.families import FAMILIES, Flavour
from simpletune.config.load import settings_of
from simpletune.config.schema import config_keys
from simpletune.config.settings import Settings
from simpletune.config.validate import Checked, check, exit_code
from simpletune.data.preflight import Preflight, preflight
from simpletune.errors import ConfigError
from simpletune.machine.devices import Device, devices
from simpletune.machine.hardware import Machine, look
from simpletune.machine.hub_access import Access, check_access


class Subject:
    """`machine` is looked at unless it is given, as by a test or by the wizard, which knows it already."""

    def __init__(self, config: Path | None, online: bool, machine: Machine | None = None) -> None:
        self.config = config
        self.online = online
        self._machine = machine

    @cached_property
    def machine(self) -> Machine:
        return self._machine or look(self.settings.output_dir if self.settings else Path())

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        return devices(self.machine)

    @cached_property
    def device(self) -> Device | None:
        """What a run would train on: the best of what "device" allows.

        A card that can't be used yet comes before a processor that nobody asked for, because it is what the estimates
        have to be held against; None when there is neither.
        """
        fitting = [device for device in self.devices if self.device_wanted in ("auto", device.kind)]
        if not self.processor_is_meant:
            fitting = [device for device in fitting if device.kind != "cpu"]
        return next((device for device in fitting if device.usable), fitting[0] if fitting else None)

    @property
    def processor_is_meant(self) -> bool:
        """Whether the files ask for the processor, or for a model that trains well on one."""
        if self.settings is None:
            return False
        return self.device_wanted == "cpu" or (self.device_wanted == "auto" and self.flavour.hub_id is None)

    @property
    def device_wanted(self) -> str:
        """The files' "device", also where the validator found that it isn't here and put the default in its place."""
        if self.settings is None or self.checked is None:
            return "auto"
        value = self.checked.view.config.document.value
        written = value.get("device") if isinstance(value, dict) else None
        return written if written in ("cuda", "mps", "cpu") else self.settings.device

    @cached_property
    def checked(self) -> Checked | None:
        return None if self.config is None else check(self.config)

    @cached_property
    def settings(self) -> Settings | None:
        """The two files as values; None without files, or with errors in them."""
        if self.config is None or self.checked is None:
            return None
        if exit_code(self.checked.problems) == ConfigError.exit_code:
            return None
        return settings_of(self.config, self.checked.view)

    @cached_property
    def preflight(self) -> Preflight | None:
        return None if self.settings is None else preflight(self.settings)

    @cached_property
    def flavour(self) -> Flavour:
        """The flavour of the files; without them, the one a new configuration starts with."""
        defaults = config_keys()
        family = self.settings.model_family if self.settings else defaults["model_family"]["default"]
        name = self.settings.model_flavour if self.settings else defaults["model_flavour"]["default"]
        return FAMILIES[family].flavours[name]

    @cached_property
    def model_path(self) -> Path | None:
        """The folder or file that is named instead of a model on the hub, if it exists."""
        if self.settings is None or not self.settings.pretrained_model_name_or_path:
            return None
        path = self.settings.config_path.parent / Path(self.settings.pretrained_model_name_or_path).expanduser()
        return path if path.exists() else None

    @property
    def repo_id(self) -> str | None:
        """The model's name on the hub; None for the built-in one, and for a folder or file."""
        if self.model_path is not None:
            return None
        return (self.settings.pretrained_model_name_or_path if self.settings else None) or self.flavour.hub_id

    @cached_property
    def access(self) -> Access | None:
        """What the hub says of the model; None where it isn't asked."""
        if self.repo_id is None or not self.online:
            return None
        gated = self.flavour.gated and self.repo_id == self.flavour.hub_id
        if self.settings is None:
            return check_access(self.repo_id, None, gated)
        return check_access(
            self.repo_id,
            self.settings.hf_endpoint,
            gated,
            revision=self.settings.revision,
            use_t5=self.settings.use_t5,
        )
