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


class Short:
    """A family on a device of little memory: what goes into an encoder's module at once may have `room` elements."""

    def __init__(self, family, room):
        self._family = family
        self._room = room
        self.encoded = 0

    def __getattr__(self, name):
        return getattr(self._family, name)

    def load_vae(self, *given):
        vae = self._family.load_vae(*given)
        vae.module.encoder.conv_out.register_forward_pre_hook(self._admit)
        return vae

    def load_text_encoders(self, *given):
        encoders = self._family.load_text_encoders(*given)
        encoders.t5[1].encoder.final_layer_norm.register_forward_pre_hook(self._admit)
        return encoders

    def _admit(self, module, given):
        if given[0].numel() > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.encoded += len(given[0])


def biggest_input(fill, family):
    """How many elements one item puts into the module whose input `Short` looks at."""
    short = Short(family, 0)
    sizes = []
    short._admit = lambda module, given: sizes.append(given[0].numel() // len(given[0]))
    fill(short)
    return max(sizes)


def test_memory_that_runs_out_while_captions_are_encoded(family, tmp_path):
    captions = [f"a cat {number}" for number in range(9)]
    settings, plain = run_settings(**MODEL), run_settings(**MODEL | {"text_encoder_batch_size": 2})
    files = family.locate(settings)

    def fill(name, settings, family, told=None):
        return fill_text_cache(captions, tmp_path / name, family, files, settings, CPU, told or Told())

    one, told = biggest_input(lambda short: fill("size", settings, short), family), Told()
    short = Short(family, 3 * one)
    expected, found = fill("roomy", plain, family), fill("short", settings, short, told)
    assert told.notes == [
        "out of memory with a batch of 8: going on with 2, and nothing is lost; "
        'to begin with that, set "text_encoder_batch_size" to 2'
    ]
    assert short.encoded == 10, "nine, and one copy that fills up the last batch"
    for caption in captions:
        for name, tensor in expected[caption].load().items():
            assert tensor.equal(found[caption].load()[name]), (caption, name)


def test_memory_that_runs_out_while_pictures_are_encoded(family, save, folder, tmp_path):
    for number in range(5):
        save(f"{number}.png", colours(64, 64, 30 * number))
        save(f"wide-{number}.png", colours(96, 64, 30 * number))
    settings = run_settings(**MODEL)
    files, samples = family.locate(settings), scan(image_set(folder, resolution_type="pixel"), 16, 1).samples

    def fill(name, settings, family, told=None):
        arguments = ({"pictures": tmp_path / name}, family, files, settings, CPU, told or Told())
        return fill_latent_cache(samples, sources(image_set(folder)), *arguments).entries

    wide, told = biggest_input(lambda short: fill("size", settings, short), family), Told()
    short = Short(family, 3 * wide)  # four of the small ones, but not of the wide
    expected, found = (
        fill("roomy", run_settings(**MODEL | {"vae_batch_size": 2}), family),
        fill("short", settings, short, told),
    )
    assert told.notes == [
        "out of memory with a batch of 4: going on with 2, and nothing is lost; "
        'to begin with that, set "vae_batch_size" to 2'
    ]
    assert short.encoded == 8 + 6, "five of each, with copies that fill up the last batch"
    for id, (stored,) in expected.items():
        torch.testing.assert_close(found[id][0].load()[LATENTS], stored.load()[LATENTS])


def test_another_error_of_an_encoder_is_its_own(family, tmp_path):
    settings, short = run_settings(**MODEL), Short(family, 0)

    def fail(module, given):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    short._admit = fail
    with pytest.raises(RuntimeError, match="mat1"):
        fill_text_cache(["a cat"], tmp_path, short, family.locate(settings), settings, CPU, Told())
