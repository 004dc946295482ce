"""The LyCORIS configs that the wizard offers and the documentation shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATTENTION: dict[str, Any] = {"target_module": ["Attention"]}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # A rank above half of every width: both matrices are whole, as LyCORIS takes it then.
    "lokr": {
        "algo": "lokr",
        "multiplier": 1.0,
        "linear_dim": 10000,
        "linear_alpha": 1,
        "factor": 16,
        "apply_preset": _ATTENTION,
    },
    "loha": {"algo": "loha", "multiplier": 1.0, "linear_dim": 8, "linear_alpha": 4, "apply_preset": _ATTENTION},
}
