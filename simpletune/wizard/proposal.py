"""A recommended answer and its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from simpletune.config.families import Flavour

T = TypeVar("T")

Fits = Callable[[int], bool]
"""Whether the device's memory takes a value of the key that is asked for."""

_SMALL_MODEL = 256


@dataclass(frozen=True)
class Proposal(Generic[T]):
    """A recommended answer, and why: a few words or one sentence, without a full stop."""

    value: T
    reason: str


def is_small(flavour: Flavour) -> bool:
    """Whether a flavour learns in minutes, on a processor too, as the built-in tiny one does."""
    return flavour.resolution <= _SMALL_MODEL
