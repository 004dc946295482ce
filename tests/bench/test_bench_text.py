"""Captions a second where the text encoders come in turn: loading them is told apart from encoding."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simpletune.bench import phases
from simpletune.bench.duration import Extent, run_time
from simpletune.bench.report import Memory, Rate, Timing, Training
from simpletune.bench.table import _rate
from simpletune.machine.text_memory import TextWay
from simpletune.models.text_in_turn import TextEncodersInTurn

LOADING, BATCH = 0.1, 0.02


class InTurn(TextEncodersInTurn):
    """Encoders that take their time."""

    def __init__(self) -> None:
        self._way = TextWay.IN_TURN

    def encode_batches(self, batches: Sequence[Sequence[str]]) -> Iterator[Any]:
        time.sleep(LOADING)
        for _ in batches:
            time.sleep(BATCH)
            yield None


def test_loading_is_no_part_of_the_rate() -> None:
    family: Any = SimpleNamespace(load_text_encoders=lambda *_: InTurn())
    bench: Any = SimpleNamespace(
        family=family, files=None, settings=SimpleNamespace(text_encoder_batch_size=8), device=torch.device("cpu")
    )
    found = phases.encode_text(bench)
    assert found.per_second == pytest.approx(8 / BATCH, rel=0.3)
    assert found.loading_seconds == pytest.approx(LOADING, rel=0.3)
    assert list(_rate("encode text", "captions/s", found))[-1].endswith("of loading: first both CLIPs, then T5")


def test_each_group_of_captions_is_loaded_for() -> None:
    settings: Any = SimpleNamespace(
        model_flavour="sd3-medium", mixed_precision="bf16", tokenizer_max_length=154, validation_prompts={}
    )
    nothing, timing = Memory(None, None, None), Timing(1, 1, 1, 1)
    text = Rate(100.0, 8, timing, nothing, TextWay.STREAMED.value, 5.0)
    found = run_time(settings, Extent(1, captions=10_000), text=text, train=Training(timing, 1, nothing))
    assert found is not None
    assert found.seconds["encode text"] == pytest.approx(100 + 12 * 5.0)
