"""T5 block by block gives what the whole T5 gives, reading each block once and holding two."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from simpletune.errors import ModelUnavailable
from simpletune.models import components
from simpletune.models.load import stream_into
from simpletune.models.streaming import StreamedT5
from simpletune.models.weight_source import WeightSource

CPU = torch.device("cpu")
BLOCKS, FEATURES = 4, 64
T5 = T5Config(
    vocab_size=50, d_model=FEATURES, d_kv=16, d_ff=96, num_layers=BLOCKS, num_heads=4, feed_forward_proj="gated-gelu"
)
BATCHES = [torch.arange(24).reshape(2, 12) % 50, torch.arange(7, 43).reshape(3, 12) % 50]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("t5") / "model.safetensors"
    state = {name: torch.randn_like(tensor) / 4 for name, tensor in T5EncoderModel(T5).state_dict().items()}
    del state["encoder.embed_tokens.weight"]
    save_file(state, path)
    return path


def empty() -> Any:
    return components.empty_module("text_encoder_3", T5.to_dict())


class Watched:
    """T5 streamed from a file; notes what is filled, in which order, and what of it is alive."""

    def __init__(self, path: Path, device: torch.device = CPU, **how: Any) -> None:
        self.source, self.how = WeightSource.open(path), {"device": device, "dtype": torch.float32, **how}
        self.filled: list[str] = []
        self.blocks: list[weakref.ref[nn.Module]] = []
        self.most = 0
        self.before: Callable[[int, nn.Module, Any], None] = lambda *_: None
        self.t5 = StreamedT5(None, empty(), self.fill, device, self.how["dtype"])

    def fill(self, module: nn.Module, progress: Any) -> None:
        self.before(len(self.filled), module, progress)
        blocks = self.blocks_in(module)
        self.filled += list(blocks) or ["ends"]
        self.blocks += map(weakref.ref, blocks.values())
        self.most = max(self.most, self.alive)
        stream_into(module, self.source, progress=progress, **self.how)

    def blocks_in(self, module: nn.Module) -> dict[str, nn.Module]:
        return {name: child for name, child in module.named_modules() if type(child).__name__ == "T5Block"}

    @property
    def alive(self) -> int:
        return sum(block() is not None for block in self.blocks)

    def whole(self) -> Any:
        module = empty()
        stream_into(module, self.source, **self.how)
        return module


def whole_states(watched: Watched, batches: Sequence[Tensor] = BATCHES) -> list[Tensor]:
    module, device = watched.whole(), watched.how["device"]
    with torch.no_grad():
        return [module(ids.to(device))[0] for ids in batches]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},  # whose feed-forward is in fp32, and the states with it
        {"dtype": torch.bfloat16, "precision": "int8-quanto"},
        {"dtype": torch.bfloat16, "precision": "int4-quanto", "quantize_via": "cpu"},
    ],
)
def test_the_states_are_those_of_the_whole(file: Path, how: dict[str, Any]) -> None:
    watched = Watched(file, **how)
    for expected in (whole_states(watched), whole_states(watched)[:1]):
        found = list(watched.t5.states(BATCHES[: len(expected)]))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert [a.dtype for a in found] == [b.dtype for b in expected]


def test_each_block_is_read_once_and_two_are_there_at_most(file: Path) -> None:
    watched = Watched(file)
    list(watched.t5.states(BATCHES * 5))
    assert watched.filled == ["ends", *(f"encoder.block.{number}" for number in range(BLOCKS))]
    assert watched.most == 2
    assert watched.alive == 0


def test_a_block_comes_while_the_one_before_is_at_work(file: Path) -> None:
    """Nothing is computed of a batch before the next block's reading has begun."""
    watched, seen = Watched(file), []
    begun = [threading.Event() for _ in range(BLOCKS + 2)]
    begun[-1].set()  # nothing comes after the last block

    def watch(number: int, module: nn.Module, _progress: Any) -> None:
        begun[number].set()
        for block in watched.blocks_in(module).values():
            block.register_forward_pre_hook(lambda *_: seen.append(begun[number + 1].wait(5)))

    watched.before = watch
    list(watched.t5.states(BATCHES))
    assert seen == [True] * (BLOCKS * len(BATCHES))


def test_what_is_dropped_has_been_computed_with(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card: its memory may go back at any moment then, and torch waits for the loading stream alone."""
    watched, seen = Watched(file), []

    class Stream:
        device, synchronize = CPU, staticmethod(lambda: None)

        def wait_stream(self, _computing: Any) -> None:
            seen.append("behind")

    def watch(_number: int, module: nn.Module, _progress: Any) -> None:
        for part in [child for child in module.modules() if next(child.parameters(recurse=False), None) is not None]:
            part.register_forward_pre_hook(lambda *_: seen.append("computed"))
            weakref.finalize(part, seen.append, "dropped")

    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)
    watched.t5._stream, watched.before = Stream(), watch  # type: ignore[assignment]
    for _ in watched.t5.states(BATCHES):
        pass
    before = [seen[: at + 1] for at, what in enumerate(seen) if what == "dropped"]
    last = [next(what for what in reversed(past) if what != "dropped") for past in before]
    assert len(last) > BLOCKS
    assert set(last) == {"behind"}


def test_a_file_that_goes_meanwhile_is_said(file: Path, tmp_path: Path) -> None:
    own = tmp_path / "model.safetensors"
    own.write_bytes(file.read_bytes())
    watched = Watched(own)
    watched.before = lambda number, *_: own.unlink() if number == 2 else None
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors doesn't exist"):
        list(watched.t5.states(BATCHES))
    assert not loading_threads()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal as POSIX has them")
def test_an_interruption_ends_the_thread_that_reads_ahead(file: Path) -> None:
    watched = Watched(file)

    def endless(number: int, _module: nn.Module, progress: Any) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        while number == 3:
            time.sleep(0.001)
            progress(0, 1)

    watched.before = endless
    with pytest.raises(KeyboardInterrupt):
        list(watched.t5.states(BATCHES))
    assert not loading_threads()
    assert watched.alive == 0


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("load-t5")]
