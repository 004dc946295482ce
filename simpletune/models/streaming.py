"""T5 on a card that it doesn't fit: one block after the other, each for all captions that wait, the next read ahead.

Block by block for many captions, and not caption by caption with blocks kept in host memory, by arithmetic: the blocks
are 9.3 GB in bf16. A batch of 8 captions computes for half a second on a card of 25 TFLOP/s; moving all blocks for it
takes 0.4 s from pinned host memory over PCIe 4 x16, 1.5 s over PCIe 3 x8, 3 s from an SSD. Batch by batch, 100 captions
would move 120 GB and 10,000 captions 11.6 TB (8 to 32 minutes), with 9.3 GB of host memory pinned, more than such a
machine has to spare. Here a gigabyte of states waits in host memory instead, those of 850 captions of 154 tokens:
100 captions move 9.3 GB, 10,000 captions 112 GB; and the states 300 GB in each direction, half a minute at 12 GB/s
beside ten of computing. Blocks in int8 are read in the file's precision and quantized as they arrive: the card holds
half as much.

The modules are T5's own, called in their order on the same numbers, so the states are those of a resident encoder.
The card holds two blocks at most (780 MB in bf16; 390 MB in int8, and what quantizing needs) and one batch.

Shapes: B captions, L tokens, D features.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simpletune.models.family import Progress
from simpletune.progress import SilentReporter

if TYPE_CHECKING:
    from simpletune.progress import Reporter

Fill = Callable[[nn.Module, Progress], object]
"""Fills a module on the meta device whose tensors have the names they have in the whole model, in a thread.

It tells its progress often and lets pass what that raises: what is being loaded isn't wanted any more.
"""
Load = Callable[[Progress], Any]

_ALIGNED = 512  # bytes: where a batch's states begin in host memory


class StreamedT5:
    """A T5 encoder of which the device holds the block at work and the next one."""

    def __init__(self, tokenizer: Any, empty: Any, fill: Fill, device: torch.device, dtype: torch.dtype) -> None:
        """`empty`: the T5EncoderModel on the meta device, which this takes apart; `dtype`: the compute dtype."""
        self.tokenizer = tokenizer
        self._fill, self._device = fill, device
        self._number_bytes = 4 if dtype == torch.float16 else dtype.itemsize  # beside fp16 a part of T5 is in fp32
        self._features = int(empty.config.d_model)
        self._dtypes = {key: getattr(empty, key, None) for key in _KEPT_IN_FP32}
        self._stack = empty.encoder.eval()
        self._blocks, self._stack.block = list(self._stack.block), nn.ModuleList()
        self._norm, self._stack.final_layer_norm = self._stack.final_layer_norm, nn.Identity()
        self._embedding = empty.shared
        # One for all passes: memory that torch keeps for a stream is of no use to another.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def waiting_bytes(self, tokens: int) -> int:
        """What the states of so many tokens take in host memory."""
        return tokens * self._features * self._number_bytes

    @torch.no_grad()
    def states(self, batches: Sequence[Tensor], reporter: Reporter | None = None) -> Iterator[Tensor]:
        """The last states (B, L, D), on the device, of each batch of token ids (B, L), in order.

        Every block is read once, and all have been when the first states are given. Raises what filling a block raises:
        ModelUnavailable, or RuntimeError when memory runs out.
        """
        try:
            waiting = _Waiting([self.waiting_bytes(ids_BL.numel()) for ids_BL in batches], self._device)
            norm = self._through_all_but_last(batches, waiting, reporter or SilentReporter())
            for index in range(len(batches)):
                yield norm(self._through_block(waiting.take(index)))
        finally:
            _after_computation(self._stream)
            self._stack.block = nn.ModuleList()

    def _through_all_but_last(self, batches: Sequence[Tensor], waiting: _Waiting, reporter: Reporter) -> Any:
        """Leaves the last block in the stack; gives the norm that comes after it."""
        count = len(self._blocks)
        with reporter.phase("T5, block by block", count, "block") as phase, _Ahead(self._stream) as ahead:
            ahead.start(self._load_ends)
            embedding, norm = ahead.wait()
            for index, ids_BL in enumerate(batches):
                waiting.put(index, embedding(ids_BL.to(self._device)))
            # Not while the first block is being loaded: it would get the embedding's memory under its very computation.
            _after_computation(self._stream)
            del embedding
            ahead.start(self._loader(0))
            bias = None
            for number in range(1, count + 1):
                # Here the block before goes, and not earlier: the one that was being loaded would have got its memory
                # while it was still at work on the device.
                self._stack.block = ahead.wait()
                bias = _share_position_bias(self._stack.block[0], bias)
                phase.advance()
                if number < count:
                    ahead.start(self._loader(number))
                    for index in range(len(batches)):
                        waiting.put(index, self._through_block(waiting.take(index)))
        return norm

    def _through_block(self, states_BLD: Tensor) -> Tensor:
        result: Tensor = self._stack(inputs_embeds=states_BLD)[0]
        return result

    def _load_ends(self, progress: Progress) -> tuple[nn.Module, nn.Module]:
        """The embedding and the last norm."""
        embedding, norm = copy.deepcopy(self._embedding), copy.deepcopy(self._norm)
        # The embedding is tied, and files have it under either name.
        names = {"shared": embedding, "encoder.embed_tokens": embedding, "encoder.final_layer_norm": norm}
        self._fill(self._under_their_names(names), progress)
        return embedding, norm

    def _loader(self, number: int) -> Load:
        def load(progress: Progress) -> nn.ModuleList:
            block = copy.deepcopy(self._blocks[number])
            self._fill(self._under_their_names({f"encoder.block.{number}": block}), progress)
            return nn.ModuleList([block])

        return load

    def _under_their_names(self, parts: Mapping[str, nn.Module]) -> nn.Module:
        """A model that has nothing but these parts, and the whole one's say in what stays in fp32."""
        model = nn.Module()
        for name, part in parts.items():
            *path, leaf = name.split(".")
            parent = model
            for step in path:
                if step not in parent._modules:
                    parent.add_module(step, nn.Module())
                parent = parent.get_submodule(step)
            parent.add_module(leaf, part)
        for key, names in self._dtypes.items():
            setattr(model, key, names)
        return model


