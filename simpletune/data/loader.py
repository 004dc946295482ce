"""The training loop's batches: read from the caches in the plan's order, by threads, ahead of the step that needs them.

Nothing here is random and nothing remembers a position: `batches(start_step)` begins anywhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from simpletune.data.caches.cache import Stored
from simpletune.data.caches.encode import LATENTS, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS
from simpletune.data.caches.mask_cache import MASK
from simpletune.data.plan import MicroBatchRefs, Plan, PlannedStep, SampleRef, drawn, sample_id
from simpletune.data.readers import Readers
from simpletune.data.scan import Sample
from simpletune.errors import DataError

PREFETCH = 4
"""Steps that are read ahead."""

READERS = 2
"""Threads that read them, a step each: reading is mostly waiting, checking sums and copying, without Python's lock."""

_SECONDS_BETWEEN_QUESTIONS = 0.2

SampleId = tuple[str, str]
"""(set_id, name)."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass of B samples of one bucket.

    latents (B, C, H, W); prompt_embeds (B, L, D); pooled_prompt_embeds (B, E); sample_ids int64 (B,).
    loss_weights float32 (B,): what each sample's loss is multiplied by. loss_mask float32 (B, 1, H, W): how much each
    place counts in its sample's loss, from 0 to 1; None where all of them count.
    `weight` is what its mean loss counts for in the step's (plan.py). It is 0 where this rank has no batch left while
    another one has: then it repeats the step's first batch, so that all ranks do the same work, and must not count.
    """

    refs: MicroBatchRefs
    weight: float
    latents: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    sample_ids: Tensor
    loss_weights: Tensor
    loss_mask: Tensor | None


