"""What a run trains on, encoded: latents and text in the caches, and the plan over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simpletune.config.settings import Settings, TextEmbeds
from simpletune.data.cache import Stored
from simpletune.data.encode import POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS, fill_latent_cache, fill_text_cache
from simpletune.data.plan import Plan, make_plan, schedule_of
from simpletune.data.preflight import Preflight
from simpletune.data.scan import Sample
from simpletune.errors import DataError
from simpletune.models.family import Family, ModelFiles, TextEncoding
from simpletune.progress import Reporter
from simpletune.trainer import validation
from simpletune.trainer.manifest import data_manifest
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes

EMPTY_CAPTION = ""


@dataclass(frozen=True)
class Material:
    """Everything encoded, and the order it is trained in."""

    files: ModelFiles
    trained: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    plan: Plan
    latents: Mapping[tuple[str, str], tuple[Stored, ...]]  # by (set id, name), one a placement
    texts: Mapping[str, Stored]  # by caption or prompt
    manifest: Mapping[str, Any]

    def text(self, caption: str, device: torch.device) -> TextEncoding:
        """The encoding of a prompt or of the empty caption, B = 1."""
        entry = self.texts[caption].load()
        return TextEncoding(entry[PROMPT_EMBEDS][None].to(device), entry[POOLED_PROMPT_EMBEDS][None].to(device))


def gather(
    settings: Settings,
    preflight: Preflight,
    family: Family,
    processes: Processes,
    phases: PhaseLog,
    reporter: Reporter,
) -> Material:
    """Find the model, encode what is not cached yet, and lay out the order.

    The main process encodes for all; the others come after it and find everything done.
    """
    if not processes.is_main:
        processes.wait()
    files = family.locate(settings, reporter)
    with phases.measure("encode text"):
        texts = _encode_texts(settings, preflight, family, files, processes.device, reporter)
    with phases.measure("encode images"):
        samples = [*preflight.training, *preflight.held_out]
        folders = {image_set.id: image_set.cache_dir_vae for image_set in settings.image_sets}
        encoded = fill_latent_cache(
            samples, preflight.sources, folders, family, files, settings, processes.device, reporter
        )
    if processes.is_main:
        processes.wait()
    return _material(settings, preflight, files, encoded.entries, texts, processes.world_size)


def _encode_texts(
    settings: Settings,
    preflight: Preflight,
    family: Family,
    files: ModelFiles,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, Stored]:
    texts: dict[str, Stored] = {}
    for entry, captions in _captions_by_cache(settings, preflight).items():
        texts |= fill_text_cache(captions, entry.cache_dir, family, files, settings, device, reporter)
    return texts


def _captions_by_cache(settings: Settings, preflight: Preflight) -> dict[TextEmbeds, list[str]]:
    """Every caption by the text cache of its data set; prompts and the empty caption go to the default one."""
    default = next((entry for entry in settings.text_embeds if entry.default), settings.text_embeds[0])
    wanted = {default: [EMPTY_CAPTION, *validation.prompts(settings)]}
    caches = {image_set.id: settings.text_embeds_of(image_set) for image_set in settings.image_sets}
    for sample in (*preflight.training, *preflight.held_out):
        wanted.setdefault(caches[sample.set_id], []).extend(sample.captions)
    return wanted


def _material(
    settings: Settings,
    preflight: Preflight,
    files: ModelFiles,
    latents: Mapping[tuple[str, str], tuple[Stored, ...]],
    texts: Mapping[str, Stored],
    world_size: int,
) -> Material:
    """Lay out the pictures that could be encoded. Raises DataError when none to train on are left."""
    trained, held_out = _readable(preflight.training, latents), _readable(preflight.held_out, latents)
    if not trained:
        raise DataError(
            "every picture that could be read is held out for the validation loss",
            'lower "num_eval_images" or add pictures',
        )
    schedules = {image_set.id: schedule_of(image_set) for image_set in settings.image_sets}
    plan = make_plan(
        trained,
        schedules,
        settings.seed,
        settings.train_batch_size,
        settings.gradient_accumulation_steps,
        world_size,
    )
    keys = {sample_id: [stored.key for stored in every] for sample_id, every in latents.items()}
    return Material(files, trained, held_out, plan, latents, texts, data_manifest(trained, held_out, keys))


def _readable(samples: Sequence[Sample], latents: Mapping[tuple[str, str], Any]) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if sample.id in latents)
