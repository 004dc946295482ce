"""Exports, each read back by rules written here: MMDiT's names and what diffusers' own converter makes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import original_layout

from simpletune.cli.main import run
from simpletune.config.builtin import tiny_folder
from simpletune.models.adapters import attach_factors
from simpletune.models.lora_file import FILE_NAME, Factors, metadata, read_adapter
from simpletune.results.export.layouts import header, tensors
from simpletune.results.export.rank import error_in_all, reduce

PREFIXES = {"comfyui": "diffusion_model.", "original": "", "kohya": "lora_unet_"}
State = dict[str, Tensor]


# --- reading back


def with_adapter(base: State, blocks: int, layout: str, file: State) -> State:
    """A model's diffusers weights with an exported LoRA in them, by way of the original layout."""
    old = original_layout.transformer(base, blocks)
    names = {name.removesuffix(".weight"): name for name in old if name.endswith(".weight")}
    if layout == "kohya":
        names = {name.replace(".", "_"): stored for name, stored in names.items()}
    modules = {key.removesuffix(".alpha") for key in file if key.endswith(".alpha")}
    assert len(file) == 3 * len(modules), "a down, an up and an alpha for each"
    for module in modules:
        down, up = file[f"{module}.lora_down.weight"].float(), file[f"{module}.lora_up.weight"].float()
        stored = names[module.removeprefix(PREFIXES[layout])]
        assert module.startswith(PREFIXES[layout])
        old[stored] = old[stored] + up @ down * (file[f"{module}.alpha"].item() / len(down))
    return convert_sd3_transformer_checkpoint_to_diffusers(dict(old))


def outputs(transformer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    config = transformer.config
    with torch.no_grad():
        return transformer(
            torch.randn(2, config.in_channels, 8, 8, generator=generator).to(transformer.dtype),
            torch.randn(2, 5, config.joint_attention_dim, generator=generator).to(transformer.dtype),
            torch.randn(2, config.pooled_projection_dim, generator=generator).to(transformer.dtype),
            torch.tensor([30.0, 700.0]),
            return_dict=False,
        )[0].float()


def noise(transformer: nn.Module, ranks: tuple[int, ...] = (4,), only: str = "") -> dict[str, Factors]:
    """An adapter of random numbers on the linear layers whose names hold `only`, in turn of each rank."""
    generator = torch.Generator().manual_seed(1)
    linear = [(n, m) for n, m in transformer.named_modules() if isinstance(m, nn.Linear) and only in n]
    found = {}
    for index, (name, layer) in enumerate(linear):
        rank = ranks[index % len(ranks)]
        a = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        found[name] = Factors(a, torch.randn(layer.out_features, rank, generator=generator) * 0.1)
    return found


# --- layouts


@pytest.fixture(scope="module")
def model() -> SD3Transformer2DModel:
    """Three blocks as SD3.5-Medium has them: a second attention in some, normalized queries and keys."""
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=20, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0, 1), qk_norm="rms_norm",
    ).eval()  # fmt: skip


@pytest.mark.parametrize("layout", ["comfyui", "kohya", "original"])
@pytest.mark.parametrize("only", ["", "attn.to_q", "attn.add_v_proj", "norm1_context"])
def test_every_layer_of_every_layout_is_the_trained_product(
    model: SD3Transformer2DModel, layout: str, only: str
) -> None:
    factors = noise(model, ranks=(1, 3, 2), only=only)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = with_adapter(base, 3, layout, tensors(factors, layout, 2, torch.float32))
    for name, tensor in base.items():
        factor = factors.get(name.removesuffix(".weight"))
        expected = tensor if factor is None or name.endswith("bias") else tensor + factor.b @ factor.a
        torch.testing.assert_close(made[name], expected, rtol=1e-5, atol=1e-6)


