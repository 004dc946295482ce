"""Model families by name. A new family is a module beside `sd3.py`, facts in `config/families.py`, and a line here."""

from __future__ import annotations

from simpletune.errors import ConfigError
from simpletune.models.family import Family


def get_family(name: str) -> Family:
    """The family that `model_family` names; its libraries are imported only now."""
    if name == "sd3":
        from simpletune.models.sd3 import SD3

        return SD3()
    raise ConfigError(f"unknown model_family {name!r}", "this version has sd3")