@dataclass(frozen=True)
class StepBatch:
    """What one rank computes for one optimizer step; `sample_count` is over all ranks.

    `waited` are the seconds that the training loop stood still for it.
    """

    step: int
    epoch: int
    sample_count: int
    micro_batches: tuple[MicroBatch, ...]
    waited: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """Where a run's samples are cached: latents and masks by (set_id, name), one a placement, texts by caption.

    A sample without masks counts everywhere.
    """

    latents: Mapping[SampleId, tuple[Stored, ...]]
    texts: Mapping[str, Stored]
    masks: Mapping[SampleId, tuple[Stored, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Repairs:
    """How a damaged or vanished entry is made again: functions that give its tensors as `load` would.

    A latent's and a mask's get the sample and the placement's index. They raise DataError when it can't be done, and
    are called by the training loop between two steps, never while a step computes.
    """

    latent: Callable[[Sample, int, Stored], dict[str, Tensor]]
    text: Callable[[str, Stored], dict[str, Tensor]]
    mask: Callable[[Sample, int, Stored], dict[str, Tensor]]


class Loader:
    """Batches of a plan for one rank.

    `weights`: what the loss of a data set's samples is multiplied by, 1 where it has none.
    """

    def __init__(
        self,
        plan: Plan,
        samples: Iterable[Sample],
        encoded: Encoded,
        device: torch.device,
        rank: int = 0,
        *,
        weights: Mapping[str, float] | None = None,
        repairs: Repairs | None = None,
    ) -> None:
        self._plan = plan
        self._samples = {sample.id: sample for sample in samples}
        self._encoded = encoded
        self._device = device
        self._rank = rank
        self._weights = weights or {}
        self._repairs = repairs

    def batches(
        self, start_step: int, stop_step: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[StepBatch]:
        """Steps start_step up to stop_step (excluded), tensors on the device; none more once `stopped` says so while
        they are waited for.

        Raises DataError when a cache entry has vanished or is damaged and can't be repaired. Closing the iterator ends
        the reading ahead; neither that nor the program's end waits for a disk that doesn't answer.
        """
        steps = iter(range(start_step, stop_step))
        readers = Readers(READERS, "read-batches")
        try:
            waiting = deque((step, readers.submit(partial(self.step, step))) for step in islice(steps, PREFETCH))
            while waiting:
                step, reading = waiting.popleft()
                waiting.extend(
                    (following, readers.submit(partial(self.step, following))) for following in islice(steps, 1)
                )
                began = time.perf_counter()
                while not wait([reading], _SECONDS_BETWEEN_QUESTIONS).done:
                    if stopped():
                        return
                batch = _to_device(self._read(step, reading), self._device)
                yield replace(batch, waited=time.perf_counter() - began)
        finally:
            readers.close()

    def shown(self, ref: SampleRef, epoch: int) -> tuple[str, tuple[int, int]]:
        """The caption and the bucket (width, height in pixels) that a sample is shown with in an epoch."""
        showing = self._showing(ref, epoch, repairing=False)
        return showing.caption, showing.sample.placements[showing.placement].bucket

    def step(self, step: int, *, repairing: bool = False) -> StepBatch:
        """One step's batches, on the CPU; pinned where the device is a CUDA one."""
        planned = self._plan.step(step)
        batches = tuple(self._micro_batch(refs, planned, repairing) for refs in planned.ranks[self._rank])
        return StepBatch(step, planned.epoch, planned.sample_count, batches)

    def collate(self, refs: MicroBatchRefs, epoch: int = 0, *, repairing: bool = True) -> MicroBatch:
        """Samples of one bucket as a batch of weight 1, each in the placement and with the caption of this epoch."""
        showings = [self._showing(ref, epoch, repairing) for ref in refs]
        latents = torch.stack([showing.latent() for showing in showings])
        texts = [showing.text() for showing in showings]
        weights = [self._weights.get(ref.set_id, 1.0) for ref in refs]
        return MicroBatch(
            refs=refs,
            weight=1.0,
            latents=self._pinned(latents),
            prompt_embeds=self._pinned(torch.stack([text[PROMPT_EMBEDS] for text in texts])),
            pooled_prompt_embeds=self._pinned(torch.stack([text[POOLED_PROMPT_EMBEDS] for text in texts])),
            sample_ids=self._pinned(sample_ids(refs)),
            loss_weights=self._pinned(torch.tensor(weights, dtype=torch.float32)),
            loss_mask=self._masks(showings, latents),
        )

    def _read(self, step: int, reading: Future[StepBatch]) -> StepBatch:
        try:
            return reading.result()
        except DataError:
            if self._repairs is None:
                raise
        return self.step(step, repairing=True)

    def _micro_batch(self, refs: MicroBatchRefs, planned: PlannedStep, repairing: bool) -> MicroBatch:
        batch = self.collate(refs or planned.ranks[0][0], planned.epoch, repairing=repairing)
        return replace(batch, weight=planned.weight(refs))

    def _showing(self, ref: SampleRef, epoch: int, repairing: bool) -> _Showing:
        """What is shown of a sample is drawn here: its placement and its caption."""
        sample, seed = self._samples[ref.id], self._plan.seed
        placement = drawn(range(len(sample.placements)), "placement", seed, epoch, ref)
        caption = drawn(sample.captions, "caption", seed, epoch, ref)
        return _Showing(sample, placement, caption, self._encoded, self._repairs if repairing else None)

    def _masks(self, showings: Sequence[_Showing], latents: Tensor) -> Tensor | None:
        masks = [showing.mask() for showing in showings]
        if all(mask is None for mask in masks):
            return None
        everywhere = torch.ones(1, *latents.shape[-2:])
        return self._pinned(torch.stack([everywhere if mask is None else mask for mask in masks]))

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


@dataclass(frozen=True)
class _Showing:
    """A sample in one of its placements, with one of its captions; `repairs` mend what can't be loaded."""

    sample: Sample
    placement: int
    caption: str
    encoded: Encoded
    repairs: Repairs | None

    def latent(self) -> Tensor:
        """(C, H, W)."""
        stored = self.encoded.latents[self.sample.id][self.placement]
        return self._load(stored, lambda repairs: repairs.latent(self.sample, self.placement, stored))[LATENTS]

    def text(self) -> dict[str, Tensor]:
        """(L, D) and (E,)."""
        stored = self.encoded.texts[self.caption]
        return self._load(stored, lambda repairs: repairs.text(self.caption, stored))

    def mask(self) -> Tensor | None:
        """(1, H, W)."""
        masks = self.encoded.masks.get(self.sample.id)
        if masks is None:
            return None
        stored = masks[self.placement]
        return self._load(stored, lambda repairs: repairs.mask(self.sample, self.placement, stored))[MASK]

    def _load(self, stored: Stored, repair: Callable[[Repairs], dict[str, Tensor]]) -> dict[str, Tensor]:
        try:
            return stored.load()
        except DataError:
            if self.repairs is None:
                raise
        return repair(self.repairs)


def sample_ids(refs: tuple[SampleRef, ...]) -> Tensor:
    """int64 (B,): the numbers that stand for the samples in the trainer's random streams."""
    return torch.tensor([sample_id(ref) for ref in refs], dtype=torch.int64)


def _to_device(batch: StepBatch, device: torch.device) -> StepBatch:
    return replace(batch, micro_batches=tuple(to_device(micro, device) for micro in batch.micro_batches))


def to_device(micro: MicroBatch, device: torch.device) -> MicroBatch:
    """The batch on `device`; from pinned memory the host doesn't wait for the copies."""
    mask = micro.loss_mask
    return replace(
        micro,
        latents=micro.latents.to(device, non_blocking=True),
        prompt_embeds=micro.prompt_embeds.to(device, non_blocking=True),
        pooled_prompt_embeds=micro.pooled_prompt_embeds.to(device, non_blocking=True),
        sample_ids=micro.sample_ids.to(device, non_blocking=True),
        loss_weights=micro.loss_weights.to(device, non_blocking=True),
        loss_mask=None if mask is None else mask.to(device, non_blocking=True),
    )