def test_diffusers_reads_its_layout_with_different_ranks(model: SD3Transformer2DModel, tmp_path: Path) -> None:
    factors = noise(model, ranks=(1, 3, 2), only="transformer_blocks")
    made = tensors(factors, "diffusers", 2, torch.float32)
    save_file(made, tmp_path / FILE_NAME, header(factors, "diffusers"))
    stock = SD3Transformer2DModel.from_config(model.config).eval()
    stock.load_state_dict(model.state_dict())
    stock.load_lora_adapter(tmp_path, weight_name=FILE_NAME, prefix="transformer")
    merged = SD3Transformer2DModel.from_config(model.config).eval()
    state = model.state_dict()
    merged.load_state_dict({
        name: tensor + factors[m].b @ factors[m].a if (m := name.removesuffix(".weight")) in factors else tensor
        for name, tensor in state.items()
    })  # fmt: skip
    torch.testing.assert_close(outputs(stock), outputs(merged), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(merged), outputs(model), atol=1e-2)


# --- ranks


def test_a_lower_rank_is_the_best_there_is_and_its_error_is_said(model: SD3Transformer2DModel) -> None:
    factors = noise(model, ranks=(6,), only="ff.net.0.proj")
    layers = {name: reduce(factor, 2) for name, factor in factors.items()}
    lost = whole = 0.0
    for name, factor in factors.items():
        product = factor.b @ factor.a
        new = layers[name].factors.b @ layers[name].factors.a
        singular = torch.linalg.svdvals(product.double())
        assert (product - new).norm().item() == pytest.approx(singular[2:].norm().item(), rel=1e-4)
        assert layers[name].error == pytest.approx(((product - new).norm() / product.norm()).item(), rel=1e-4)
        lost, whole = lost + (product - new).norm().item() ** 2, whole + product.norm().item() ** 2
        assert len(layers[name].factors.a) == 2
    assert error_in_all(layers) == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    half = reduce(factors[name], None, max_error=0.5)
    kept = len(half.factors.a)
    assert half.error <= 0.5 < (singular[kept - 1 :].norm() / singular.norm()).item()
    assert reduce(factors[name], 99).factors is factors[name], "a rank is never raised"
    nothing = Factors(torch.zeros(4, 8), torch.zeros(8, 4))
    assert reduce(nothing, 2).error == 0


# --- the command, on the built-in model


@pytest.fixture(scope="module")
def tiny() -> SD3Transformer2DModel:
    return SD3Transformer2DModel.from_pretrained(tiny_folder(), subfolder="transformer").eval()


@pytest.fixture
def folder(tiny: SD3Transformer2DModel, tmp_path: Path) -> Path:
    """A run's folder: an adapter with rank-stabilized scale, alpha 6, and what pissa started from in some layers."""
    made: State = {}
    for index, (name, factor) in enumerate(noise(tiny, only="transformer_blocks").items()):
        made |= {f"transformer.{name}.lora_A.weight": factor.a, f"transformer.{name}.lora_B.weight": factor.b}
        if index % 2:
            made |= {f"transformer.{name}.initial_a": factor.a * 0.5, f"transformer.{name}.initial_b": factor.b.clone()}
    said = {"simpletune": json.dumps({"model_flavour": "tiny", "steps": 8})}
    save_file(made, tmp_path / FILE_NAME, metadata(4, 6.0, True, []) | said)
    config = {"model_flavour": "tiny", "pretrained_model_name_or_path": None, "revision": None, "hf_endpoint": None}
    (tmp_path / "run.json").write_text(json.dumps({"config": {key: {"value": v} for key, v in config.items()}}))
    return tmp_path


