"""Single files in the original layout: the same model as the folder they were made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import original_layout
import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import load_file, save_file

from simpletune.config import architecture
from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
from simpletune.models import builder, components, single_file
from simpletune.models.sd3 import SD3
from simpletune.models.tensor_file import TensorSpec, _header
from simpletune.models.weight_source import WeightSource

CPU = torch.device("cpu")
PREFIXES = {
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tiny flavour whose heads are 64 wide, as in all models that there are single files of."""
    plain = architecture.component_config
    changes: dict[str, dict[str, Any]] = {
        "transformer": {
            "attention_head_dim": 64,
            "num_attention_heads": 2,
            "caption_projection_dim": 128,
            "pooled_projection_dim": 128 + 192,
        },
        "text_encoder_2": {"hidden_size": 192, "projection_dim": 192, "num_attention_heads": 3},
        "vae": {"scaling_factor": 1.5305, "shift_factor": 0.0609},  # a single file doesn't say: SD3's are assumed
    }
    folder = tmp_path_factory.mktemp("single") / "model"
    with pytest.MonkeyPatch.context() as patch:
        changed = lambda flavour, part: plain(flavour, part) | changes.get(part, {})  # noqa: E731
        patch.setattr(architecture, "component_config", changed)
        builder.build(folder, "tiny", dtype="fp32")
    return folder


@pytest.fixture(scope="module")
def states(model: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        part: load_file(model / part / f"{components.weights_stem(part)}.safetensors")
        for part in architecture.WEIGHT_PARTS
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, states: dict[str, dict[str, torch.Tensor]]) -> Path:
    """Transformer and VAE in one file, as sd3.5_medium.safetensors is."""
    path = tmp_path_factory.mktemp("single") / "bare.safetensors"
    save_file(_original(states), path)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, states: dict[str, dict[str, torch.Tensor]]) -> Path:
    """With all text encoders, as sd3_medium_incl_clips_t5xxlfp16.safetensors is."""
    tensors = _original(states)
    for part, prefix in PREFIXES.items():
        tensors |= {prefix + name: tensor for name, tensor in states[part].items()}
    path = tmp_path_factory.mktemp("single") / "full.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("single") / "tokenizers"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("text_encoder*", "vae", "transformer"))
    return folder


def test_the_tests_layout_is_what_diffusers_converts(states: dict[str, dict[str, torch.Tensor]]) -> None:
    old = original_layout.transformer(states["transformer"], 4)
    _assert_same(convert_sd3_transformer_checkpoint_to_diffusers(dict(old)), states["transformer"])
    old = {f"first_stage_model.{name}": tensor for name, tensor in original_layout.vae(states["vae"], 4).items()}
    config = architecture.component_config("tiny", "vae")
    _assert_same(convert_ldm_vae_checkpoint(old, config), states["vae"])


