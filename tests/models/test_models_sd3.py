"""SD3 against the stock pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import save_file

from simpletune.config import architecture
from simpletune.config.settings import Settings
from simpletune.machine.execution import Way
from simpletune.models import builder, components
from simpletune.models.family import ModelFiles, SamplingRequest, TextEncoding
from simpletune.models.quantize import FrozenLinear
from simpletune.models.sd3 import SD3

CPU = torch.device("cpu")
CAPTIONS = ["a red cat on a mat", "", "Zürich, painted by nobody; " * 6, "a " * 90]
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def family() -> SD3:
    return SD3()


@pytest.fixture(scope="module")
def files(family: SD3, make_settings: MakeSettings, tiny_model: Path) -> ModelFiles:
    found = family.locate(make_settings())
    assert found.root == tiny_model
    return found


@pytest.fixture(scope="module")
def stock(tiny_model: Path) -> Callable[..., Any]:
    """The stock pipeline from the tiny folder in a dtype."""

    def load(dtype: torch.dtype, **parts: Any) -> Any:
        pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model, dtype=dtype, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="module")
def stock_fp32(stock: Callable[..., Any]) -> Any:
    return stock(torch.float32)


@pytest.fixture(scope="module")
def transformer(family: SD3, files: ModelFiles, make_settings: MakeSettings) -> Any:
    return family.load_transformer(files, make_settings(), CPU)


@pytest.fixture(scope="module")
def vae(family: SD3, files: ModelFiles, make_settings: MakeSettings) -> Any:
    return family.load_vae(files, make_settings(), CPU)


@pytest.mark.parametrize(("precision", "tokens"), [("no", 32), ("no", 77), ("bf16", 154), ("fp16", 32)])
def test_text_encoding_is_the_pipelines_bit_for_bit(
    family: SD3,
    files: ModelFiles,
    make_settings: MakeSettings,
    stock: Callable[..., Any],
    precision: str,
    tokens: int,
) -> None:
    settings = make_settings(mixed_precision=precision, tokenizer_max_length=tokens)
    ours = family.load_text_encoders(files, settings, CPU).encode(CAPTIONS)
    expected = _stock_encoding(stock(DTYPES[precision]), tokens)
    assert ours.prompt_embeds.dtype == ours.pooled_prompt_embeds.dtype == DTYPES[precision]
    assert torch.equal(ours.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(ours.pooled_prompt_embeds, expected.pooled_prompt_embeds)


def test_without_t5_zeros_stand_in_and_t5_is_not_needed(
    family: SD3, make_settings: MakeSettings, stock: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*_3"))
    settings = make_settings(use_t5=False, pretrained_model_name_or_path=str(tmp_path / "model"))
    files = family.locate(settings)
    ours = family.load_text_encoders(files, settings, CPU).encode(CAPTIONS)
    expected = _stock_encoding(stock(torch.float32, text_encoder_3=None, tokenizer_3=None), 32)
    assert torch.equal(ours.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(ours.pooled_prompt_embeds, expected.pooled_prompt_embeds)
    assert not ours.prompt_embeds[:, 32:].any()


def test_the_files_of_a_model_say_how_long_clips_captions_are(
    family: SD3, make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of one's own, of the flavour's blocks, whose CLIPs read as many tokens as SD3's do."""
    plain = architecture.component_config

    def longer(flavour: str, part: str) -> dict[str, Any]:
        clip = {"max_position_embeddings": 77} if part in architecture.ENCODER_PARTS[:2] else {}
        return plain(flavour, part) | clip

    with monkeypatch.context() as patch:
        patch.setattr(architecture, "component_config", longer)
        builder.build(tmp_path / "own", "tiny", dtype="fp32")
    settings = make_settings(pretrained_model_name_or_path=str(tmp_path / "own"))
    ours = family.load_text_encoders(family.locate(settings), settings, CPU).encode(CAPTIONS)
    stock = StableDiffusion3Pipeline.from_pretrained(tmp_path / "own", transformer=None, vae=None)
    assert ours.prompt_embeds.shape == (len(CAPTIONS), 77 + 32, 320)
    assert torch.equal(ours.prompt_embeds, _stock_encoding(stock, 32).prompt_embeds)


