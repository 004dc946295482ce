"""What the text encoders need of a card: together, in turn, or with T5 block by block, and which way a run takes.

`models/text_in_turn.py` loads them so; forecasts reckon with the same figures. Without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from simpletune.config.architecture import ENCODER_PARTS, clip_tokens
from simpletune.machine import activations, estimate
from simpletune.machine.activations import COMPUTE_BYTES, component_config_of

WAITING_BYTES = 1 << 30
"""Of states that wait in host memory where encoders come in turn: a group of captions at a time."""

_T5 = ENCODER_PARTS[2]


class TextWay(Enum):
    """How the text encoders are loaded, from the fastest to the smallest."""

    TOGETHER = "all at once"
    IN_TURN = "first both CLIPs, then T5"
    STREAMED = "first both CLIPs, then T5 block by block"


@dataclass(frozen=True)
class TextNeed:
    """Bytes of the device at the peak of one way: of the weights that are there then, and of what goes through them."""

    weights: int
    held: int

    @property
    def bytes(self) -> int:
        return self.weights + self.held + activations.WORKSPACE


@lru_cache(maxsize=1024)
def text_needs(
    flavour: str, precisions: tuple[str, str, str], use_t5: bool, mixed_precision: str, captions: int, t5_tokens: int
) -> Mapping[TextWay, TextNeed]:
    """What each way needs for `captions` at once; without T5 there is only one. Exact for weights, the rest fitted."""

    def held(use_t5: bool, precision: str) -> int:
        return activations.text(flavour, captions, t5_tokens, use_t5, precision, mixed_precision)

    def weights(precision: str, inside: str = "") -> int:
        return estimate.weight_bytes(flavour, _T5, precision, mixed_precision, inside)

    precision = precisions[2]
    clips = estimate.text_encoder_bytes(flavour, precisions, False, mixed_precision)
    if not use_t5:
        return {TextWay.TOGETHER: TextNeed(clips, held(False, precision))}
    first, t5 = TextNeed(clips, held(False, precision)), weights(precision)
    block, embedding = weights(precision, "encoder.block.0."), weights(precision, "shared.")
    # Two blocks at most; the embedding is beside the first. The next block is quantized while one is at work.
    at_work = held(True, "no_change") + activations.quantizing_t5(flavour, precision, mixed_precision)
    streamed = TextNeed(max(2 * block, embedding + block), at_work)
    return {
        TextWay.TOGETHER: TextNeed(clips + t5, held(True, precision)),
        TextWay.IN_TURN: _larger(first, TextNeed(t5, held(True, precision))),
        TextWay.STREAMED: _larger(first, streamed),
    }


def way_that_fits(needs: Mapping[TextWay, TextNeed], free: float | None) -> TextWay:
    """The fastest way that fits into so many bytes, else the smallest; None: there is room for all."""
    fitting = (way for way, need in needs.items() if free is None or need.bytes <= free)
    return next(fitting, list(needs)[-1])


def groups(way: TextWay, flavour: str, mixed_precision: str, captions: int, t5_tokens: int) -> int:
    """How often the encoders are loaded for so many captions."""
    if way is TextWay.TOGETHER:
        return 1
    tokens = clip_tokens(flavour) if way is TextWay.IN_TURN else t5_tokens
    width: int = component_config_of(flavour, "transformer")["joint_attention_dim"]
    return max(1, -(-captions * tokens * width * COMPUTE_BYTES[mixed_precision] // WAITING_BYTES))


def _larger(one: TextNeed, other: TextNeed) -> TextNeed:
    return max(one, other, key=lambda need: need.bytes)
