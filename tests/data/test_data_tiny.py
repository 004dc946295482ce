"""The caches with the real tiny model: what is stored is what the family gives, and only what changed is encoded."""

from __future__ import annotations

import pytest
import torch
from data_helpers import Told, colours, image_set, prepared, run_settings, scan, sources

from simpletune.data.caches.encode import (
    LATENTS,
    POOLED_PROMPT_EMBEDS,
    PROMPT_EMBEDS,
    fill_latent_cache,
    fill_text_cache,
)
from simpletune.models.registry import get_family

CPU = torch.device("cpu")
MODEL = {
    "model_family": "sd3",
    "model_flavour": "tiny",
    "pretrained_model_name_or_path": "",
    "pretrained_text_encoders_path": None,
    "use_t5": True,
    "revision": None,
    "hf_endpoint": None,
    "text_encoder_1_precision": "no_change",
    "text_encoder_2_precision": "no_change",
    "text_encoder_3_precision": "no_change",
    "quantize_via": "accelerator",
    "mixed_precision": "no",
    "tokenizer_max_length": 32,
}


class Counting:
    """A family that counts how often its models are loaded."""

    def __init__(self, family):
        self._family = family
        self.loaded: list[str] = []

    def __getattr__(self, name):
        if name.startswith("load_"):
            self.loaded.append(name)
        return getattr(self._family, name)


@pytest.fixture(scope="module")
def family():
    return get_family("sd3")


def test_captions_and_token_length(family, tmp_path):
    settings, counting, told = run_settings(**MODEL), Counting(family), Told()
    files = family.locate(settings)
    stored = fill_text_cache(["a cat", ""], tmp_path, counting, files, settings, CPU, told)
    oracle = family.load_text_encoders(files, settings, CPU).encode(["a cat"])
    entry = stored["a cat"].load()
    torch.testing.assert_close(entry[PROMPT_EMBEDS], oracle.prompt_embeds[0])
    torch.testing.assert_close(entry[POOLED_PROMPT_EMBEDS], oracle.pooled_prompt_embeds[0])
    assert fill_text_cache(["a cat"], tmp_path, counting, files, settings, CPU, told)["a cat"] == stored["a cat"]
    assert counting.loaded == ["load_text_encoders"]
    longer = run_settings(**MODEL | {"tokenizer_max_length": 55})
    again = fill_text_cache(["a cat"], tmp_path, counting, files, longer, CPU, told)
    assert counting.loaded == ["load_text_encoders"] * 2
    assert len(again["a cat"].load()[PROMPT_EMBEDS]) == len(entry[PROMPT_EMBEDS]) + 23
    assert family.vae_identity(files, longer) == family.vae_identity(files, settings)


def test_latents(family, save, folder, tmp_path):
    for number in range(3):
        save(f"{number}.png", colours(64, 64, 50 * number))
    settings, counting, told = run_settings(**MODEL), Counting(family), Told()
    files = family.locate(settings)
    samples = scan(image_set(folder), 16, 1).samples
    arguments = ({"pictures": tmp_path / "vae"}, counting, files, settings, CPU, told)
    result = fill_latent_cache(samples, sources(image_set(folder)), *arguments)
    (stored,) = result.entries[samples[1].id]
    oracle = family.load_vae(files, settings, CPU).encode(prepared(samples[1], folder)[None], [stored.key])[0]
    torch.testing.assert_close(stored.load()[LATENTS], oracle)
    assert stored.load()[LATENTS].shape == (family.latent_channels, 8, 8)
    fill_latent_cache(samples, sources(image_set(folder)), *arguments)
    assert counting.loaded == ["load_vae"]
