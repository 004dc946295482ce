"""Text encoders that don't fit together come in turn, and give what they give together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from simpletune.config.settings import Settings
from simpletune.models import sd3, text_in_turn
from simpletune.models.family import ModelFiles, TextEncoding
from simpletune.models.sd3 import SD3
from simpletune.models.text import SD3TextEncoders
from simpletune.progress import SilentReporter

CPU = torch.device("cpu")
GIB = 1 << 30
BATCHES = [["a cat", "a red bird on a wire"], ["", "two dogs"], ["one more"]]

MakeSettings = Callable[..., Settings]


class Told(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def files(tiny_model: Any) -> ModelFiles:
    return ModelFiles("tiny", tiny_model, "folder", None, None)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


class Loads:
    """Which parts are loaded, in order; T5 finds the memory full the first `refused` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.refused = 0
        plain = sd3._load

        def load(part: Any, *more: Any, **how: Any) -> Any:
            self.names.append(part.name.removeprefix("text_encoder") or "_1")
            if part.name == "text_encoder_3" and self.names.count("_3") <= self.refused:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(part, *more, **how)

        monkeypatch.setattr(sd3, "_load", load)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
@pytest.mark.parametrize("refused", [1, 2])
def test_in_turn_and_block_by_block_give_what_they_give_together(
    files: ModelFiles, make_settings: MakeSettings, loads: Loads, precision: str, refused: int
) -> None:
    settings, told = make_settings(mixed_precision="bf16", text_encoder_3_precision=precision), Told()
    together = list(SD3().load_text_encoders(files, settings, CPU, told).encode_batches(BATCHES))
    assert told.notes == []
    loads.names.clear()
    loads.refused = refused
    encoders = SD3().load_text_encoders(files, settings, CPU, told)
    found = list(encoders.encode_batches(BATCHES))
    assert all(map(same, found, together))
    assert loads.names == ["_1", "_2", "_3"] * 2  # of the first try, and in turn
    ways = ["first both CLIPs, then T5", "first both CLIPs, then T5 block by block"]
    assert [note.split("loading ")[1] for note in told.notes] == ways[:refused]
    assert same(encoders.encode(BATCHES[0]), together[0])


def same(one: TextEncoding, other: TextEncoding) -> bool:
    states = bool(torch.equal(one.prompt_embeds, other.prompt_embeds))
    return states and bool(torch.equal(one.pooled_prompt_embeds, other.pooled_prompt_embeds))


def test_only_so_many_captions_wait_at_once(
    files: ModelFiles, make_settings: MakeSettings, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption of tiny takes 32 tokens of 320 numbers in bf16: three of them wait at most, or one batch."""
    settings = make_settings(mixed_precision="bf16")
    together = list(SD3().load_text_encoders(files, settings, CPU).encode_batches(BATCHES))
    monkeypatch.setattr(text_in_turn, "_GROUP_BYTES", 3 * 32 * 320 * 2)
    loads.refused = 2
    encoders = SD3().load_text_encoders(files, settings, CPU)
    loads.names.clear()
    found = list(encoders.encode_batches(BATCHES))
    assert all(map(same, found, together))
    assert loads.names == ["_1", "_2", "_3", "_1", "_2"]  # T5 refused once more, and streamed from then on


class TestChoice:
    @pytest.fixture
    def choose(self, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Told]]:
        def chosen(free: float, precision: str = "int8-quanto", **more: Any) -> tuple[Any, Told]:
            settings = make_settings(
                model_flavour="sd3-medium",
                mixed_precision="bf16",
                text_encoder_3_precision=precision,
                text_encoder_batch_size=8,
                tokenizer_max_length=154,
                **more,
            )
            monkeypatch.setattr(text_in_turn, "free_memory", lambda *_: free * GIB)
            monkeypatch.setattr(text_in_turn, "release", lambda _device: None)
            frame = SD3TextEncoders((), None, 77, 154, 4096, torch.device("cuda"), torch.bfloat16)
            told = Told()
            return text_in_turn.load_encoders(frame, encoders, refuse, settings, told), told

        def encoders(numbers: Sequence[int]) -> list[Any]:
            return [(number, None) for number in numbers]

        def refuse() -> Any:
            raise AssertionError

        return chosen

    def test_all_at_once_where_they_fit(self, choose: Any) -> None:
        for free, more in ((7.5, {}), (3, {"use_t5": False})):
            found, told = choose(free, **more)
            assert isinstance(found, SD3TextEncoders)
            assert told.notes == []

    def test_in_turn_where_t5_alone_fits(self, choose: Any) -> None:
        for free, precision in ((5.6, "int8-quanto"), (3.5, "int4-quanto"), (10.5, "no_change")):
            found, told = choose(free, precision)
            assert isinstance(found, text_in_turn.TextEncodersInTurn)
            assert told.notes[0].endswith("are free: loading first both CLIPs, then T5")

    def test_block_by_block_where_nothing_else_does(self, choose: Any) -> None:
        for free, precision in ((3.5, "int8-quanto"), (2, "int4-quanto"), (7.5, "no_change")):
            _, told = choose(free, precision)
            assert told.notes[0].endswith(f"{free:.1f} GiB are free: loading first both CLIPs, then T5 block by block")
