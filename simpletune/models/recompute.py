"""Blocks that are computed a second time in the backward pass: what their weights and inputs lie in may have gone.

torch.utils.checkpoint keeps a block's inputs on the device and takes its weights to be where they were. Here both may
be in host memory: the weights come back for the second time (`offload.py`), and so may the inputs.

Shapes: B samples, T image tokens, L text tokens, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simpletune.models.host_memory import HostMemory
from simpletune.models.offload import ALIGNED

Pair = tuple[Tensor, Tensor]
Run = Callable[..., Pair]
"""A block: (image (B, T, F), text (B, L, F)) -> the same."""
Hold = Callable[[], AbstractContextManager[Run]]
"""Gives the block, whose weights stay where they are as long as the context lasts."""


def recomputed(
    hold: Hold,
    image: Tensor,
    text: Tensor,
    parameters: Sequence[Tensor],
    inputs: KeptInputs | None = None,
    number: int = 0,
) -> Pair:
    """The block's result, with gradients for image, text and `parameters`, which the block uses.

    `hold` gives the block in the forward pass and once more in the backward pass. `inputs`: where its inputs wait
    meanwhile, as those of block `number`; None keeps them as they are.
    """
    result: Pair = _Recomputed.apply(hold, inputs, number, image, text, *parameters)
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hold: Hold,
        inputs: KeptInputs | None,
        number: int,
        image: Tensor,
        text: Tensor,
        *parameters: Tensor,
    ) -> Pair:
        ctx.hold, ctx.inputs, ctx.parameters = hold, inputs, parameters
        ctx.set_materialize_grads(False)
        image, text = image.detach(), text.detach()
        if inputs is None:
            ctx.save_for_backward(image, text)
        else:
            ctx.ticket = inputs.put(number, (image, text))
        with hold() as run:
            return run(image, text)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        image, text = ctx.saved_tensors if ctx.inputs is None else ctx.inputs.take(ctx.ticket)
        with ctx.hold() as run, torch.enable_grad():
            image, text = image.detach().requires_grad_(), text.detach().requires_grad_()
            wanted = (image, text, *ctx.parameters)
            used = [pair for pair in zip(run(image, text), gradients, strict=True) if pair[1] is not None]
            outputs, given = zip(*used, strict=True)  # of the last block only the picture goes on
            found = torch.autograd.grad(outputs, wanted, given, allow_unused=True)
        return None, None, None, *found


class KeptInputs:
    """Blocks' inputs in host memory between the two passes: copied there beside the forward pass, back before needed.

    The memory is the same at every step, as a CUDA graph needs it; it grows with the largest batch, and what graphs
    may still use is never given back. One pass at a time: a forward pass ends what is left of the one before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(2)] if device.type == "cuda" else None
        self._memories: list[HostMemory] = []
        self._room = 0  # bytes of a block's inputs, in the last memory
        self._order: list[int] = []
        self._here: dict[int, tuple[_Copy | None, Pair]] = {}  # on the device, or on the way to it
        self._away: dict[int, Pair] = {}
        self._leaving: tuple[_Copy, Pair] | None = None
        self._pass = 0

    @property
    def host_bytes(self) -> int:
        return sum(memory.bytes.numel() for memory in self._memories)

    def begin(self, numbers: Sequence[int]) -> None:
        """A pass begins; these blocks' inputs will come, in this order."""
        for copy, _tensors in self._here.values():  # of a pass that was broken off
            if copy is not None:
                copy.wait(self._device)
        self._wait_for_leaving()
        self._order = list(numbers)
        self._here, self._away = {}, {}
        self._pass += 1

    def put(self, number: int, tensors: Pair) -> tuple[int, int]:
        """Take a block's inputs away; the ticket to get them back."""
        self._wait_for_leaving()
        if number == self._order[-1]:
            self._here[number] = (None, tensors)  # needed first
        else:
            self._send(number, (tensors[0].contiguous(), tensors[1].contiguous()))
        return self._pass, number

    def take(self, ticket: tuple[int, int]) -> Pair:
        """A block's inputs; those of the block before it begin to come meanwhile.

        Raises RuntimeError for a pass that another has followed, or for what has been taken already.
        """
        made_in, number = ticket
        if made_in != self._pass or number not in self._here | self._away:
            raise RuntimeError("a block's inputs are gone: its pass is over")
        if number in self._away:
            self._bring(number)
        copy, tensors = self._here.pop(number)
        if copy is not None:
            copy.wait(self._device)
        before = self._order.index(number) - 1
        if before >= 0 and self._order[before] in self._away:
            self._bring(self._order[before])
        return tensors

    def _wait_for_leaving(self) -> None:
        """From here on the device may use the memory again that was copied from."""
        if self._leaving is not None:
            self._leaving[0].wait(self._device)
        self._leaving = None

    def _send(self, number: int, tensors: Pair) -> None:
        places = self._away[number] = self._places(number, tensors)
        if self._streams is None:
            for place, tensor in zip(places, tensors, strict=True):
                place.copy_(tensor)
            return
        self._leaving = self._copied(self._streams[0], tensors, places), tensors

    def _bring(self, number: int) -> None:
        places = self._away.pop(number)
        tensors = (_empty_like(places[0], self._device), _empty_like(places[1], self._device))
        if self._streams is None:
            for place, tensor in zip(places, tensors, strict=True):
                tensor.copy_(place)
            self._here[number] = (None, tensors)
            return
        self._here[number] = self._copied(self._streams[1], places, tensors), tensors

    def _copied(self, stream: torch.cuda.Stream, sources: Pair, targets: Pair) -> _Copy:
        """Begin to copy. Sources and targets must live until the device has waited for it."""
        stream.wait_event(torch.cuda.current_stream(self._device).record_event())
        with torch.cuda.stream(stream):
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source, non_blocking=True)
            return _Copy(stream.record_event(), torch.cuda.is_current_stream_capturing())

    def _places(self, number: int, tensors: Pair) -> Pair:
        sizes = [-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in tensors]
        if sum(sizes) > self._room:
            self._room = -(-sum(sizes) * 9 // 8 // ALIGNED) * ALIGNED  # buckets differ a little in size
            self._memories.append(HostMemory(self._room * len(self._order), self._device))
        start = self._room * self._order.index(number)
        memory = self._memories[-1].bytes[start : start + self._room]
        image, text = (_as(memory[at:], tensor) for at, tensor in zip((0, sizes[0]), tensors, strict=True))
        return image, text


class _Copy(NamedTuple):
    """A copy under way, or, while a CUDA graph is being made, one that only the graph will do."""

    done: Any
    captured: bool

    def wait(self, device: torch.device) -> None:
        """Have the device go on after it. A graph can't wait for what is outside of it, nor is there any need to: the
        device was waited for before it was begun."""
        if self.captured == torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(device).wait_event(self.done)


def _as(memory: Tensor, tensor: Tensor) -> Tensor:
    return memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def _empty_like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
