"""The tiny flavour and the builder behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simpletune.config import architecture, builtin
from simpletune.config.builtin import NAME_KEY, tiny_name
from simpletune.config.families import FAMILIES, module_names
from simpletune.errors import ModelUnavailable, UsageError
from simpletune.files import sha256
from simpletune.models import builder, components, vocabulary
from simpletune.models.locate import locate
from simpletune.models.random_weights import position_table

FLAVOURS = FAMILIES["sd3"].flavours
WEIGHT_FILE = "transformer/diffusion_pytorch_model.safetensors"


def test_what_is_built_has_the_shapes_of_the_shipped_model_and_is_the_same_every_time(
    tiny_model: Path, tmp_path: Path
) -> None:
    builder.build(tmp_path / "one", "tiny", dtype="fp16")
    builder.build(tmp_path / "two", "tiny", dtype="fp16", parts=("text_encoder", "tokenizer", "transformer"))
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    shipped = sorted(path.relative_to(tiny_model) for path in tiny_model.rglob("*") if path.is_file())
    assert names == [name for name in shipped if name.name != "README.md"]
    for name in names:
        if (tmp_path / "two" / name).exists() and name.name != "model_index.json":
            assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name), name
        if name.suffix == ".safetensors":
            made, kept = load_file(tmp_path / "one" / name), load_file(tiny_model / name)
            assert {key: t.shape for key, t in made.items()} == {key: t.shape for key, t in kept.items()}


def test_a_built_model_is_not_called_as_the_shipped_one(tiny_model: Path, tmp_path: Path) -> None:
    assert json.loads((tiny_model / "model_index.json").read_text())[NAME_KEY] == tiny_name()
    builder.build(tmp_path / "own", "tiny", parts=())
    assert NAME_KEY not in json.loads((tmp_path / "own" / "model_index.json").read_text())


@pytest.mark.parametrize(("lacking", "said"), [("vae", "it lacks vae/"), ("text_encoder_3", "lacks text_encoder_3/")])
def test_a_damaged_installation_is_named_before_anything_loads(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: Any, lacking: str, said: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    for path in (tmp_path / "tiny" / lacking).glob("*.safetensors"):
        path.unlink()
    monkeypatch.setattr(builtin, "_FOLDER", tmp_path)
    with pytest.raises(ModelUnavailable, match=said) as error:
        locate(make_settings())
    assert error.value.hint == builtin.HINT


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        builder.build(tmp_path, "tiny")


def test_stock_pipeline_loads_tiny_and_paints(tiny_model: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(
            caption, num_inference_steps=2, width=128, height=96, generator=torch.manual_seed(0), output_type="pt"
        ).images
        for caption in ("a red cat", "a house by the sea")
    ]
    assert pictures[0].shape == (1, 3, 96, 128)
    assert pictures[0].isfinite().all()
    assert (pictures[0] - pictures[1]).abs().max() > 0.02, "the caption must matter"


@pytest.mark.parametrize("flavour", sorted(FLAVOURS))
def test_shipped_configs_agree_with_the_family_facts(flavour: str) -> None:
    facts = FLAVOURS[flavour]
    config = architecture.component_config(flavour, "transformer")
    transformer = components.empty_module("transformer", config)
    linears = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    assert config["num_layers"] == facts.block_count
    assert tuple(config["dual_attention_layers"]) == facts.dual_attention_blocks
    assert config["sample_size"] * 8 == facts.resolution
    assert linears == set(module_names(FAMILIES["sd3"], facts))


@pytest.mark.parametrize(("flavour", "billions"), [("sd3-medium", 2.03), ("sd3.5-medium", 2.24), ("sd3.5-large", 8.06)])
def test_real_flavours_have_their_published_size(flavour: str, billions: float) -> None:
    transformer = components.empty_module("transformer", architecture.component_config(flavour, "transformer"))
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    assert parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(("side", "width", "base"), [(32, 192, 8), (12, 128, 4)])
def test_position_table_equals_that_of_diffusers(side: int, width: int, base: int) -> None:
    from diffusers.models.embeddings import PatchEmbed

    stock = PatchEmbed(base * 2, base * 2, 2, 16, width, pos_embed_max_size=side)
    torch.testing.assert_close(position_table(side, width, base), stock.pos_embed)


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    builder.build(tmp_path / "whole", "tiny", dtype="fp32", parts=("transformer",))
    builder.build(tmp_path / "sharded", "tiny", dtype="fp32", parts=("transformer",), max_shard_bytes=4_000_000)
    folder = tmp_path / "sharded" / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = {name: load_file(folder / name) for name in set(index["weight_map"].values())}
    whole = load_file(tmp_path / "whole" / WEIGHT_FILE)
    assert len(shards) > 2
    assert set(index["weight_map"]) == set(whole)
    assert all(torch.equal(shards[index["weight_map"][name]][name], whole[name]) for name in whole)


def test_tensors_are_aligned_for_readers_that_map_the_file(tmp_path: Path) -> None:
    builder.build(tmp_path / "built", "tiny", parts=("transformer",))
    header_bytes = int.from_bytes((tmp_path / "built" / WEIGHT_FILE).read_bytes()[:8], "little")
    assert header_bytes % 8 == 0


def test_without_t5_the_pipeline_says_so(tmp_path: Path) -> None:
    builder.build(tmp_path / "small", "tiny", parts=builder.without_t5())
    index = json.loads((tmp_path / "small" / "model_index.json").read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    assert not (tmp_path / "small" / "text_encoder_3").exists()


def test_the_commonest_words_are_one_token() -> None:
    clip, t5 = vocabulary.clip_tokenizer(1344, max_length=32), vocabulary.t5_tokenizer(1152)
    assert clip.model_max_length == 32
    for word in vocabulary.WORDS[:250]:
        assert len(clip(word).input_ids) == 3, word
        assert len(t5(word).input_ids) == 2, word


@pytest.mark.parametrize("size", [300, 1152])
def test_tokenizers_keep_within_the_embedding_table(size: int) -> None:
    assert len(vocabulary.t5_tokenizer(size)) <= size
    assert len(vocabulary.clip_tokenizer(size + 300)) <= size + 300


@pytest.mark.parametrize("text", ["an unheard-of word: xylophonist!", "Zürich, 3 € ünïcode 猫"])
def test_clip_spells_what_it_does_not_know(text: str) -> None:
    tokenizer = vocabulary.clip_tokenizer(1344)
    said = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    assert "".join(said.split()) == "".join(text.lower().split())
