"""What a run trains on, encoded: latents and text in the caches, and the plan over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simpletune.config.settings import ImageSet, Settings, TextEmbeds
from simpletune.data.cache import TensorCache
from simpletune.data.encode import fill_latent_cache, fill_text_cache
from simpletune.data.plan import Plan, bucketed, split_eval
from simpletune.data.preflight import Preflight
from simpletune.data.scan import Sample
from simpletune.models.family import Family, ModelFiles, TextEncoding
from simpletune.progress import Reporter
from simpletune.trainer import validation
from simpletune.trainer.manifest import data_manifest
from simpletune.trainer.processes import Processes

EMPTY_CAPTION = ""


@dataclass(frozen=True)
class Material:
    """Everything encoded, by content key, and the order it is trained in."""

    files: ModelFiles
    trained: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    plan: Plan
    latent_keys: Mapping[tuple[str, str], str]  # (set id, name) -> key
    text_keys: Mapping[str, str]  # caption -> key
    latent_caches: Mapping[str, TensorCache]  # set id -> cache
    text_caches: Mapping[str, TensorCache]  # set id -> cache
    prompt_cache: TensorCache
    manifest: Mapping[str, Any]

    def text(self, caption: str, device: torch.device) -> TextEncoding:
        """The encoding of a prompt or of the empty caption, B = 1."""
        entry = self.prompt_cache.require(self.text_keys[caption])
        return TextEncoding(
            entry["prompt_embeds"][None].to(device), entry["pooled_prompt_embeds"][None].to(device)
        )


def gather(
    settings: Settings, preflight: Preflight, family: Family, processes: Processes, reporter: Reporter
) -> Material:
    """Find the model, encode what is not cached yet, and lay out the order. The main process encodes for all."""
    if processes.is_main:
        files = family.locate(settings, reporter)
        _encode(settings, preflight, family, files, processes, reporter)
    processes.wait()
    files = family.locate(settings, reporter)
    latent_keys, text_keys = _encode(settings, preflight, family, files, processes, reporter)
    return _material(settings, preflight, files, latent_keys, text_keys, processes.world_size)


def _encode(
    settings: Settings,
    preflight: Preflight,
    family: Family,
    files: ModelFiles,
    processes: Processes,
    reporter: Reporter,
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Fill both caches. Returns the latent keys of the pictures that could be read, and the text keys."""
    text_keys: dict[str, str] = {}
    for entry, captions in _captions_by_cache(settings, preflight).items():
        cache = TensorCache(entry.cache_dir)
        text_keys |= fill_text_cache(captions, cache, family, files, settings, processes.device, reporter)
    latent_keys: dict[tuple[str, str], str] = {}
    for image_set in settings.image_sets:
        samples = preflight.samples_of(image_set.id)
        cache = TensorCache(image_set.cache_dir_vae)
        latent_keys |= fill_latent_cache(samples, cache, family, files, settings, processes.device, reporter)
    return latent_keys, text_keys


def _captions_by_cache(settings: Settings, preflight: Preflight) -> dict[TextEmbeds, list[str]]:
    wanted: dict[TextEmbeds, list[str]] = {
        default_text_embeds(settings): [EMPTY_CAPTION, *validation.prompts(settings)]
    }
    for image_set in settings.image_sets:
        captions = [sample.caption for sample in preflight.samples_of(image_set.id)]
        wanted.setdefault(settings.text_embeds_of(image_set), []).extend(captions)
    return wanted


def default_text_embeds(settings: Settings) -> TextEmbeds:
    """The text cache that validation prompts go to."""
    return next((entry for entry in settings.text_embeds if entry.default), settings.text_embeds[0])


def _material(
    settings: Settings,
    preflight: Preflight,
    files: ModelFiles,
    latent_keys: Mapping[tuple[str, str], str],
    text_keys: Mapping[str, str],
    world_size: int,
) -> Material:
    usable = [sample for sample in preflight.samples if (sample.set_id, sample.name) in latent_keys]
    trained, held_out = split_eval(usable, settings.num_eval_images, settings.seed)
    repeats = {image_set.id: image_set.repeats for image_set in settings.image_sets}
    plan = Plan(
        bucketed(trained, repeats),
        settings.seed,
        settings.train_batch_size,
        settings.gradient_accumulation_steps,
        world_size,
    )
    return Material(
        files=files,
        trained=trained,
        held_out=held_out,
        plan=plan,
        latent_keys=latent_keys,
        text_keys=text_keys,
        latent_caches=_caches(settings.image_sets, lambda image_set: image_set.cache_dir_vae),
        text_caches=_caches(settings.image_sets, lambda image_set: settings.text_embeds_of(image_set).cache_dir),
        prompt_cache=TensorCache(default_text_embeds(settings).cache_dir),
        manifest=data_manifest(trained, held_out, latent_keys),
    )


def _caches(image_sets: Sequence[ImageSet], folder: Any) -> dict[str, TensorCache]:
    return {image_set.id: TensorCache(folder(image_set)) for image_set in image_sets}