def test_everything_equals_the_folder(full: Path, tokenizers: Path, model: Path, make_settings: MakeSettings) -> None:
    family = SD3()
    settings = make_settings(pretrained_model_name_or_path=str(full), pretrained_text_encoders_path=tokenizers)
    plain = make_settings(pretrained_model_name_or_path=str(model))
    files, folder = family.locate(settings), family.locate(plain)
    assert files.layout == "single"
    captions = ["a red cat", "x" * 100]
    ours, expected = (family.load_text_encoders(found, settings, CPU).encode(captions) for found in (files, folder))
    assert torch.equal(ours.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(ours.pooled_prompt_embeds, expected.pooled_prompt_embeds)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    latents = [family.load_vae(found, settings, CPU).encode(pixels, ["key"]) for found in (files, folder)]
    assert torch.equal(*latents)
    with torch.no_grad():
        velocities = [
            family.predict(family.load_transformer(found, settings, CPU), latents[0], torch.tensor([0.4]), one)
            for found, one in ((files, _first(ours)), (folder, _first(expected)))
        ]
    assert torch.equal(*velocities)


def test_a_quantized_base_equals_the_folders(
    full: Path, tokenizers: Path, model: Path, make_settings: MakeSettings
) -> None:
    family, plain = SD3(), make_settings(pretrained_model_name_or_path=str(model))
    settings = make_settings(
        pretrained_model_name_or_path=str(full),
        pretrained_text_encoders_path=tokenizers,
        base_model_precision="int8-quanto",
    )
    transformers = [family.load_transformer(family.locate(made), settings, CPU) for made in (settings, plain)]
    _assert_same(*(transformer.state_dict() for transformer in transformers))


def test_missing_encoders_come_from_the_named_folder(bare: Path, model: Path, make_settings: MakeSettings) -> None:
    family, plain = SD3(), make_settings(pretrained_model_name_or_path=str(model))
    settings = make_settings(pretrained_model_name_or_path=str(bare), pretrained_text_encoders_path=model)
    encoders = [family.load_text_encoders(family.locate(made), settings, CPU) for made in (settings, plain)]
    ours, expected = (encoder.encode(["a blue house"]) for encoder in encoders)
    assert torch.equal(ours.prompt_embeds, expected.prompt_embeds)


@pytest.mark.parametrize("folder", [None, "tokenizers"])
def test_without_encoders_the_error_names_the_key(
    bare: Path, tokenizers: Path, make_settings: MakeSettings, folder: str | None
) -> None:
    root = tokenizers if folder else None
    settings = make_settings(pretrained_model_name_or_path=str(bare), pretrained_text_encoders_path=root)
    with pytest.raises(ModelUnavailable, match="text_encoder") as error:
        SD3().locate(settings)
    assert "pretrained_text_encoders_path" in (error.value.hint or "")


def test_a_file_of_something_else_is_refused(tmp_path: Path, make_settings: MakeSettings) -> None:
    save_file({"lora.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelUnavailable, match="holds no transformer of Stable Diffusion 3"):
        SD3().locate(make_settings(pretrained_model_name_or_path=str(tmp_path / "lora.safetensors")))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_dual_attention_and_query_norms(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    config = architecture.component_config("sd3.5-medium", "transformer") | {
        "num_layers": 3,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 128,
        "pooled_projection_dim": 16,
        "pos_embed_max_size": 4,
        "dual_attention_layers": [0, 1],
    }
    state = SD3Transformer2DModel.from_config(config).state_dict()
    state = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    old = original_layout.transformer(state, 3)
    _assert_same(convert_sd3_transformer_checkpoint_to_diffusers(dict(old)), state)
    save_file({prefix + name: tensor.contiguous() for name, tensor in old.items()}, tmp_path / "35.safetensors")
    source = WeightSource.open(tmp_path / "35.safetensors")
    assert single_file.part_config(source, "transformer") == config
    seen = single_file.part_source(source, "transformer", state)
    _assert_same({name: seen.read(name) for name in seen.names()}, state)


@pytest.mark.parametrize("flavour", ["sd3-medium", "sd3.5-medium", "sd3.5-large"])
def test_configs_from_shapes_are_the_shipped_ones(flavour: str, tmp_path: Path) -> None:
    """A file of the real size that holds nothing but its header."""
    shapes: dict[str, Any] = {}
    parts = [part for part in architecture.WEIGHT_PARTS if part != "text_encoder_3" or flavour == "sd3-medium"]
    for part in parts:
        config = architecture.component_config(flavour, part)
        state = components.empty_module(part, config).state_dict()
        if part == "transformer":
            state = original_layout.transformer(state, config["num_layers"])
        elif part == "vae":
            state = original_layout.vae(state, 4)
        prefix = PREFIXES.get(part, "model.diffusion_model." if part == "transformer" else "first_stage_model.")
        shapes |= {prefix + name: tensor.shape for name, tensor in state.items()}
    specs = [TensorSpec(name, tuple(shape), torch.float16) for name, shape in shapes.items()]
    path = tmp_path / "hollow.safetensors"
    header = _header(specs)
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + sum(spec.size_bytes for spec in specs))
    source = WeightSource.open(path)
    for part in parts:
        assert single_file.part_config(source, part) == architecture.component_config(flavour, part), part


def _original(states: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    transformer = original_layout.transformer(states["transformer"], 4)
    tensors = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in transformer.items()}
    vae = original_layout.vae(states["vae"], 4)
    return tensors | {f"first_stage_model.{name}": tensor.contiguous() for name, tensor in vae.items()}


def _assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def _first(text: Any) -> Any:
    return type(text)(text.prompt_embeds[:1], text.pooled_prompt_embeds[:1])
