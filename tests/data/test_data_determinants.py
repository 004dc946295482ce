"""A change of any one thing that determines an entry makes what it must anew, and nothing else."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from data_helpers import Told, colours, image_set, run_settings, scan, sources
from fake_family import FakeFamily
from safetensors.torch import load_file, save_file

from simpletune.data.caches import encode_pictures, encode_text
from simpletune.data.caches.encode import fill_latent_cache, fill_text_cache
from simpletune.models.family import ModelFiles
from simpletune.models.sd3 import SD3

CPU = torch.device("cpu")
NAMES = ("a", "b", "c")


class Identified(FakeFamily):
    """The arithmetic of the fake family under the identities of SD3."""

    def text_identity(self, files, settings):
        return SD3().text_identity(files, settings)

    def vae_identity(self, files, settings):
        return SD3().vae_identity(files, settings)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Collecting garbage takes a quarter of a second where torch is loaded, and there is no model to give back."""
    monkeypatch.setattr(encode_pictures, "release", lambda device: None)
    monkeypatch.setattr(encode_text, "release", lambda device: None)


@pytest.fixture
def bench(save, folder, tmp_path, tiny_model):
    """Three pictures with captions, encoded once; `run` encodes what is missing and tells what that was."""
    for name in NAMES:
        save(f"{name}.png", colours(160, 96, 40 * ord(name)))
        (folder / f"{name}.txt").write_text(f"caption {name}")
    made = SimpleNamespace(
        save=save,
        folder=folder,
        model=ModelFiles("tiny", tiny_model, "folder", None, None),
        settings={f"text_encoder_{number}_precision": "no_change" for number in (1, 2, 3)}
        | {"use_t5": True, "mixed_precision": "bf16", "tokenizer_max_length": 77},
        data={"caption_strategy": "textfile", "crop": True},
    )

    def run() -> tuple[int, list[str]]:
        family, settings = Identified(), run_settings(**made.settings)
        one = image_set(folder, **made.data)
        samples = scan(one, 16, 1).samples
        more = (family, made.model, settings, CPU, Told())
        fill_latent_cache(samples, sources(one), {"pictures": tmp_path / "vae"}, *more)
        fill_text_cache([text for sample in samples for text in sample.captions], tmp_path / "text", *more)
        return len(family.pictures), sorted(family.captions)

    made.run = run
    assert run() == (3, [f"caption {name}" for name in NAMES])
    assert run() == (0, [])
    return made


ALL_CAPTIONS = [f"caption {name}" for name in NAMES]


def test_a_pixel(bench):
    picture = colours(160, 96, 40 * ord("b"))
    picture.putpixel((80, 50), (1, 2, 3))
    bench.save("b.png", picture)
    assert bench.run() == (1, [])


def test_a_caption(bench):
    (bench.folder / "b.txt").write_text("another caption")
    assert bench.run() == (0, ["another caption"])


@pytest.mark.parametrize(
    "change",
    [
        {"crop_style": "corner"},
        {"crop": False},
        {"crop_aspect": "closest"},
        {"resolution": 32},
        {"maximum_image_size": 90, "target_downsample_size": 80},
    ],
)
def test_what_is_cut_out_of_a_picture(bench, change):
    bench.data |= change
    assert bench.run() == (3, [])


def test_more_placements_leave_those_there_are(bench):
    bench.data |= {"horizontal_flip": True}
    assert bench.run() == (3, [])
    bench.data |= {"horizontal_flip": False}
    assert bench.run() == (0, [])


@pytest.mark.parametrize(
    "change",
    [
        {"text_encoder_1_precision": "int8-quanto"},
        {"text_encoder_2_precision": "int8-quanto"},
        {"text_encoder_3_precision": "int4-quanto"},
        {"tokenizer_max_length": 78},
        {"use_t5": False},
    ],
)
def test_how_captions_are_encoded(bench, change):
    bench.settings |= change
    assert bench.run() == (0, ALL_CAPTIONS)


def test_the_dtype(bench):
    bench.settings["mixed_precision"] = "no"
    assert bench.run() == (3, ALL_CAPTIONS)
    bench.settings["mixed_precision"] = "fp16"  # the VAE stays in fp32
    assert bench.run() == (0, ALL_CAPTIONS)


@pytest.mark.parametrize(
    ("part", "expected"), [("vae", (3, [])), ("text_encoder", (0, ALL_CAPTIONS)), ("transformer", (0, []))]
)
def test_the_models_weights(bench, tmp_path, tiny_model, part, expected):
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    bench.model = ModelFiles("tiny", copy, "folder", None, None)
    assert bench.run() == (0, [])
    path = next((copy / part).glob("*.safetensors"))
    weights = load_file(path)
    name = next(name for name in weights if weights[name].is_floating_point() and weights[name].numel() > 1)
    weights[name].view(-1)[0] += 1
    save_file(weights, path)
    assert bench.run() == expected


def test_what_determines_nothing(bench):
    (bench.folder / "b.png").rename(bench.folder / "renamed.png")
    (bench.folder / "b.txt").rename(bench.folder / "renamed.txt")
    (bench.folder / "a.png").touch()
    bench.settings |= {"vae_batch_size": 1, "text_encoder_batch_size": 2, "seed": 7}
    assert bench.run() == (0, [])