_KEPT_IN_FP32 = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")


def _share_position_bias(block: Any, bias: nn.Module | None) -> nn.Module:
    """Only the first block has the table of position biases, and the stack hands what it says on to the others.

    A block that is alone in the stack needs the table itself, to compute the same.
    """
    attention = block.layer[0].SelfAttention
    if bias is None:
        first: nn.Module = attention.relative_attention_bias
        return first
    attention.has_relative_attention_bias, attention.relative_attention_bias = True, bias
    return bias


class _Waiting:
    """States of many batches in host memory, pinned where the device is a CUDA one; copies wait for nothing."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        """`sizes`: the most bytes that each batch will take."""
        self._device = device
        self._starts = list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))
        self._memory = _host_memory(self._starts[-1], device)
        self._states: dict[int, Tensor] = {}

    def put(self, index: int, states: Tensor) -> None:
        start = self._starts[index]
        place = self._memory[start : start + states.nbytes].view(states.dtype).view(states.shape)
        self._states[index] = place.copy_(states, non_blocking=True)

    def take(self, index: int) -> Tensor:
        return self._states[index].to(self._device, non_blocking=True)


def _host_memory(size: int, device: torch.device) -> Tensor:
    if device.type == "cuda":
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:
            pass  # the system lets nobody pin that much; copies from ordinary memory are slower
    return torch.empty(size, dtype=torch.uint8)


class _Ahead:
    """Loads one thing at a time in a thread, on CUDA on a stream beside the computation's.

    What was loaded lies in the stream's memory: dropped while something else is being loaded, it would be overwritten
    under the computation that still needs it. Dropped after `wait` and before `start`, it isn't, and what `wait` gives
    may take the place of what it gave before.
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._pool = ThreadPoolExecutor(1, "load-t5")
        self._stream = stream
        self._unwanted = threading.Event()
        self._coming: Future[Any] | None = None

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_error: object) -> None:
        """Also when the program is interrupted, the thread ends: with the tensor it is reading."""
        self._unwanted.set()
        self._pool.shutdown(cancel_futures=True)

    def start(self, load: Load) -> None:
        _after_computation(self._stream)
        self._coming = self._pool.submit(self._load, load)

    def wait(self) -> Any:
        """What was started last, whole. Raises what loading raised."""
        coming, self._coming = self._coming, None
        assert coming is not None
        loaded = coming.result()
        _after_computation(self._stream)
        return loaded

    def _load(self, load: Load) -> Any:
        if self._stream is None:
            return load(self._go_on)
        with torch.cuda.stream(self._stream):
            loaded = load(self._go_on)
            self._stream.synchronize()
        return loaded

    def _go_on(self, _done: int, _total: int) -> None:
        if self._unwanted.is_set():
            raise RuntimeError("what is being loaded isn't wanted any more")


def _after_computation(stream: torch.cuda.Stream | None) -> None:
    """Put the stream behind all that the device has been told to compute. To be said before something of the stream's
    memory is dropped: torch waits for that stream alone when it gives the memory back to the card, as it does whenever
    another allocation finds none."""
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
