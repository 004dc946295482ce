"""Fill the caches of captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.entries import text_key
from simpletune.data.caches.pipeline import Halving, absent, to_host, writing
from simpletune.data.caches.users import CAPTIONS, leave_note
from simpletune.models.family import TextEncoding
from simpletune.models.memory import release

if TYPE_CHECKING:
    from simpletune.config.settings import Settings, TextEmbeds
    from simpletune.data.scan import Sample
    from simpletune.models.family import Family, ModelFiles
    from simpletune.progress import Reporter

PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS = "prompt_embeds", "pooled_prompt_embeds"
"""Names of a caption's tensors once they are read: (L, D) and (E,). Files hold what Family.pack_text makes of them."""


@dataclass(frozen=True)
class StoredText(Stored):
    """An encoded caption; `load` gives its tensors as the encoders gave them."""

    family: Family = field(compare=False, repr=False)

    def load(self) -> dict[str, Tensor]:
        encoding = self.encoding()
        return {PROMPT_EMBEDS: encoding.prompt_embeds[0], POOLED_PROMPT_EMBEDS: encoding.pooled_prompt_embeds[0]}

    def encoding(self) -> TextEncoding:
        """The caption's encoding, B = 1, on the CPU. Raises DataError when it has gone or been damaged."""
        return self.family.unpack_text(super().load())


def captions_by_cache(settings: Settings, samples: Iterable[Sample]) -> dict[TextEmbeds, list[str]]:
    """Every caption of the samples by the text cache of its data set; prompts and the empty caption by the default."""
    default = next((entry for entry in settings.text_embeds if entry.default), settings.text_embeds[0])
    prompts = [*settings.validation_prompts.values(), settings.validation_negative_prompt]
    wanted = {default: ["", *(prompts if settings.validation_prompts else ())]}
    caches = {image_set.id: settings.text_embeds_of(image_set) for image_set in settings.image_sets}
    for sample in samples:
        wanted.setdefault(caches[sample.set_id], []).extend(sample.captions)
    return wanted


def fill_text_cache(
    captions: Iterable[str],
    cache_dir: Path,
    family: Family,
    model_files: ModelFiles,
    settings: Settings,
    device: torch.device,
    reporter: Reporter,
    verify: bool = False,
) -> dict[str, Stored]:
    """Encode the captions that aren't cached; gives every caption's entry.

    With `verify` every entry is read, and one that is damaged made again. Raises DataError when an encoder gives a
    non-finite number or the disk takes no more, OutOfMemory when one caption alone doesn't fit.
    """
    identity = family.text_identity(model_files, settings)
    cache = TensorCache(cache_dir)
    stored = {caption: StoredText(cache, text_key(caption, identity), family) for caption in sorted(set(captions))}
    keys = [entry.key for entry in stored.values()]
    missing = absent(stored, "caption", reporter, verify)
    if missing:
        leave_note(cache_dir, CAPTIONS, settings.config_path, keys, complete=False)
        encode_captions(missing, stored, family, model_files, settings, device, reporter)
    leave_note(cache_dir, CAPTIONS, settings.config_path, keys)
    return dict(stored)


def encode_captions(
    captions: Sequence[str],
    stored: dict[str, StoredText],
    family: Family,
    model_files: ModelFiles,
    settings: Settings,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Load the encoders, write the entry of each caption, and drop the encoders again.

    Those that don't fit together come in turn, for many captions each time (`Family.load_text_encoders`).
    """
    encoders = family.load_text_encoders(model_files, settings, device, reporter)
    batches = Halving(settings.text_encoder_batch_size, "text_encoder_batch_size", device, reporter)
    with writing() as writer, reporter.phase("Encoding captions", len(captions), "caption") as phase:
        for batch, encoding in batches.run_together(captions, encoders.encode_batches, len(stored)):
            arriving = _Arriving(family, encoding)
            for index, caption in enumerate(batch):
                writer.put(stored[caption], arriving.packer(index), f"the caption {caption[:60]!r}")
            phase.advance(len(batch))
    del encoders
    release(device)


class _Arriving:
    """A batch's encoding on its way to the host; each caption is packed in the thread that writes it."""

    def __init__(self, family: Family, encoding: TextEncoding) -> None:
        self._family = family
        self._embeds = to_host(encoding.prompt_embeds)
        self._pooled = to_host(encoding.pooled_prompt_embeds)

    def packer(self, index: int) -> Callable[[], dict[str, Tensor]]:
        def pack() -> dict[str, Tensor]:
            one = slice(index, index + 1)
            return self._family.pack_text(TextEncoding(self._embeds()[one], self._pooled()[one]))

        return pack
