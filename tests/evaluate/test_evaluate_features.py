"""Feature models: the numbers the libraries give, pictures prepared as theirs are, each known feature computed once."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import feature_models
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from simpletune import outside
from simpletune.errors import ModelUnavailable
from simpletune.evaluate.features import file_picture
from simpletune.evaluate.features.describe import Described
from simpletune.evaluate.features.locate import find
from simpletune.evaluate.features.networks import Clip, Dino
from simpletune.evaluate.features.preprocess import read_preprocessing
from simpletune.evaluate.features.statistics import Statistics, oklab
from simpletune.evaluate.features.style import Csd
from simpletune.progress import SilentReporter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    feature_models.clip(folder / "clip")
    feature_models.dino(folder / "dino")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for index, size in enumerate([(40, 40), (64, 40), (40, 70)]):
        image = Image.new("RGB", size, ("red", "white", "black")[index])
        ImageDraw.Draw(image).ellipse((5, 5, 20, 30), fill=("blue", "green", "yellow")[index])
        paths.append(tmp_path / f"{index}.png")
        image.save(paths[-1])
    return paths


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def test_pictures_are_prepared_as_transformers_prepares_them(models: Path, pictures: list[Path]):
    from transformers.models.clip import image_processing_pil_clip as theirs

    for name in ("clip", "dino"):
        described = json.loads((models / name / "preprocessor_config.json").read_text())
        described.pop("image_processor_type", None)
        processor = theirs.CLIPImageProcessorPil(**described)
        expected = processor(opened(pictures), return_tensors="pt")["pixel_values"]
        assert torch.allclose(read_preprocessing(models / name)(opened(pictures)), expected, atol=1e-5)


def test_clip_and_dino_give_the_models_own_embeddings(models: Path, pictures: list[Path]):
    from transformers import AutoTokenizer, CLIPModel, Dinov2Model

    ours, theirs = Clip(models / "clip", "clip", CPU), CLIPModel.from_pretrained(models / "clip").eval()
    texts = ["a drawing of a red heart", "a tree"]
    tokens = AutoTokenizer.from_pretrained(models / "clip")(texts, padding=True, return_tensors="pt")
    pixels = read_preprocessing(models / "clip")(opened(pictures))
    with torch.no_grad():
        both = theirs(pixel_values=pixels, **tokens)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(ours.pictures(opened(pictures)), both.image_embeds) == pytest.approx(torch.ones(3), abs=1e-5)
    assert cosine(ours.texts(texts), both.text_embeds) == pytest.approx(torch.ones(2), abs=1e-5)
    assert ours.texts(["word " * 500]).shape == (1, 24), "cut to what the model reads"

    pixels = read_preprocessing(models / "dino")(opened(pictures))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(models / "dino").eval()(pixel_values=pixels).pooler_output
    assert torch.allclose(Dino(models / "dino", "dino", CPU).pictures(opened(pictures)), expected, atol=1e-5)


def test_the_style_descriptor_computes_what_its_own_layout_means(tmp_path: Path, pictures: list[Path]):
    """Against a vision transformer written out with torch's own attention, which has the published layout's keys."""
    torch.manual_seed(0)
    network = PublishedVision()
    tensors = {f"module.backbone.{key}": value.clone() for key, value in network.state_dict().items()}
    head = torch.randn(64, 16)
    save_file(
        {**tensors, "module.last_layer_style": head, "module.last_layer_content": head + 1},
        tmp_path / "csd.safetensors",
    )
    ours = Csd(tmp_path, CPU)
    pixels = ours._prepare(opened(pictures))
    with torch.no_grad():
        expected = nn.functional.normalize(network(pixels) @ head, dim=1)
    assert torch.allclose(ours.pictures(opened(pictures)), expected, atol=1e-5)


class PublishedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(64, 1, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(64), nn.LayerNorm(64)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(64, 96), "c_proj": nn.Linear(96, 64)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class PublishedVision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(64))
        self.positional_embedding = nn.Parameter(torch.randn(17, 64))
        self.ln_pre, self.ln_post = nn.LayerNorm(64), nn.LayerNorm(64)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([PublishedBlock(), PublishedBlock()])})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0])


def test_a_feature_is_computed_once(models: Path, pictures: list[Path], tmp_path: Path):
    def described(seed_folder: str = "dino") -> Described:
        return Described(Dino(models / seed_folder, "dino", CPU), tmp_path / "features", CPU, SilentReporter())

    first = described()
    before = first.pictures([file_picture(path) for path in pictures[:2]])
    assert (first.use.computed, first.use.from_cache) == (2, 0)
    second = described()
    after = second.pictures([file_picture(path) for path in pictures])
    assert (second.use.computed, second.use.from_cache) == (1, 2)
    assert np.array_equal(before, after[:2])
    entry = next((tmp_path / "features").rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:-4])
    third = described()
    assert np.array_equal(third.pictures([file_picture(path) for path in pictures]), after)
    assert third.use.computed == 1, "what is damaged is computed again"

    feature_models.dino(models / "other", seed=5)
    other = described("other")
    assert not np.array_equal(other.pictures([file_picture(path) for path in pictures]), after)
    assert other.use.computed == 3, "of other weights nothing is known"


def test_statistics_tell_pictures_apart_without_a_model(pictures: list[Path]):
    rows = Statistics().pictures(opened(pictures)).numpy()
    assert rows.shape == (3, 420)
    cosines = rows @ rows.T / 3
    assert np.diag(cosines) == pytest.approx(np.ones(3), abs=1e-5)
    assert cosines[0, 1] < 0.9
    noisy = np.asarray(Image.open(pictures[0]).convert("RGB"), np.int16) + np.random.default_rng(0).integers(
        -6, 7, (40, 40, 3)
    )
    near = Statistics().pictures([Image.fromarray(noisy.clip(0, 255).astype(np.uint8))]).numpy()[0]
    assert near @ rows[0] / 3 > 0.9
    blank = Statistics().pictures([Image.new("RGB", (8, 8), "white")])
    assert torch.isfinite(blank).all()
    # Ottosson's own check values: white is L 1, a and b 0; sRGB red
    assert oklab(np.ones(3)) == pytest.approx([1, 0, 0], abs=1e-3)
    assert oklab(np.array([1.0, 0, 0])) == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


@pytest.mark.parametrize(
    ("option", "change", "said"),
    [
        ("--dino", lambda folder: (folder / "model.safetensors").unlink(), "no weights as .safetensors"),
        ("--dino", lambda folder: (folder / "config.json").unlink(), "no config.json"),
        ("--dino", lambda folder: (folder / "config.json").write_text("{"), "can't be read"),
        ("--clip", lambda _folder: None, "kind 'dinov2', not 'clip'"),
    ],
)
def test_a_folder_that_is_no_such_model(tmp_path: Path, option: str, change, said: str):
    folder = feature_models.dino(tmp_path / "dino")
    change(folder)
    with pytest.raises(ModelUnavailable, match=said):
        find(option, str(folder), None, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"size": 3}'), "can't be used"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "can't be loaded"),
    ],
)
def test_a_model_that_is_incomplete(tmp_path: Path, pictures: list[Path], change, said: str):
    folder = feature_models.dino(tmp_path / "dino")
    change(folder)
    with pytest.raises(ModelUnavailable, match=said):
        Dino(folder, "dino", CPU).pictures(opened(pictures))


def test_what_the_system_refuses_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def withheld(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    folder = feature_models.dino(tmp_path / "dino")
    monkeypatch.setattr(outside, "check_tensors", withheld)
    with pytest.raises(ModelUnavailable) as caught:
        find("--dino", str(folder), None, None)
    assert caught.value.message == f"--dino: {folder / 'model.safetensors'} can't be read: permission denied"
    monkeypatch.setattr(outside, "read_json", withheld)
    with pytest.raises(ModelUnavailable) as caught:
        read_preprocessing(folder)
    assert caught.value.message == f"{folder / 'preprocessor_config.json'} can't be used: permission denied"


@pytest.mark.parametrize(
    ("name", "file", "what"),
    [
        ("clip", "tokenizer_config.json", "tokenizer in {} can't be used"),
        ("dino", "config.json", "model in {} can't be loaded"),
    ],
)
def test_a_file_that_a_library_is_refused_is_named_and_said_in_words(
    models: Path, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, file: str, what: str
):
    folder = shutil.copytree(models / name, tmp_path / name)
    real = open

    def withheld(path, *more, **how):
        if str(path) == str(folder / file):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *more, **how)

    monkeypatch.setattr("builtins.open", withheld)  # libraries open by it, and what is ours by pathlib
    with pytest.raises(ModelUnavailable) as caught:
        {"clip": Clip, "dino": Dino}[name](folder, name, CPU).pictures(opened(pictures))
    assert caught.value.message == f"the {what.format(folder)}: {file}: permission denied"


def test_clip_without_its_vocabulary_is_no_clip(models: Path, tmp_path: Path):
    """transformers would make up an empty one, and every prompt would be the same."""
    shutil.copytree(models / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"no tokenizer\.json"):
        Clip(tmp_path / "clip", "clip", CPU)


def test_what_is_no_style_descriptor_is_said(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="there is no file"):
        Csd(tmp_path / "none.safetensors", CPU)
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelUnavailable, match="isn't CSD's"):
        Csd(tmp_path / "other.safetensors", CPU)
