"""T5 block by block on a card: the states of the whole, in a fraction of its memory."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from simpletune.config.architecture import component_config
from simpletune.config.settings import Settings
from simpletune.models import components, text_in_turn
from simpletune.models.load import stream_into
from simpletune.models.random_source import random_files
from simpletune.models.sd3 import SD3
from simpletune.models.streaming import StreamedT5
from simpletune.models.weight_source import WeightSource
from simpletune.progress import SilentReporter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

GIB = 1 << 30
SIZE = {"num_layers": 8, "d_model": 2048, "d_ff": 5120, "num_heads": 32}  # blocks of 96 MB in bf16


class Told(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Held(WeightSource):
    """Random weights of a module in ordinary host memory, as those of a file that is cached."""

    def __init__(self, module: Any) -> None:
        super().__init__({})
        generator = torch.Generator().manual_seed(5)
        self._held = {
            name: torch.randn(tensor.shape, generator=generator).mul_(0.05).bfloat16()
            for name, tensor in module.state_dict().items()
        }

    def names(self) -> frozenset[str]:
        return frozenset(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    @property
    def total_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._held.values())

    def raw(self, name: str) -> torch.Tensor:
        return self._held[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._held[name].shape)


CONFIG = component_config("sd3-medium", "text_encoder_3") | SIZE
BATCHES = [torch.randint(0, 32000, (4, 154), generator=torch.Generator().manual_seed(n)) for n in range(12)]


class Both:
    """The same random T5 whole, of which only the states are kept, and block by block."""

    def __init__(self, precision: str) -> None:
        device, dtype = torch.device("cuda"), torch.bfloat16
        empty = components.empty_module("text_encoder_3", CONFIG)
        source = Held(empty)
        how: dict[str, Any] = {"device": device, "dtype": dtype, "precision": precision}

        def fill(module: Any, progress: Any) -> None:
            stream_into(module, source, progress=progress, **how)

        whole = components.empty_module("text_encoder_3", CONFIG)
        stream_into(whole, source, **how)
        with torch.no_grad():
            self.expected = [whole(ids.to(device))[0].cpu() for ids in BATCHES]
        self.resident = sum(tensor.nbytes for tensor in (*whole.parameters(), *whole.buffers()))
        del whole
        torch.cuda.empty_cache()
        self.streamed = StreamedT5(None, empty, fill, device, dtype)

    def compare(self) -> None:
        for states, wanted in zip(self.streamed.states(BATCHES), self.expected, strict=True):
            assert torch.equal(states.cpu(), wanted)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto"])
def test_the_states_are_those_of_the_whole_in_less_memory(precision: str) -> None:
    """Many passes over many batches: a block that is overwritten while it is at work would show in one of them."""
    both = Both(precision)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(5):
        both.compare()
    assert torch.cuda.memory_allocated() - before < 32 << 20
    if precision == "no_change":
        assert torch.cuda.max_memory_allocated() - before < 0.5 * both.resident


def test_a_device_that_is_behind_finds_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its steps begins long after the host has gone on: what was loaded has to stay until it is done.

    The first block is loaded once the last caption's embedding has been told to the device, and well before that has
    begun there: loaded any earlier it couldn't get the embedding's memory, and any later it would be allowed to.
    """
    both = Both("no_change")
    told, calls, fill = threading.Event(), 0, both.streamed._fill

    def late(self: Any, ids: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        torch.cuda._sleep(2_000_000_000 if calls == len(BATCHES) else 100_000_000)  # cycles: 1 s, or 50 ms
        result = functional.embedding(ids, self.weight)
        if calls == len(BATCHES):
            told.set()
        return result

    def patient(module: Any, progress: Any) -> None:
        if hasattr(module.encoder, "block"):
            assert told.wait(60)
            time.sleep(0.1)  # the host goes on to what comes after the embedding
        fill(module, progress)

    monkeypatch.setattr(nn.Embedding, "forward", late)
    monkeypatch.setattr(both.streamed, "_fill", patient)
    both.compare()


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(**values: Any) -> Settings:
        fields: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Settings)), None)
        precisions = {f"text_encoder_{number}_precision": "no_change" for number in (1, 2, 3)}
        always: dict[str, Any] = {"config_path": Path("config.json"), "model_flavour": "sd3-medium", "use_t5": True}
        more: dict[str, Any] = {"quantize_via": "accelerator", "mixed_precision": "bf16", "tokenizer_max_length": 154}
        return Settings(**fields | always | more | precisions | {"text_encoder_batch_size": 4} | values)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gib", "precision", "way"),
    [
        (6.0, "int8-quanto", "first both CLIPs, then T5"),
        (4.0, "int4-quanto", "first both CLIPs, then T5"),
        (2.75, "no_change", "first both CLIPs, then T5 block by block"),
        (2.75, "int8-quanto", "first both CLIPs, then T5 block by block"),
    ],
)
def test_real_encoders_under_a_cap(
    make_settings: Callable[..., Settings], tmp_path: Path, gib: float, precision: str, way: str
) -> None:
    """Of real size, with random weights: the captions' encodings, and the memory that was reserved for them."""
    device, told = torch.device("cuda"), Told()
    files = random_files(tmp_path / "model", "sd3-medium", device)
    settings = make_settings(text_encoder_3_precision=precision)
    batches = [[f"a red bird, number {number}" for number in range(4 * n, 4 * n + 4)] for n in range(3)]
    free = SD3().load_text_encoders(files, settings, device, told)
    expected = [encoding.prompt_embeds.cpu() for encoding in free.encode_batches(batches)]
    assert told.notes == []
    del free
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(gib * GIB / total)
    try:
        capped = dataclasses.replace(settings, device_memory_gb=gib)
        encoders = SD3().load_text_encoders(files, capped, device, told)
        assert isinstance(encoders, text_in_turn.TextEncodersInTurn)
        for encoding, wanted in zip(encoders.encode_batches(batches), expected, strict=True):
            assert torch.equal(encoding.prompt_embeds.cpu(), wanted)
        assert [note.split("loading ")[1] for note in told.notes] == [way]
        print(f"{gib} GiB, {precision}: {torch.cuda.max_memory_reserved() / GIB:.2f} GiB reserved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