@pytest.mark.parametrize(
    ("said", "identity"),
    [
        ({"model_max_length": 77}, "1a72f66483f1ce4ce093dc87fd3a7affd1e83fd86d2a4337f156c996513fc897"),
        ({"model_max_length": 10**30}, "fb883b72b8c6aad909839e6f5ded88a050ba4ae87a1bcce2d3f0e1bef22bb8ba"),
    ],
)
def test_text_of_77_tokens_is_cached_under_the_keys_of_earlier_versions(
    family: SD3, make_settings: MakeSettings, tmp_path: Path, said: dict[str, int], identity: str
) -> None:
    """The identities are those of the version before CLIP's length was the model's."""
    configs = {part: {"max_position_embeddings": 77} for part in architecture.ENCODER_PARTS}
    for part, config in {**configs, "transformer": {"joint_attention_dim": 8}}.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
        save_file({"w": torch.zeros(1)}, tmp_path / part / f"{components.weights_stem(part)}.safetensors")
    for part in architecture.TOKENIZER_PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "tokenizer_config.json").write_text(json.dumps(said))
    files = ModelFiles("m", tmp_path, "folder", None, None)
    settings = make_settings(text_encoder_3_precision="int8-quanto", mixed_precision="bf16", tokenizer_max_length=154)
    assert family.text_identity(files, settings) == identity
    for part in architecture.TOKENIZER_PARTS:
        (tmp_path / part / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    read_77 = "774770e21fbd3c97d7dc4bf6d5b99e308d741fa0e38a8d5b18cc7de0a8d1c630"  # tokens of such a model nevertheless
    assert family.text_identity(files, settings) != read_77


@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "fp8-quanto"])
def test_quantized_encoders_stay_close(
    family: SD3, files: ModelFiles, make_settings: MakeSettings, precision: str
) -> None:
    plain = family.load_text_encoders(files, make_settings(), CPU).encode(CAPTIONS[:1])
    keys = {f"text_encoder_{number}_precision": precision for number in (1, 2, 3)}
    encoders = family.load_text_encoders(files, make_settings(**keys), CPU)
    encoded = encoders.encode(CAPTIONS[:1])
    linears = [module for _, encoder in encoders.clips for module in encoder.modules() if hasattr(module, "weight")]
    assert any(isinstance(module, FrozenLinear) for module in linears)
    error = (encoded.prompt_embeds - plain.prompt_embeds).std() / plain.prompt_embeds.std()
    assert 0 < error < (0.4 if precision == "int4-quanto" else 0.1)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_streamed_transformer_predicts_what_the_stock_one_does(
    family: SD3, files: ModelFiles, make_settings: MakeSettings, stock: Callable[..., Any], precision: str
) -> None:
    dtype = DTYPES[precision]
    ours = family.load_transformer(files, make_settings(mixed_precision=precision), CPU)
    theirs = stock(dtype, text_encoder=None, text_encoder_2=None, text_encoder_3=None, vae=None).transformer
    latents, text, sigma = torch.randn(2, 16, 16, 12), _random_text(2, dtype), torch.tensor([0.3337, 0.9])
    with torch.no_grad():
        expected = theirs(
            latents.to(dtype), text.prompt_embeds, text.pooled_prompt_embeds, 1000 * sigma, return_dict=False
        )[0]
        assert torch.equal(family.predict(ours, latents, sigma, text), expected)
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours.training


def test_time_keeps_its_precision_in_bf16(family: SD3) -> None:
    """Two sigmas that bfloat16 can't tell apart must reach the model as two."""
    seen = []

    def spy(**arguments: Any) -> tuple[torch.Tensor]:
        seen.append(arguments["timestep"])
        return (arguments["hidden_states"],)

    text = _random_text(2, torch.bfloat16)
    family.predict(spy, torch.zeros(2, 16, 4, 4), torch.tensor([0.8330, 0.8331]), text)  # type: ignore[arg-type]
    assert seen[0].dtype == torch.float32
    assert seen[0][0] != seen[0][1]


