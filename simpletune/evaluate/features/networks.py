"""CLIP and DINOv2 as describers, through transformers, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from simpletune.errors import ModelUnavailable
from simpletune.evaluate.features.locate import identity, read_config
from simpletune.evaluate.features.preprocess import read_preprocessing
from simpletune.models.captioning import first_line, quiet

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
CODE = 1
"""Counts up when the same model's features come out otherwise."""


class _Network:
    """What both have: files, looked at when it is made; weights, loaded when they are first needed."""

    name = ""

    def __init__(self, folder: Path, model: str, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._prepare = read_preprocessing(folder)
        self.model = model
        self.identity = f"{self.name} {CODE} {identity(folder)}"
        self.preprocessing = str(self._prepare)

    def release(self) -> None:
        vars(self).pop("_network", None)

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return self._prepare(images).to(self._device)

    def _loaded(self, kind: Any) -> Any:
        network, found = _from_folder(kind, self._folder)
        if found["missing_keys"]:
            first = ", ".join(sorted(found["missing_keys"])[:3])
            raise ModelUnavailable(f"{self._folder} lacks weights: {first}", "take all files of the model")
        return network.to(self._device).eval().requires_grad_(False)


class Clip(_Network):
    """CLIP's embeddings of pictures and texts, in one space. Radford et al. 2021, arXiv 2103.00020."""

    name = "clip"

    def __init__(self, folder: Path, model: str, device: torch.device) -> None:
        super().__init__(folder, model, device)
        self._tokenizer = _tokenizer(folder)
        self._length = int(read_config(folder).get("text_config", {}).get("max_position_embeddings", 77))

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        return _embedding(self._network.get_image_features(pixel_values=self._pixels(images)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Each text alone, cut to the length that the model reads."""
        rows = []
        for text in texts:
            tokens = self._tokenizer(text, truncation=True, max_length=self._length, return_tensors="pt")
            mask = tokens.get("attention_mask")
            rows.append(
                _embedding(
                    self._network.get_text_features(
                        input_ids=tokens["input_ids"].to(self._device),
                        attention_mask=None if mask is None else mask.to(self._device),
                    )
                )
            )
        return torch.cat(rows)

    @cached_property
    def _network(self) -> Any:
        from transformers import CLIPModel

        return self._loaded(CLIPModel)


class Dino(_Network):
    """DINOv2's class token, after the last layer's norm. Oquab et al. 2023, arXiv 2304.07193."""

    name = "dino"

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        states: Tensor = self._network(pixel_values=self._pixels(images)).last_hidden_state
        return states[:, 0].float().cpu()

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModel

        return self._loaded(AutoModel)


def _tokenizer(folder: Path) -> Any:
    """Raises ModelUnavailable where its vocabulary is missing: transformers would make an empty one up."""
    from transformers import AutoTokenizer

    hint = "take all files of the model"
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        raise ModelUnavailable(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt", hint)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError) as error:
        raise ModelUnavailable(f"the tokenizer in {folder} can't be used: {first_line(error)}", hint) from error


def _from_folder(kind: Any, folder: Path) -> Any:
    from safetensors import SafetensorError

    try:
        with quiet():
            return kind.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:  # RecursionError is one
        message = f"the model in {folder} can't be loaded: {first_line(error)}"
        raise ModelUnavailable(message, "take all files of the model, unchanged") from error


def _embedding(answer: Any) -> Tensor:
    """(B, D): what some versions of transformers give as it is, and others inside of all outputs."""
    tensor: Tensor = answer if isinstance(answer, Tensor) else answer.pooler_output
    return tensor.float().cpu()
