"""An encoding packed for the cache comes back bit for bit, and takes no room for zeros that are always there."""

from __future__ import annotations

import pytest
import torch

from simpletune.models.family import TextEncoding
from simpletune.models.text import pack, unpack

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def encoding(
    dtype: torch.dtype, t5_tokens: int = 20, features: int = 64, pooled: int = 24, clip: int = 77
) -> TextEncoding:
    """As SD3's encoders give it: CLIP's states padded with zeros, T5's behind them."""
    states = torch.randn(1, clip + t5_tokens, features).to(dtype)
    states[:, :clip, pooled:] = 0
    return TextEncoding(states, torch.randn(1, pooled).to(dtype))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def assert_comes_back(given: TextEncoding) -> dict[str, torch.Tensor]:
    packed = pack(given)
    found = unpack(packed)
    for before, after in (
        (given.prompt_embeds, found.prompt_embeds),
        (given.pooled_prompt_embeds, found.pooled_prompt_embeds),
    ):
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        assert bits(before).equal(bits(after))
    return packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [77, 32])
def test_with_t5(dtype, clip):
    packed = assert_comes_back(encoding(dtype, clip=clip))
    shapes = {name: tuple(tensor.shape) for name, tensor in packed.items()}
    assert shapes == {"clip_states": (clip, 24), "t5_states": (20, 64), "pooled": (24,), "shape": (2,)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [77, 32])
def test_without_t5(dtype, clip):
    given = encoding(dtype, clip=clip)
    given.prompt_embeds[:, clip:] = 0
    shapes = {name: tuple(tensor.shape) for name, tensor in assert_comes_back(given).items()}
    assert shapes == {"clip_states": (clip, 24), "pooled": (24,), "shape": (2,)}


def test_entries_that_earlier_versions_wrote_are_read():
    """They cut at 77 tokens, whatever was in them; an entry says itself how long its parts are."""
    states, pooled = torch.randn(97, 64), torch.randn(24)
    states[:77, 24:] = 0
    states[80] = 0
    entry = {"clip_states": states[:77, :24], "t5_states": states[77:], "pooled": pooled}
    found = unpack({**entry, "shape": torch.tensor(states.shape)})
    assert found.prompt_embeds[0].equal(states)
    del entry["t5_states"]
    found = unpack({**entry, "shape": torch.tensor(states.shape)})
    assert found.prompt_embeds[0, :77].equal(states[:77])
    assert found.prompt_embeds.shape == (1, 97, 64)
    assert not found.prompt_embeds[0, 77:].any()


def test_what_isnt_zero_by_its_bits_is_kept():
    given = encoding(torch.float32)
    given.prompt_embeds[:, 77:] = -0.0
    assert_comes_back(given)
    given.prompt_embeds[0, 5, 40] = 1.0  # a model whose CLIPs are wider than their pooled states
    assert_comes_back(given)
    assert_comes_back(encoding(torch.float32, features=24))
    given.prompt_embeds[:] = 0
    assert_comes_back(given)


def test_the_real_encoders(tiny_model):
    from types import SimpleNamespace

    from simpletune.models.family import ModelFiles
    from simpletune.models.sd3 import SD3

    precisions = {f"text_encoder_{number}_precision": "no_change" for number in (1, 2, 3)}
    settings = SimpleNamespace(
        **precisions, use_t5=True, mixed_precision="bf16", tokenizer_max_length=90, quantize_via="cpu"
    )
    files = ModelFiles("tiny", tiny_model, "folder", None, None)
    for use_t5 in (True, False):
        settings.use_t5 = use_t5
        encoders = SD3().load_text_encoders(files, settings, torch.device("cpu"))
        given = encoders.encode(["a red bird"])
        packed = assert_comes_back(given)
        assert sum(t.numel() for t in packed.values()) == 32 * 288 + (90 * 320 if use_t5 else 0) + 288 + 2
