"""The training loop's batches: read from the caches in the plan's order, ahead of the step that needs them.

Nothing here is random and nothing remembers a position: `batches(start_step)` begins anywhere.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simpletune.data.cache import Stored
from simpletune.data.encode import LATENTS, POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS
from simpletune.data.plan import MicroBatchRefs, Plan, PlannedStep, SampleRef, drawn, sample_id
from simpletune.data.scan import Sample

PREFETCH = 2
"""Steps that are read ahead."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass of B samples of one bucket.

    latents (B, C, H, W); prompt_embeds (B, L, D); pooled_prompt_embeds (B, E); sample_ids int64 (B,).
    `weight` is what its mean loss counts for in the step's (plan.py). It is 0 where this rank has no batch left while
    another one has: then it repeats the step's first batch, so that all ranks do the same work, and must not count.
    """

    refs: MicroBatchRefs
    weight: float
    latents: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    sample_ids: Tensor


@dataclass(frozen=True)
class StepBatch:
    """What one rank computes for one optimizer step; `sample_count` is over all ranks."""

    step: int
    epoch: int
    sample_count: int
    micro_batches: tuple[MicroBatch, ...]


class Loader:
    """Batches of a plan for one rank.

    `latents` says where each (set_id, name) is cached, one entry a placement; `texts` where each caption is.
    """

    def __init__(
        self,
        plan: Plan,
        samples: Iterable[Sample],
        latents: Mapping[tuple[str, str], tuple[Stored, ...]],
        texts: Mapping[str, Stored],
        device: torch.device,
        rank: int = 0,
    ) -> None:
        self._plan = plan
        self._captions = {sample.id: sample.captions for sample in samples}
        self._latents = latents
        self._texts = texts
        self._device = device
        self._rank = rank

    def batches(self, start_step: int, stop_step: int) -> Iterator[StepBatch]:
        """Steps start_step up to stop_step (excluded), tensors on the device.

        Raises DataError when a cache entry has vanished. Closing the iterator ends the thread that reads ahead.
        """
        ready: queue.Queue[StepBatch | BaseException | None] = queue.Queue(maxsize=PREFETCH)
        closed = threading.Event()
        arguments = (range(start_step, stop_step), ready, closed)
        reader = threading.Thread(target=self._read_steps, args=arguments, name="read-batches", daemon=True)
        reader.start()
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield _to_device(batch, self._device)
        finally:
            closed.set()
            reader.join()

    def step(self, step: int) -> StepBatch:
        """One step's batches, on the CPU; pinned where the device is a CUDA one."""
        planned = self._plan.step(step)
        batches = tuple(self._micro_batch(refs, planned) for refs in planned.ranks[self._rank])
        return StepBatch(step, planned.epoch, planned.sample_count, batches)

    def _read_steps(self, steps: range, ready: queue.Queue[Any], closed: threading.Event) -> None:
        try:
            for step in steps:
                if not _offer(self.step(step), ready, closed):
                    return
            _offer(None, ready, closed)
        except BaseException as error:  # whatever it is, the training loop has to see it instead of waiting for ever
            _offer(error, ready, closed)

    def _micro_batch(self, refs: MicroBatchRefs, planned: PlannedStep) -> MicroBatch:
        batch = self.collate(refs or planned.ranks[0][0], planned.epoch)
        return replace(batch, weight=planned.weight(refs))

    def collate(self, refs: MicroBatchRefs, epoch: int = 0) -> MicroBatch:
        """Samples of one bucket as a batch of weight 1, each in the placement and with the caption of this epoch."""
        seed = self._plan.seed
        latents = [drawn(self._latents[ref.id], "placement", seed, epoch, ref).load()[LATENTS] for ref in refs]
        texts = [self._texts[drawn(self._captions[ref.id], "caption", seed, epoch, ref)].load() for ref in refs]
        return MicroBatch(
            refs=refs,
            weight=1.0,
            latents=self._stack(latents),
            prompt_embeds=self._stack([text[PROMPT_EMBEDS] for text in texts]),
            pooled_prompt_embeds=self._stack([text[POOLED_PROMPT_EMBEDS] for text in texts]),
            sample_ids=self._pinned(sample_ids(refs)),
        )

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        return self._pinned(torch.stack(tensors))

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


def sample_ids(refs: tuple[SampleRef, ...]) -> Tensor:
    """int64 (B,): the numbers that stand for the samples in the trainer's random streams."""
    return torch.tensor([sample_id(ref) for ref in refs], dtype=torch.int64)


def _offer(item: StepBatch | BaseException | None, ready: queue.Queue[Any], closed: threading.Event) -> bool:
    """Put `item` as soon as there is room; False when nobody wants it any more."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _to_device(batch: StepBatch, device: torch.device) -> StepBatch:
    return replace(batch, micro_batches=tuple(to_device(micro, device) for micro in batch.micro_batches))


def to_device(micro: MicroBatch, device: torch.device) -> MicroBatch:
    """The batch on `device`; from pinned memory the host doesn't wait for the copies."""
    return replace(
        micro,
        latents=micro.latents.to(device, non_blocking=True),
        prompt_embeds=micro.prompt_embeds.to(device, non_blocking=True),
        pooled_prompt_embeds=micro.pooled_prompt_embeds.to(device, non_blocking=True),
        sample_ids=micro.sample_ids.to(device, non_blocking=True),
    )