def adapted(tiny: SD3Transformer2DModel, file: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the model with the adapter computes in the trainer's own way."""
    model = SD3Transformer2DModel.from_config(tiny.config).eval()
    model.load_state_dict(tiny.state_dict())
    model.to(dtype)
    attach_factors(model, read_adapter(file))
    return outputs(model)


@pytest.mark.parametrize("layout", ["comfyui", "kohya", "original"])
def test_an_exported_adapter_computes_what_the_trained_one_does(
    folder: Path, tiny: SD3Transformer2DModel, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(folder), "--to", layout]) == 0
    made = folder / f"step-000008-{layout}.safetensors"
    assert made.name in capsys.readouterr().out
    model = SD3Transformer2DModel.from_config(tiny.config).eval()
    model.load_state_dict(with_adapter(tiny.state_dict(), 4, layout, load_file(made)))
    torch.testing.assert_close(outputs(model), adapted(tiny, folder), rtol=1e-4, atol=1e-4)
    assert (outputs(model) - outputs(tiny)).abs().max() > 0.05


def test_a_merged_model_that_fp16_cannot_hold_is_not_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = load_file(folder / FILE_NAME)
    name = next(name for name in made if name.endswith("lora_B.weight"))
    save_file(made | {name: made[name] * 1e7}, folder / FILE_NAME, metadata(4, 6.0, True, []))
    assert run(["export", str(folder), "--to", "merged", "--dtype", "fp16"]) == 2
    assert "beyond what fp16 has" in capsys.readouterr().err
    assert not list(folder.glob("*merged*"))


def test_the_merged_model_is_base_and_adapter_to_rounding(folder: Path, tiny: SD3Transformer2DModel) -> None:
    assert run(["export", str(folder), "--to", "merged"]) == 0
    merged = SD3Transformer2DModel.from_pretrained(folder / "step-000008-merged", torch_dtype=torch.bfloat16).eval()
    factors = read_adapter(folder)
    for name, tensor in tiny.state_dict().items():
        factor = factors.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        exact = tensor if factor is None else tensor + factor.b @ factor.a
        assert torch.equal(merged.state_dict()[name], exact.bfloat16()), name
    reference = adapted(tiny, folder)
    rounding = (adapted(tiny, folder, torch.bfloat16) - reference).norm() / reference.norm()
    assert (outputs(merged) - reference).norm() / reference.norm() < 2 * rounding
    single = folder / "one.safetensors"
    assert run(["export", str(folder), "--to", "merged", "--output", str(single)]) == 0
    old = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in load_file(single).items()}
    back = convert_sd3_transformer_checkpoint_to_diffusers(old)
    assert back.keys() == merged.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in merged.state_dict().items())