@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
def test_blocks_are_quantized_and_embedders_are_not(
    family: SD3, files: ModelFiles, make_settings: MakeSettings, precision: str
) -> None:
    transformer = family.load_transformer(files, make_settings(base_model_precision=precision), CPU)
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, module in linears.items():
        assert isinstance(module, FrozenLinear) == name.startswith("transformer_blocks."), name
    assert isinstance(linears["transformer_blocks.0.norm1.linear"], FrozenLinear)


def test_latents_are_shifted_scaled_posterior_samples(vae: Any, stock_fp32: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    latents = vae.encode(pixels, ["one", "two"])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    config = stock_fp32.vae.config
    with torch.no_grad():
        posterior = stock_fp32.vae.encode(x).latent_dist
    noise = ((latents / config.scaling_factor + config.shift_factor) - posterior.mean) / posterior.std
    assert latents.shape == (2, 16, 8, 12)
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(vae.encode(pixels[1:], ["two"]), latents[1:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(vae.encode(pixels[1:], ["other"]), latents[1:], atol=1e-3)


def test_sample_is_the_stock_pipelines_picture(
    family: SD3, files: ModelFiles, make_settings: MakeSettings, transformer: Any, vae: Any, stock_fp32: Any
) -> None:
    encoders = family.load_text_encoders(files, make_settings(), CPU)
    request = _request(encoders.encode(["a red cat"]), encoders.encode(["blurry"]))
    ours = _picture(family, files, transformer, vae, request)
    theirs = stock_fp32(
        "a red cat",
        negative_prompt="blurry",
        width=128,
        height=96,
        num_inference_steps=4,
        guidance_scale=5.0,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(7),
        skip_guidance_layers=[1],
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.01,
        skip_layer_guidance_stop=0.7,
        output_type="pil",
    ).images[0]
    assert ours.dtype == np.uint8
    assert ours.shape == (96, 128, 3)
    difference = np.abs(ours.astype(int) - np.asarray(theirs))
    assert difference.max() <= 1  # rounded the other way
    assert difference.mean() < 0.01
    plain = _picture(family, files, transformer, vae, replace(request, skip_layers=None))
    assert not np.array_equal(plain, ours), "skip-layer guidance must change the picture"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_samples_are_pictures(
    family: SD3, files: ModelFiles, make_settings: MakeSettings, precision: str
) -> None:
    settings = make_settings(mixed_precision=precision)
    text = _random_text(2, DTYPES[precision])
    request = _request(
        *(TextEncoding(text.prompt_embeds[i : i + 1], text.pooled_prompt_embeds[i : i + 1]) for i in (0, 1))
    )
    transformer, vae = family.load_transformer(files, settings, CPU), family.load_vae(files, settings, CPU)
    assert _picture(family, files, transformer, vae, request).std() > 5


def test_image_tokens(family: SD3) -> None:
    assert family.image_tokens(1024, 1024) == 4096
    assert family.image_tokens(128, 96) == 48


def test_lora_file_holds_the_state_and_its_metadata(family: SD3, tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    path = family.save_lora(tmp_path, {name: torch.ones(4, 192)}, {"alpha": "4"})
    with safe_open(path, "pt") as saved:
        assert list(saved.keys()) == [name]
        assert saved.metadata() == {"format": "pt", "alpha": "4"}


class TestIdentity:
    """What a cached text encoding or latent depends on changes its identity, and nothing else does."""

    @pytest.fixture
    def copy(self, tiny_model: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / "copy"))

    def test_a_copy_elsewhere_is_the_same(
        self, family: SD3, files: ModelFiles, make_settings: MakeSettings, copy: Path
    ) -> None:
        moved = family.locate(make_settings(pretrained_model_name_or_path=str(copy)))
        assert family.text_identity(moved, make_settings()) == family.text_identity(files, make_settings())
        assert family.vae_identity(moved, make_settings()) == family.vae_identity(files, make_settings())

    @pytest.mark.parametrize(
        "change",
        [
            {"tokenizer_max_length": 33},
            {"mixed_precision": "bf16"},
            {"text_encoder_1_precision": "int8-quanto"},
            {"text_encoder_3_precision": "int8-quanto"},
            {"use_t5": False},
        ],
    )
    def test_settings_that_change_text(
        self, family: SD3, files: ModelFiles, make_settings: MakeSettings, change: dict[str, Any]
    ) -> None:
        assert family.text_identity(files, make_settings(**change)) != family.text_identity(files, make_settings())

    def test_settings_that_change_nothing(self, family: SD3, files: ModelFiles, make_settings: MakeSettings) -> None:
        other = make_settings(base_model_precision="int8-quanto", learning_rate=1.0, tokenizer_max_length=32)
        assert family.text_identity(files, other) == family.text_identity(files, make_settings())
        assert family.vae_identity(files, other) == family.vae_identity(files, make_settings())
        half = make_settings(mixed_precision="bf16")
        assert family.vae_identity(files, half) != family.vae_identity(files, make_settings())

    @pytest.mark.parametrize(
        ("part", "changed"),
        [("text_encoder_3/model.safetensors", "text"), ("tokenizer_2/tokenizer.json", "text"), ("vae", "latent")],
    )
    def test_files_that_change_it(
        self, family: SD3, files: ModelFiles, make_settings: MakeSettings, copy: Path, part: str, changed: str
    ) -> None:
        path = copy / part if part != "vae" else copy / "vae" / "diffusion_pytorch_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))
        settings, moved = make_settings(), replace(files, root=copy)
        texts = family.text_identity(moved, settings), family.text_identity(files, settings)
        latents = family.vae_identity(moved, settings), family.vae_identity(files, settings)
        assert (texts[0] != texts[1], latents[0] != latents[1]) == (changed == "text", changed == "latent")

    def test_notes_of_libraries_do_not_count(
        self, family: SD3, files: ModelFiles, make_settings: MakeSettings, copy: Path
    ) -> None:
        config = json.loads((copy / "vae" / "config.json").read_text())
        (copy / "vae" / "config.json").write_text(json.dumps(config | {"_diffusers_version": "9.9"}))
        settings = make_settings()
        assert family.vae_identity(replace(files, root=copy), settings) == family.vae_identity(files, settings)


def test_loading_tells_the_reporter_its_bytes(family: SD3, files: ModelFiles, make_settings: MakeSettings) -> None:
    reporter = _Recorder()
    family.load_transformer(files, make_settings(), CPU, reporter)  # type: ignore[arg-type]
    (title, total, unit, amount) = reporter.phases[0]
    assert title == "loading transformer"
    assert unit == "B"
    assert total * 0.99 < amount <= total


class _Recorder:
    """A reporter that remembers its phases as [title, total, unit, amount]."""

    def __init__(self) -> None:
        self.phases: list[list[Any]] = []

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Any]:
        self.phases.append([title, total, unit, done])
        yield self

    def advance(self, amount: float = 1, **shown: str) -> None:
        self.phases[-1][3] += amount


def _stock_encoding(pipeline: Any, tokens: int) -> TextEncoding:
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(
            CAPTIONS, None, None, do_classifier_free_guidance=False, max_sequence_length=tokens
        )
    return TextEncoding(states, pooled)


def _random_text(count: int, dtype: torch.dtype) -> TextEncoding:
    generator = torch.Generator().manual_seed(0)
    return TextEncoding(
        torch.randn(count, 64, 320, generator=generator).to(dtype),
        torch.randn(count, 288, generator=generator).to(dtype),
    )


def _picture(
    family: SD3, files: ModelFiles, transformer: Any, vae: Any, request: SamplingRequest
) -> np.ndarray[Any, Any]:
    sampler = family.sampler(files, transformer, CPU, Way(captured=False, compiled=False), lambda _line: None)
    return vae.decode(sampler.latents(request))[0]


def _request(encoding: TextEncoding, negative: TextEncoding) -> SamplingRequest:
    return SamplingRequest(
        encoding=encoding,
        negative=negative,
        width=128,
        height=96,
        seeds=(7,),
        steps=4,
        guidance=5.0,
        skip_layers=(1,),
        skip_layers_start=0.01,
        skip_layers_stop=0.7,
        skip_layers_scale=2.8,
    )
