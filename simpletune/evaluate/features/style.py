"""CSD's style descriptor: a CLIP vision transformer with a projection that was trained on artists' styles.

Somepalli et al. 2024, "Measuring Style Similarity in Diffusion Models", arXiv 2404.01292. Its weights are published as
a pickle, which isn't read here: they are taken as .safetensors, with their own keys ("backbone.conv1.weight", ...,
"last_layer_style"), with or without "module." before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from simpletune import files, outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable
from simpletune.evaluate.features.preprocess import Preprocessing

CODE = 1
_HEAD, _BACKBONE = "last_layer_style", "backbone."
_HEAD_WIDTH = 64  # of every CLIP vision transformer's attention heads
_OUTER = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_HINT = "convert the checkpoint of CSD to .safetensors, keys unchanged"


class Csd:
    """The style descriptor, from one .safetensors file or a folder that has one."""

    name = "csd"

    def __init__(self, place: Path, device: torch.device) -> None:
        """Looks at the file without loading it. Raises ModelUnavailable for one that isn't CSD's."""
        self._file, self._device = _only_file(place), device
        shapes = _shapes(self._file)
        self._hidden, _, _, self._patch = shapes[_BACKBONE + "conv1.weight"]
        self._side = self._patch * round((shapes[_BACKBONE + "positional_embedding"][0] - 1) ** 0.5)
        self._layers = len([key for key in shapes if key.endswith(".ln_1.weight")])
        self._wide = shapes[_BACKBONE + "transformer.resblocks.0.mlp.c_fc.weight"][0]
        self._prepare = Preprocessing(
            short=self._side,
            exact=None,
            crop=(self._side, self._side),
            resample=Image.Resampling.BICUBIC,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
        self.model = self._file.name
        self.identity = f"csd {CODE} {files.sha256(self._file)}"
        self.preprocessing = str(self._prepare)

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        network, head_HD = self._loaded
        pooled_BH: Tensor = network(pixel_values=self._prepare(images).to(self._device)).pooler_output
        return torch.nn.functional.normalize(pooled_BH.float() @ head_HD, dim=1).cpu()

    def release(self) -> None:
        vars(self).pop("_loaded", None)

    @cached_property
    def _loaded(self) -> tuple[Any, Tensor]:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        with safe_open(self._file, framework="pt") as opened:
            tensors = {_plain(key): opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
        config = CLIPVisionConfig(
            hidden_size=self._hidden,
            intermediate_size=self._wide,
            num_hidden_layers=self._layers,
            num_attention_heads=max(1, self._hidden // _HEAD_WIDTH),
            image_size=self._side,
            patch_size=self._patch,
            hidden_act="quick_gelu",
        )
        network = CLIPVisionModel(config)
        prefix = "vision_model." if any(key.startswith("vision_model.") for key in network.state_dict()) else ""
        renamed = {prefix + key: tensor for key, tensor in _renamed(tensors).items()}
        wanted = {key for key in network.state_dict() if not key.endswith("position_ids")}
        if wanted != renamed.keys():
            odd = ", ".join(sorted(wanted ^ renamed.keys())[:3])
            raise ModelUnavailable(f"--csd: {self._file} isn't whole: {odd}", _HINT)
        network.load_state_dict(renamed, strict=False)
        return network.to(self._device).eval().requires_grad_(False), tensors[_HEAD].to(self._device)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors by the keys of transformers' CLIP; the joint projection of q, k and v as three."""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_BACKBONE):
            continue
        key = key.removeprefix(_BACKBONE)
        if key in _OUTER:
            named[_OUTER[key]] = tensor
            continue
        number, _, rest = key.removeprefix("transformer.resblocks.").partition(".")
        layer = f"encoder.layers.{number}."
        if rest.startswith("attn.in_proj_"):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                named[f"{layer}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}"] = piece
        else:
            stem, _, kind = rest.rpartition(".")
            named[f"{layer}{_INNER.get(stem, stem)}.{kind}"] = tensor
    return named


def _only_file(place: Path) -> Path:
    place = place.expanduser()
    if place.is_dir():
        found = sorted(place.glob("*.safetensors"))
        if len(found) != 1:
            pickled = [] if found else outside.pickles_in(place)
            message = f"--csd: {place} has {len(found)} .safetensors files instead of one"
            raise ModelUnavailable(message, outside.conversion(pickled) if pickled else _HINT)
        return found[0]
    if not place.is_file():
        raise ModelUnavailable(f"--csd: there is no file {place}", _HINT)
    return place


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, by their keys. Raises ModelUnavailable where CSD's are missing."""
    if outside.is_pickle(file):
        raise ModelUnavailable(f"--csd: {file} is a pickle", outside.conversion([file]))
    try:
        outside.check_tensors(file)
        with safe_open(file, framework="pt") as opened:
            shapes = {_plain(key): tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelUnavailable(f"--csd: {file} can't be read as .safetensors: {in_words(error)}", _HINT) from error
    needed = [f"{_BACKBONE}{key}" for key in ("conv1.weight", "positional_embedding")]
    missing = [
        key for key in (_HEAD, *needed, f"{_BACKBONE}transformer.resblocks.0.mlp.c_fc.weight") if key not in shapes
    ]
    if missing:
        raise ModelUnavailable(f"--csd: {file} has no {missing[0]}: it isn't CSD's", _HINT)
    return shapes


def _plain(key: str) -> str:
    return key.removeprefix("module.")
