"""DoRA, LoHa and LoKr exported for ComfyUI: put into the weights by its rules, they compute what was trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from adapter_kinds import lycoris, settings, shake
from test_results_export import outputs

from simpletune.cli.main import run
from simpletune.config.builtin import tiny_folder
from simpletune.models.adapters import attach_factors, attach_lora, final_state
from simpletune.models.lora_file import FILE_NAME, read_adapter

# Among them the two modulations whose halves ComfyUI keeps the other way round.
LAYERS = ["*.attn.to_q", "*.attn.add_v_proj", "*.ff.net.*", "*.norm1_context.linear", "norm_out.linear"]
PRESET = {"target_module": ["JointTransformerBlock", "AdaLayerNormContinuous"]}
KINDS = {
    "dora": {"lora_target": LAYERS},
    "loha": {**lycoris("loha", apply_preset=PRESET)},
    "lokr": {**lycoris("lokr", factor=4, linear_dim=2, apply_preset=PRESET)},
    "lokr-whole": {**lycoris("lokr", factor=8, linear_dim=10000, linear_alpha=1, apply_preset=PRESET)},
}


def swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def change(found: dict[str, Tensor]) -> tuple[Tensor, float]:
    """(O, I) without its scale, and the scale: alpha by the inner width, 1 where there is none."""
    alpha = found["alpha"].item()
    if "lora_up.weight" in found:
        return found["lora_up.weight"] @ found["lora_down.weight"], alpha / len(found["lora_down.weight"])
    if "hada_w1_a" in found:
        first, second = (found[f"hada_w{n}_a"] @ found[f"hada_w{n}_b"] for n in "12")
        return first * second, alpha / len(found["hada_w1_b"])
    inner = next((len(found[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in found), None)
    first, second = (
        found[name] if name in found else found[f"{name}_a"] @ found[f"{name}_b"] for name in ("lokr_w1", "lokr_w2")
    )
    return torch.kron(first, second.contiguous()), alpha / inner if inner else 1.0


def in_comfyui(base: dict[str, Tensor], file: dict[str, Tensor], last_block: int) -> dict[str, Tensor]:
    """The model's weights with the file in them. A DoRA's lengths are divided by those of the stored weight's rows."""
    turned = {"norm_out.linear", f"transformer_blocks.{last_block}.norm1_context.linear"}
    modules = {name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight") for name in base}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.items():
        flat, _, short = key.removeprefix("lycoris_").partition(".")
        layers.setdefault(modules[flat], {})[short] = tensor.float()
    made = dict(base)
    for module, found in layers.items():
        turn = swapped if module in turned else lambda tensor: tensor
        stored, (difference, scale) = turn(base[f"{module}.weight"]), change(found)
        result = stored + turn(difference * scale)
        if "dora_scale" in found:
            result = result * (found["dora_scale"] / stored.norm(dim=1, keepdim=True))
        made[f"{module}.weight"] = turn(result)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_comfyui_computes_what_was_trained(kind: str, tmp_path: Path) -> None:
    tiny = SD3Transformer2DModel.from_pretrained(tiny_folder(), subfolder="transformer").eval()
    base = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    with torch.no_grad():
        plain = outputs(tiny)
        of = settings(kind, **KINDS[kind])
        attach_lora(tiny, of)
        shake(tiny, 0.05)
        state, header = final_state(tiny, of)
    said = {"simpletune": json.dumps({"model_flavour": "tiny", "steps": 8})}
    save_file(state, tmp_path / FILE_NAME, {**header, **said})
    config = {"model_flavour": "tiny", "pretrained_model_name_or_path": None, "revision": None, "hf_endpoint": None}
    (tmp_path / "run.json").write_text(json.dumps({"config": {key: {"value": v} for key, v in config.items()}}))
    assert run(["export", str(tmp_path), "--to", "comfyui"]) == 0
    made = SD3Transformer2DModel.from_config(tiny.config).eval()
    exported = load_file(next(tmp_path.glob("*comfyui*.safetensors")))
    made.load_state_dict(in_comfyui(base, exported, tiny.config.num_layers - 1))
    expected = SD3Transformer2DModel.from_config(tiny.config).eval()
    expected.load_state_dict(base)
    attach_factors(expected, read_adapter(tmp_path))
    moved = (outputs(expected) - plain).abs().max()
    assert moved > 0.05
    assert (outputs(made) - outputs(expected)).abs().max() < 1e-3 * moved
