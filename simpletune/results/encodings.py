"""What a model is told of prompts: from the run's cache where it is there, else from the text encoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from simpletune.data.caches.cache import TensorCache
from simpletune.data.caches.entries import text_key
from simpletune.errors import DataError
from simpletune.models.family import Family, ModelFiles, TextEncoding
from simpletune.models.memory import release

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.progress import Reporter


def encode_prompts(
    prompts: Iterable[str],
    settings: Settings,
    family: Family,
    files: ModelFiles,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, TextEncoding]:
    """Each prompt's encoding, B = 1, on the CPU.

    A prompt that the run was trained or validated with is read from the run's text cache, so that its picture is the
    trainer's to the last bit. The others are encoded one by one, as numbers differ in their last bits with a batch's
    shape: what a prompt gives doesn't depend on what else is asked for. The cache is not written: to a later training
    they would be entries made in another batch. The encoders are gone when this returns.

    Raises DataError when an encoder gives a number that isn't finite.
    """
    wanted = list(dict.fromkeys(prompts))
    found = _cached(wanted, settings, family, files)
    missing = [prompt for prompt in wanted if prompt not in found]
    if missing:
        encoders = family.load_text_encoders(files, settings, device, reporter)
        with reporter.phase("Encoding prompts", len(missing), "prompt") as phase:
            alone = encoders.encode_batches([[prompt] for prompt in missing])
            for prompt, encoding in zip(missing, alone, strict=True):
                found[prompt] = _on_host(encoding, prompt)
                phase.advance()
        del encoders
        release(device)
    return found


def _cached(prompts: Iterable[str], settings: Settings, family: Family, files: ModelFiles) -> dict[str, TextEncoding]:
    identity = family.text_identity(files, settings)
    cache = TensorCache(next(entry for entry in settings.text_embeds if entry.default).cache_dir)
    found = {}
    for prompt in prompts:
        tensors = cache.get(text_key(prompt, identity))
        if tensors is not None:
            found[prompt] = family.unpack_text(tensors)
    return found


def _on_host(encoding: TextEncoding, prompt: str) -> TextEncoding:
    for tensor in (encoding.prompt_embeds, encoding.pooled_prompt_embeds):
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"encoding the prompt {prompt[:60]!r} gave numbers that aren't finite",
                "with mixed_precision fp16, use bf16 or no; otherwise the model's files may be damaged",
            )
    return TextEncoding(encoding.prompt_embeds.cpu(), encoding.pooled_prompt_embeds.cpu())
