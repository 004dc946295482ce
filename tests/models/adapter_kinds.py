"""The kinds of adapter that tests go through, as settings."""

from __future__ import annotations

from typing import Any


def lycoris(algo: str, **keys: Any) -> dict[str, Any]:
    """Settings of a LyCORIS of one algorithm on attention and feed-forward layers."""
    targets = {"target_module": ["Attention", "FeedForward"]}
    value = {"algo": algo, "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 2, "apply_preset": targets, **keys}
    return {"lora_type": "lycoris", "lycoris_config": value}


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "locon": lycoris("locon"),
    "loha": lycoris("loha"),
    "lokr": lycoris("lokr", factor=8),
    "lokr-whole": lycoris("lokr", factor=4, linear_dim=10000, linear_alpha=1),
    "lokr-both": lycoris("lokr", linear_dim=2, decompose_both=True),
}
