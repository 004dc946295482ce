"""SD3's text encoders on a card that they don't fit together: first both CLIPs, then T5, at worst block by block.

Captions go through the CLIPs in groups; what the CLIPs say of a group waits in host memory until T5 has read it. With
the CLIPs gone T5 in int8 fits 6 GiB where all three would not; what is encoded is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from simpletune.config.settings import Settings
from simpletune.machine.text_memory import WAITING_BYTES, TextNeed, TextWay, text_needs, way_that_fits
from simpletune.models.family import TextEncoding
from simpletune.models.memory import ran_out, release
from simpletune.models.runtime import free_memory
from simpletune.models.streaming import StreamedT5
from simpletune.models.text import SD3TextEncoders, token_ids
from simpletune.progress import Reporter

Load = Callable[[Sequence[int]], "list[tuple[Any, nn.Module]]"]

_GROUP_BYTES = WAITING_BYTES


def load_encoders(
    frame: SD3TextEncoders, load: Load, stream: Callable[[], StreamedT5], settings: Settings, reporter: Reporter | None
) -> SD3TextEncoders | TextEncodersInTurn:
    """The encoders in the fastest way that fits what the card has free now; the reporter is told of any other.

    frame: without encoders. load: gives the encoders with their tokenizers, of the numbers asked for: 0, 1, T5 is 2.
    Also when memory runs out in spite of what was reckoned, the next way is tried.
    """
    way = _choose(settings, frame.device, reporter)
    if way is TextWay.TOGETHER:
        try:
            loaded = load(range(3 if settings.use_t5 else 2))
            return replace(frame, clips=tuple(loaded[:2]), t5=loaded[2] if settings.use_t5 else None)
        except RuntimeError as error:
            if not settings.use_t5 or not ran_out(error):
                raise
        way = TextWay.IN_TURN
        _tell(reporter, "the text encoders don't fit into memory together", way)
    release(frame.device)
    return TextEncodersInTurn(frame, load, stream, way, reporter)


class TextEncodersInTurn:
    """Encoders that come when a group of captions is to be encoded, and leave as soon as all of it has been."""

    def __init__(
        self,
        frame: SD3TextEncoders,
        load: Load,
        stream: Callable[[], StreamedT5],
        way: TextWay,
        reporter: Reporter | None,
    ) -> None:
        """The arguments are those of `load_encoders`."""
        self._frame, self._load, self._stream, self._way, self._reporter = frame, load, stream, way, reporter
        self._streamed: StreamedT5 | None = None

    @property
    def way(self) -> TextWay:
        """How they come now; it may become a smaller one while they encode."""
        return self._way

    def encode(self, captions: Sequence[str]) -> TextEncoding:
        """One batch; `encode_batches` loads no more for many."""
        (encoding,) = self.encode_batches([captions])
        return encoding

    @torch.no_grad()
    def encode_batches(self, batches: Sequence[Sequence[str]]) -> Iterator[TextEncoding]:
        frame = self._frame
        for group in _groups(batches, frame.clip_tokens * frame.width * frame.dtype.itemsize):
            said = self._clips_say(group)
            release(frame.device)
            with closing(self._t5_says(group)) as states:
                for (clip_BCD, pooled_BE), t5_BLD in zip(said, states, strict=True):
                    yield frame.joined(clip_BCD.to(frame.device), pooled_BE.to(frame.device), t5_BLD)
            release(frame.device)
            _release_pinned(frame.device)

    def _clips_say(self, group: Sequence[Sequence[str]]) -> list[tuple[Tensor, Tensor]]:
        clips = replace(self._frame, clips=tuple(self._load(range(2))))
        return [(states.cpu(), pooled.cpu()) for states, pooled in map(clips.clip_states, group)]

    def _t5_says(self, group: Sequence[Sequence[str]]) -> Generator[Tensor, None, None]:
        t5 = self._loaded_t5()
        if t5 is not None:
            yield from map(t5.t5_states, group)
            return
        if self._streamed is None:
            self._streamed = self._stream()
        frame, streamed = self._frame, self._streamed
        for batches in _groups(group, streamed.waiting_bytes(frame.t5_tokens)):
            ids = [token_ids(streamed.tokenizer, captions, frame.t5_tokens) for captions in batches]
            for states_BLD in streamed.states(ids, self._reporter):
                yield states_BLD.to(frame.dtype)

    def _loaded_t5(self) -> SD3TextEncoders | None:
        """None when it doesn't fit; then it is streamed from now on."""
        if self._way is TextWay.STREAMED:
            return None
        try:
            return replace(self._frame, t5=self._load(range(2, 3))[0])
        except RuntimeError as error:
            if not ran_out(error):
                raise
        self._way = TextWay.STREAMED
        release(self._frame.device)
        _tell(self._reporter, "T5 doesn't fit into memory", self._way)
        return None


def _choose(settings: Settings, device: torch.device, reporter: Reporter | None) -> TextWay:
    """Other devices than CUDA ones have nothing that would tell what is free."""
    if device.type != "cuda" or not settings.use_t5:
        return TextWay.TOGETHER
    needs, free = _needs(settings), free_memory(settings, device)
    way = way_that_fits(needs, free)
    if way is not TextWay.TOGETHER:
        gib = [f"{size / (1 << 30):.1f} GiB" for size in (needs[TextWay.TOGETHER].bytes, free)]
        _tell(reporter, f"the text encoders together need {gib[0]} and {gib[1]} are free", way)
    return way


def _needs(settings: Settings) -> Mapping[TextWay, TextNeed]:
    precisions = (
        settings.text_encoder_1_precision,
        settings.text_encoder_2_precision,
        settings.text_encoder_3_precision,
    )
    batch, tokens = settings.text_encoder_batch_size, settings.tokenizer_max_length
    return text_needs(settings.model_flavour, precisions, settings.use_t5, settings.mixed_precision, batch, tokens)


def _tell(reporter: Reporter | None, why: str, way: TextWay) -> None:
    if reporter is not None:
        reporter.note(f"{why}: loading {way.value}")


def _release_pinned(device: torch.device) -> None:
    """Give the system the host memory that torch keeps pinned for later, where this torch can."""
    give_back = getattr(torch.accelerator, "empty_host_cache", None)
    if device.type == "cuda" and give_back is not None:
        torch.cuda.synchronize(device)
        give_back()


def _groups(batches: Iterable[Sequence[str]], caption_bytes: int) -> Iterator[list[Sequence[str]]]:
    """The batches in order, as many together as may wait, and one at least."""
    group: list[Sequence[str]] = []
    for batch in batches:
        if group and (sum(map(len, group)) + len(batch)) * caption_bytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group