def test_ranks_are_reduced_and_what_is_lost_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(folder), "--to", "diffusers", "--dtype", "fp16"]
    assert run([*command, "--rank", "2", "--each-layer"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("rank 2: off by ")
    made = folder / "step-000008-diffusers-rank2.safetensors"
    new, old = read_adapter(made), read_adapter(folder)
    lost = sum(float((new[name].b @ new[name].a - f.b @ f.a).norm()) ** 2 for name, f in old.items())
    whole = sum(float((f.b @ f.a).norm()) ** 2 for f in old.values())
    assert float(said[1].split()[4].rstrip("%")) == pytest.approx(100 * (lost / whole) ** 0.5, abs=0.02)
    assert len(said) == 3 + len(new)
    assert load_file(made)["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].dtype == torch.float16
    assert run([*command, "--rank", "1", "--max-error", "0.01"]) == 2
    assert "at rank 1 the adapter is off by" in capsys.readouterr().err
    assert run([*command, "--max-error", "0.6", "--output", str(folder / "a.safetensors")]) == 0
    assert "ranks " in capsys.readouterr().out


# --- bad input


def changed(folder: Path, **changes: Any) -> None:
    """Write the run's adapter anew with other tensors, or another flavour in its header."""
    file = folder / FILE_NAME
    with safe_open(file, framework="pt") as opened:
        said = opened.metadata()
    state = load_file(file)
    if flavour := changes.pop("flavour", None):
        said["simpletune"] = json.dumps({"model_flavour": flavour})
    save_file({**state, **changes}, file, said)


def nan(folder: Path) -> None:
    key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    changed(folder, **{key: torch.full((4, 160), torch.nan)})


def other_shape(folder: Path) -> None:
    key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    changed(folder, **{key: torch.zeros(4, 1536)})


def flux(folder: Path) -> None:
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    save_file({f"{name}.lora_A.weight": torch.zeros(4, 160), f"{name}.lora_B.weight": torch.zeros(160, 4)},
              folder / FILE_NAME)  # fmt: skip


BAD = {
    "NaN": (nan, [], 2, "holds NaN or infinity in transformer_blocks.0.attn.to_q"),
    "another model": (lambda f: changed(f, flavour="sd3-medium"), [], 2, "was trained for sd3-medium, not for tiny"),
    "another width": (other_shape, [], 2, "is 1536 to 160 wide, the model's 160 to 160"),
    "another kind": (flux, [], 2, "it seems to be for FLUX, and was read as one for tiny"),
    "unreadable": (lambda f: (f / FILE_NAME).write_bytes(b"{}"), [], 2, "can't be read"),
    "no LoRA": (lambda f: save_file({"a": torch.zeros(2)}, f / FILE_NAME), [], 2, "is not a LoRA of diffusers' layout"),
    "nothing there": (lambda f: (f / FILE_NAME).unlink(), [], 2, "there is no trained adapter"),
    "no such file": (lambda f: None, ["--adapter", "x.safetensors"], 2, "there is no file x.safetensors"),
    "no such step": (lambda f: None, ["--adapter", "3"], 2, "has no checkpoint of step 3"),
    "another flavour": (lambda f: None, ["--flavour", "sd3-medium"], 2, "was trained for tiny, not for sd3-medium"),
    "there already": (lambda f: (f / "x.safetensors").touch(), ["--output", "x.safetensors"], 2, "is there already"),
    "a folder": (lambda f: (f / "x.safetensors").mkdir(), ["--output", "x.safetensors", "--force"], 2, "a folder is"),
    "no name": (lambda f: None, ["--output", "x.bin"], 2, "must end in .safetensors"),
    "a file to merge into": (
        lambda f: (f / "x.json").touch(),
        ["--to", "merged", "--output", "x.json", "--force"],
        2,
        "x.json is a file",
    ),
    "itself": (lambda f: None, ["--output", FILE_NAME, "--force"], 2, "is the adapter itself"),
    "no adapter": (lambda f: None, ["--adapter", "none"], 2, "nothing to export"),
}


@pytest.mark.parametrize(("spoil", "options", "code", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_explained_and_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spoil: Any, options: list[str], code: int, said: str,
) -> None:  # fmt: skip
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.chdir(folder)
    assert run(["export", str(folder), "--to", "kohya", *options]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "none" not in error.partition("hint: ")[2]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_full_disk_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    (folder / "x.safetensors").write_text("earlier")
    assert run(["export", str(folder), "--to", "kohya", "--output", str(folder / "x.safetensors"), "--force"]) == 3
    said = capsys.readouterr().err
    assert "can't be written" in said
    assert "free some space" in said
    assert (folder / "x.safetensors").read_text() == "earlier"
    assert not list(folder.glob("*.tmp*"))


def test_a_file_alone_needs_its_model_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.json").unlink()
    file = folder / FILE_NAME
    assert run(["export", str(file), "--to", "merged"]) == 2
    assert "its base isn't known" in capsys.readouterr().err
    state = load_file(file)
    save_file(state, folder / "bare.safetensors")
    assert run(["export", str(folder / "bare.safetensors"), "--to", "original"]) == 2
    assert "doesn't say which model it is for" in capsys.readouterr().err
    assert run(["export", str(folder / "bare.safetensors"), "--to", "original", "--flavour", "tiny"]) == 0
    assert (folder / "bare-original.safetensors").is_file()
