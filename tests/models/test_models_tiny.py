"""The tiny flavour and the builder behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simpletune.config import architecture
from simpletune.config.families import FAMILIES, module_names
from simpletune.errors import UsageError
from simpletune.files import sha256
from simpletune.models import builder, components, tiny, vocabulary
from simpletune.models.random_weights import position_table

FLAVOURS = FAMILIES["sd3"].flavours
WEIGHT_FILES = ("transformer/diffusion_pytorch_model.safetensors", "text_encoder_3/model.safetensors")


def test_tiny_is_the_same_wherever_it_is_built(tiny_model: Path, tmp_path: Path) -> None:
    tiny.build_tiny(tmp_path / "again")
    names = sorted(path.relative_to(tiny_model) for path in tiny_model.rglob("*") if path.is_file())
    assert names
    for name in names:
        assert sha256(tiny_model / name) == sha256(tmp_path / "again" / name), name


def test_a_builder_that_comes_second_uses_the_finished_folder(tiny_model: Path) -> None:
    tiny._build_unless_another_does(tiny_model)
    assert tiny.tiny_folder() == tiny_model


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        builder.build(tmp_path, "tiny")


def test_stock_pipeline_loads_tiny_and_paints(tiny_model: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model)
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


def test_shards_hold_the_same_tensors_as_one_file(tiny_model: Path, tmp_path: Path) -> None:
    builder.build(tmp_path / "sharded", "tiny", dtype="fp32", parts=("transformer",), max_shard_bytes=4_000_000)
    folder = tmp_path / "sharded" / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = {name: load_file(folder / name) for name in set(index["weight_map"].values())}
    whole = load_file(tiny_model / WEIGHT_FILES[0])
    assert len(shards) > 2
    assert set(index["weight_map"]) == set(whole)
    assert all(torch.equal(shards[index["weight_map"][name]][name], whole[name]) for name in whole)


def test_tensors_are_aligned_for_readers_that_map_the_file(tiny_model: Path) -> None:
    header_bytes = int.from_bytes((tiny_model / WEIGHT_FILES[0]).read_bytes()[:8], "little")
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
