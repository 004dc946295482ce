"""Taking pictures in batches: which go together, what becomes of them when memory or time runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simpletune.machine.execution import Way
from simpletune.models.family import SamplingRequest, TextEncoding
from simpletune.results import studio as taking
from simpletune.results.pictures import read_description
from simpletune.results.studio import Planned, Shot, Studio, way_of

SETTINGS: Any = SimpleNamespace(
    validation_negative_prompt="",
    validation_num_inference_steps=20,
    validation_guidance=5.0,
    validation_guidance_skip_layers=None,
    validation_guidance_skip_layers_start=0.01,
    validation_guidance_skip_layers_stop=0.2,
    validation_guidance_skip_scale=2.8,
    base_model_precision="int8-quanto",
    text_encoder_1_precision="no_change",
    text_encoder_2_precision="no_change",
    text_encoder_3_precision="int8-quanto",
    tokenizer_max_length=154,
    mixed_precision="bf16",
    execution="auto",
)
SQUARE, PORTRAIT = (64, 64), (48, 64)


class Family:
    """Paints every picture in the color of its seed, and can run out of memory."""

    vae_scale_factor = 8

    def __init__(self) -> None:
        self.fits = 1000
        self.requests: list[SamplingRequest] = []
        self.events: list[str] = []
        self.ways: list[Way] = []

    def text_identity(self, *_: Any) -> str:
        return "text"

    def load_vae(self, *_: Any) -> Family:
        return self

    tile = None

    def decode(self, latents: Tensor) -> np.ndarray[Any, Any]:
        assert len(latents) == 1
        self.events.append("decode")
        _, height, width = latents[0].shape
        return np.full((1, 8 * height, 8 * width, 3), int(latents[0, 0, 0, 0]), np.uint8)

    def sampler(self, _files: Any, transformer: nn.Module, _device: Any, way: Way, _say: Any) -> Family:
        assert not transformer.training
        self.ways.append(way)
        return self

    def latents(self, request: SamplingRequest, between: Callable[[], None]) -> Tensor:
        between()
        count = len(request.seeds)
        if count > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert request.encoding.prompt_embeds[:, 0, 0].tolist() == [seed // 10 for seed in request.seeds]
        self.events.append(f"sample {count}")
        self.requests.append(request)
        size = (request.height // 8, request.width // 8)
        return torch.tensor(request.seeds).view(-1, 1, 1, 1).expand(-1, 16, *size).float()

    def release(self) -> None:
        self.events.append("release")


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Family]:
    """Take shots, given as (size, seed), four at once; where told to, with graphs."""
    monkeypatch.setitem(taking.TOGETHER, "cpu", 4)

    def run(shots: list[tuple[tuple[int, int], int]], family: Family | None = None, **how: Any) -> Family:
        family = family or Family()
        studio = Studio(SETTINGS, family, SimpleNamespace(source="model", commit="abc"), torch.device("cpu"))  # type: ignore[arg-type]
        texts = {
            str(number): TextEncoding(torch.full((1, 2, 3), float(number)), torch.ones(1, 3)) for number in range(9)
        }
        todo = studio.plan(tmp_path, [Shot("a", str(seed // 10), *size, seed) for size, seed in shots], {})
        phase: Any = SimpleNamespace(advance=lambda: None)
        studio.take(todo, nn.Linear(1, 1).train(), {**texts, "": texts["0"]}, phase, pytest.fail, **how)
        assert all(picture_of(planned) == planned.shot.seed for planned in todo if planned.path.exists())
        run.todo = todo  # type: ignore[attr-defined]
        return family

    return run


def picture_of(planned: Planned) -> int:
    from PIL import Image

    assert planned.done
    with Image.open(planned.path) as image:
        assert image.size == (planned.shot.width, planned.shot.height)
        return int(np.asarray(image)[0, 0, 0])


def counts(family: Family) -> list[int]:
    return [len(request.seeds) for request in family.requests]


def test_pictures_of_one_size_are_sampled_together_wherever_they_stand(take: Callable[..., Family]) -> None:
    shots = [(size, 10 * number + place) for number in range(1, 6) for place, size in enumerate((SQUARE, PORTRAIT))]
    family = take(shots)
    assert counts(family) == [4, 1, 4, 1]
    assert family.requests[0].seeds == (10, 20, 30, 40)
    assert family.events[:5] == ["sample 4", "release", "decode", "decode", "decode"]  # saved before the next begin


def test_where_memory_runs_out_fewer_go_together_from_then_on(take: Callable[..., Family]) -> None:
    family = Family()
    family.fits = 1
    assert counts(take([(SQUARE, seed) for seed in range(10, 15)], family)) == [1] * 5
    family.fits = 0
    with pytest.raises(torch.OutOfMemoryError):
        take([(SQUARE, 20)], family)


def test_what_is_saved_when_it_is_to_stop_stays(take: Callable[..., Family]) -> None:
    """Asked before each step of sampling, of which there is one here, and before each decoding."""
    family = Family()

    def check() -> None:
        if family.events.count("decode") == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        take([(SQUARE, seed) for seed in range(10, 20)], family, check=check)
    assert counts(family) == [4]
    assert family.events[-1] == "release"


def test_graphs_make_room_for_decoding_now_and_then(
    take: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each batch that would cost more than it should."""
    monkeypatch.setattr(taking, "way_of", lambda *_: Way(captured=True, compiled=False))
    clock = iter([0.0, 12.0, 25.0, 25.0, 30.0])
    monkeypatch.setattr(taking, "monotonic", lambda: next(clock))
    family = take([(SQUARE, seed) for seed in range(10, 19)])
    first, second = ["sample 4", "sample 4", "release"], ["sample 1", "release"]
    assert family.events == [*first, *["decode"] * 8, *second, "decode", "release"]


def test_a_picture_says_nothing_of_its_batch(take: Callable[..., Family]) -> None:
    take([(SQUARE, 10), (SQUARE, 11)])
    together = read_description(take.todo[0].path)  # type: ignore[attr-defined]
    take([(SQUARE, 10)])
    assert read_description(take.todo[0].path) == together  # type: ignore[attr-defined]


def test_how_many_pictures_there_are_in_all_decides_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(taking, "gap", lambda _: None)
    transformer: Any = SimpleNamespace(transformer_blocks=range(24))
    ways = [way_of(SETTINGS, torch.device("cuda"), transformer, count) for count in (1, 1000)]
    assert ways == [Way(captured=True, compiled=False), Way(captured=True, compiled=True)]
