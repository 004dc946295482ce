"""What a run trains on, encoded: latents and text in the caches, and the plan over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from simpletune.config.settings import Settings
from simpletune.data.caches.cache import Stored
from simpletune.data.caches.encode import (
    POOLED_PROMPT_EMBEDS,
    PROMPT_EMBEDS,
    Repair,
    fill_latent_cache,
    fill_text_cache,
)
from simpletune.data.caches.encode_text import captions_by_cache
from simpletune.data.caches.mask_cache import fill_mask_cache
from simpletune.data.loader import Encoded, Repairs
from simpletune.data.plan import Plan
from simpletune.data.preflight import Preflight, plan_for
from simpletune.data.preflight_lines import count
from simpletune.data.scan import Sample
from simpletune.data.sources import Source
from simpletune.errors import DataError
from simpletune.models.family import Family, ModelFiles, TextEncoding
from simpletune.progress import Reporter
from simpletune.trainer.data_change import loss_weight
from simpletune.trainer.manifest import DataManifest
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
    encoded: Encoded  # texts are by caption or prompt
    weights: Mapping[str, float]  # of the loss, by data set
    repairs: Repairs
    manifest: DataManifest
    sources: Mapping[str, Source]  # by data set

    def where(self, sample_id: tuple[str, str]) -> str:
        """The path or address of a picture, named by (set_id, name)."""
        set_id, name = sample_id
        return self.sources[set_id].location(name)

    def text(self, caption: str, device: torch.device) -> TextEncoding:
        """The encoding of a prompt or of the empty caption, B = 1."""
        entry = self._entry(caption)
        return TextEncoding(entry[PROMPT_EMBEDS][None].to(device), entry[POOLED_PROMPT_EMBEDS][None].to(device))

    def _entry(self, caption: str) -> dict[str, Tensor]:
        stored = self.encoded.texts[caption]
        try:
            return stored.load()
        except DataError:
            return self.repairs.text(caption, stored)


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
    with phases.measure("encode images"), _indexes_kept(preflight, processes):
        samples = [*preflight.training, *preflight.held_out]
        folders = {image_set.id: image_set.cache_dir_vae for image_set in settings.image_sets}
        latents = fill_latent_cache(
            samples,
            preflight.sources,
            folders,
            family,
            files,
            settings,
            processes.device,
            reporter,
            indexes=preflight.indexes,
            scanned=preflight.results,
        ).entries
        readable = [sample for sample in samples if sample.id in latents]
        sets, scale = settings.image_sets, family.vae_scale_factor
        masks = fill_mask_cache(
            readable, sets, preflight.sources, scale, settings.config_path, reporter, preflight.indexes
        )
    if processes.is_main:
        preflight.save_indexes()
        processes.wait()
    repair = Repair(family, files, settings, preflight.sources, processes.device, reporter)
    repairs = Repairs(repair.latent, repair.text, masks.repair)
    encoded = Encoded(latents, texts, masks.entries)
    made = _material(settings, preflight, files, encoded, repairs, processes.world_size)
    if processes.is_main:
        _tell_of_a_change(settings, preflight, made, reporter)
    return made


def _encode_texts(
    settings: Settings,
    preflight: Preflight,
    family: Family,
    files: ModelFiles,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, Stored]:
    texts: dict[str, Stored] = {}
    samples = (*preflight.training, *preflight.held_out)
    for entry, captions in captions_by_cache(settings, samples).items():
        texts |= fill_text_cache(captions, entry.cache_dir, family, files, settings, device, reporter)
    return texts


@contextmanager
def _indexes_kept(preflight: Preflight, processes: Processes) -> Iterator[None]:
    """Whatever ends the block early: what it has learned of the files is not to be found out again."""
    try:
        yield
    except BaseException:
        if processes.is_main:
            with suppress(DataError):
                preflight.save_indexes()
        raise


def _tell_of_a_change(settings: Settings, preflight: Preflight, made: Material, reporter: Reporter) -> None:
    """Say what the run comes to where pictures were left out since the plan was shown."""
    used, planned = len(made.trained) + len(made.held_out), len(preflight.training) + len(preflight.held_out)
    if used < planned:
        steps = made.plan.total_steps(settings.max_train_steps, settings.num_train_epochs)
        reporter.note(
            f"{planned - used:,} of {planned:,} pictures left out while encoding: an epoch is now "
            f"{count(made.plan.samples_per_epoch, 'picture')}, {count(made.plan.steps_per_epoch, 'step')}; "
            f"the run {count(steps, 'step')}"
        )


def _material(
    settings: Settings,
    preflight: Preflight,
    files: ModelFiles,
    encoded: Encoded,
    repairs: Repairs,
    world_size: int,
) -> Material:
    """Lay out the pictures that could be encoded. Raises DataError when none to train on are left."""
    masked = {image_set.id for image_set in settings.image_sets if image_set.mask_source != "none"}

    def usable(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(
            sample
            for sample in samples
            if sample.id in encoded.latents and (sample.set_id not in masked or sample.id in encoded.masks)
        )

    trained, held_out = usable(preflight.training), usable(preflight.held_out)
    if not trained:
        raise DataError(
            "every picture that could be read is held out for the validation loss",
            'lower "num_eval_images" or add pictures',
        )
    plan = plan_for(settings, trained, world_size)
    weights = {image_set.id: loss_weight(image_set) for image_set in settings.image_sets}
    manifest = DataManifest(settings.image_sets, trained, held_out, encoded)
    return Material(files, trained, held_out, plan, encoded, weights, repairs, manifest, preflight.sources)
