"""Settings for the tiny model, changed per test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simpletune.config.settings import Settings

_VALUES: dict[str, Any] = {
    "model_family": "sd3",
    "model_flavour": "tiny",
    "pretrained_model_name_or_path": "",
    "pretrained_text_encoders_path": None,
    "use_t5": True,
    "revision": None,
    "hf_endpoint": None,
    "base_model_precision": "no_change",
    "base_model_offload": 0,
    "text_encoder_1_precision": "no_change",
    "text_encoder_2_precision": "no_change",
    "text_encoder_3_precision": "no_change",
    "quantize_via": "accelerator",
    "mixed_precision": "no",
    "tokenizer_max_length": 32,
}


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """Settings with the fields a model reads; the others are None."""

    def make(**values: Any) -> Settings:
        fields = dict.fromkeys((field.name for field in dataclasses.fields(Settings)), None)
        return Settings(**(fields | {"config_path": Path("config.json")} | _VALUES | values))

    return make
