"""An encoding packed for the cache comes back bit for bit, and takes no room for zeros that are always there."""

from __future__ import annotations

import pytest
import torch

from simpletune.models.family import TextEncoding
from simpletune.models.text import pack, unpack

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def encoding(dtype: torch.dtype, t5_tokens: int = 20, features: int = 64, pooled: int = 24) -> TextEncoding:
    """As SD3's encoders give it: CLIP's states padded with zeros, T5's behind them."""
    states = torch.randn(1, 77 + t5_tokens, features).to(dtype)
    states[:, :77, pooled:] = 0
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
def test_with_t5(dtype):
    packed = assert_comes_back(encoding(dtype))
    numbers = sum(tensor.numel() for tensor in packed.values())
    assert numbers == 77 * 24 + 20 * 64 + 24 + 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_t5(dtype):
    given = encoding(dtype)
    given.prompt_embeds[:, 77:] = 0
    packed = assert_comes_back(given)
    assert sum(tensor.numel() for tensor in packed.values()) == 77 * 24 + 24 + 2


def test_what_isnt_zero_by_its_bits_is_kept():
    given = encoding(torch.float32)
    given.prompt_embeds[:, 77:] = -0.0
    assert_comes_back(given)
    given.prompt_embeds[0, 5, 40] = 1.0  # a model whose CLIPs are wider than their pooled states
    assert_comes_back(given)
    assert_comes_back(encoding(torch.float32, features=24))


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
        assert sum(t.nbytes for t in packed.values()) < (0.95 if use_t5 else 0.5) * given.prompt_embeds.nbytes
