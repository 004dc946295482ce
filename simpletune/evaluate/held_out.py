"""The loss on held-out pictures at fixed noise, of the base and of each adapter: the trainer's own, picture by picture.

A picture's and a caption's encodings are the run's where its caches have them; others are made, and kept in the
evaluation's folder: the run's caches are only read. Masks aren't applied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from simpletune import files
from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.encode import LATENTS
from simpletune.data.caches.encode_text import StoredText
from simpletune.data.caches.entries import latent_key, text_key
from simpletune.data.images import prepare_all
from simpletune.data.loader import Encoded, Loader, MicroBatch
from simpletune.data.plan import SampleRef
from simpletune.evaluate.metrics import Array
from simpletune.evaluate.pictures import Found, Material
from simpletune.evaluate.request import adapter_digest
from simpletune.models.adapters import attached
from simpletune.models.lora_file import read_adapter
from simpletune.models.memory import release
from simpletune.results.encodings import encode_prompts
from simpletune.trainer.validation import EVALUATION_SIGMAS, evaluation_losses

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Reporter
    from simpletune.results.generate import Variant

CODE = 1
"""Counts up when the same weights and pictures give other losses."""


@dataclass(frozen=True)
class Judge:
    """The model whose losses are wanted, and where what is known of them is kept."""

    settings: Settings
    family: Family
    model: ModelFiles
    device: torch.device
    folder: Path
    reporter: Reporter

    def losses(self, material: Material, variants: Sequence[Variant]) -> dict[str, Array]:
        """float64 (pictures, EVALUATION_SIGMAS) by the variants' names; what is known already isn't computed."""
        keys = {variant: self._key(variant, material.held_out) for variant in variants}
        losses = {variant: known for variant in variants if (known := self._known(keys[variant], material)) is not None}
        todo = [variant for variant in variants if variant not in losses]
        if todo:
            batches = self._batches(material)
            transformer = self.family.load_transformer(self.model, self.settings, self.device, self.reporter)
            count = len(todo) * len(batches)
            with self.reporter.phase("Held-out loss", count, "image") as phase:
                for variant in todo:
                    rows = []
                    factors = None if variant.adapter is None else read_adapter(variant.adapter.path, "--adapter")
                    with attached(transformer, factors, variant.scale):
                        for batch in batches:
                            rows.append(self._loss(transformer, batch))
                            phase.advance()
                    losses[variant] = np.concatenate(rows)
                    self._keep(keys[variant], losses[variant])
            del transformer
            release(self.device)
        return {variant.name: losses[variant] for variant in variants}

    def _loss(self, transformer: nn.Module, batch: MicroBatch) -> Array:
        losses: Array = evaluation_losses(self.settings, self.family, transformer, (batch,), self.device).numpy()
        return losses

    def _key(self, variant: Variant, held_out: Sequence[Found]) -> str:
        """Names all that decides a variant's losses."""
        settings = self.settings
        said = [
            CODE,
            EVALUATION_SIGMAS,
            settings.seed,
            self.model.source,
            self.model.commit,
            self.family.vae_identity(self.model, settings),
            self.family.text_identity(self.model, settings),
            settings.base_model_precision,
            settings.base_model_matmul,
            settings.mixed_precision,
            adapter_digest(variant),
            variant.scale,
            [(found.sample.id, found.file_digest, found.sample.captions, _places(found)) for found in held_out],
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / "losses" / f"{key}.json"

    def _known(self, key: str, material: Material) -> Array | None:
        try:
            found = np.array(json.loads(self._path(key).read_text(encoding="utf-8"))["losses"], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found.shape == (len(material.held_out), EVALUATION_SIGMAS) else None

    def _keep(self, key: str, losses: Array) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"losses": losses.tolist()})

    def _batches(self, material: Material) -> list[MicroBatch]:
        """A batch a picture, with the crop and caption that the trainer's evaluation shows."""
        assert material.look is not None
        assert material.look.plan is not None
        latents = self._latents(material)
        texts = self._texts(material.held_out)
        samples = [found.sample for found in material.held_out]
        loader = Loader(material.look.plan, samples, Encoded(latents, texts), self.device)
        return [loader.collate((SampleRef(sample.set_id, sample.name),)) for sample in samples]

    def _latents(self, material: Material) -> dict[tuple[str, str], tuple[Stored, ...]]:
        assert material.look is not None
        identity = self.family.vae_identity(self.model, self.settings)
        folders = {one.id: one.cache_dir_vae for one in self.settings.image_sets}
        stored, missing = {}, []
        for found in material.held_out:
            keys = [latent_key(found.file_digest, placement, identity) for placement in found.sample.placements]
            entries = tuple(self._stored(TensorCache(folders[found.sample.set_id]), key) for key in keys)
            stored[found.sample.id] = entries
            if not all(entry.sound() for entry in entries):
                missing.append(found)
        if missing:
            vae = self.family.load_vae(self.model, self.settings, self.device)
            with self.reporter.phase("Encoding held-out images", len(missing), "image") as phase:
                for found in missing:
                    sample, source = found.sample, material.look.sources[found.sample.set_id]
                    data, where = source.read(sample.name), source.location(sample.name)
                    made = prepare_all(where, data, (sample.width, sample.height), sample.placements)
                    for pixels, entry in zip(made, stored[sample.id], strict=True):
                        latent = vae.encode(pixels[None], [entry.key])[0]
                        entry.cache.put(entry.key, {LATENTS: latent})
                    phase.advance()
            del vae
            release(self.device)
        return stored

    def _texts(self, held_out: Sequence[Found]) -> dict[str, Stored]:
        identity = self.family.text_identity(self.model, self.settings)
        stored = {}
        for found in held_out:
            folder = self.settings.text_embeds_of(
                next(one for one in self.settings.image_sets if one.id == found.sample.set_id)
            ).cache_dir
            for caption in found.sample.captions:
                entry = self._stored(TensorCache(folder), text_key(caption, identity))
                stored[caption] = StoredText(entry.cache, entry.key, self.family)
        missing = [caption for caption, entry in stored.items() if not entry.sound()]
        if missing:
            made = encode_prompts(missing, self.settings, self.family, self.model, self.device, self.reporter)
            for caption in missing:
                stored[caption].cache.put(stored[caption].key, self.family.pack_text(made[caption]))
        return dict(stored)

    def _stored(self, cache: TensorCache, key: str) -> Stored:
        """The run's entry where it is whole, else the place for one of our own."""
        entry = Stored(cache, key)
        return entry if entry.sound() else Stored(TensorCache(self.folder / "encoded"), key)


def _places(found: Found) -> list[list[object]]:
    return [[one.resized, one.crop, one.bucket, one.mirrored] for one in found.sample.placements]
