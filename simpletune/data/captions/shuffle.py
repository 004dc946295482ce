"""Orders of a caption's parts. Which ones a caption is trained in follows from hashes, so that every run has the same.

n parts have n! orders, fewer where parts are equal. The orders of a smaller caption_shuffle_count are the first ones of
a larger, so raising it leaves valid what is encoded.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from simpletune.data.sources import name_bytes

_FEW = 10_000
"""Up to so many orders one is drawn by its number, so that all can be had; of more, two draws are rarely the same."""


def shuffled(
    caption: str, separator: str, count: int, keep: int, *, seed: int, set_id: str, name: str
) -> tuple[str, ...]:
    """`count` different orders of the parts of `caption`, the first `keep` of them staying; all, if there are fewer.

    A pure function of its arguments. A caption with a single order stays as it is written.
    """
    parts = [part for part in map(str.strip, caption.split(separator)) if part]
    first, rest = parts[:keep], parts[keep:]
    total = _orders(Counter(rest))
    if total == 1:
        return (caption,)
    drawn_for = [b"shuffle", str(seed).encode(), set_id.encode(), name_bytes(name), name_bytes(caption)]
    key = b"\0".join(drawn_for)
    wanted = min(count, total)
    orders = _some_of_few(rest, key, wanted, total) if total <= _FEW else _some_of_many(rest, key, wanted)
    glue = _glue(caption, separator)
    return tuple(glue.join([*first, *order]) for order in orders)


def _glue(caption: str, separator: str) -> str:
    """The separator with the blanks that the caption has around it."""
    return next((glue for glue in (f" {separator} ", f"{separator} ") if glue in caption), separator)


def _orders(parts: Counter[str]) -> int:
    return math.factorial(sum(parts.values())) // math.prod(map(math.factorial, parts.values()))


def _some_of_few(parts: Sequence[str], key: bytes, count: int, total: int) -> list[list[str]]:
    """Orders by number; one that is taken already gives way to the next."""
    numbers: dict[int, None] = {}
    for index in range(count):
        number = _random(key, index, 1)[0] % total
        while number in numbers:
            number = (number + 1) % total
        numbers[number] = None
    return [_order(parts, number) for number in numbers]


def _order(parts: Sequence[str], number: int) -> list[str]:
    """The order of this number, from 0: equal parts are one part that occurs more often."""
    left, order = Counter(parts), list[str]()
    orders = _orders(left)
    for remaining in range(len(parts), 0, -1):
        for part, times in left.items():
            beginning = orders * times // remaining
            if number < beginning:
                order.append(part)
                break
            number -= beginning
        orders = beginning
        left[order[-1]] -= 1
    return order


def _some_of_many(parts: Sequence[str], key: bytes, count: int) -> list[list[str]]:
    orders: dict[tuple[str, ...], None] = {}
    attempt = 0
    while len(orders) < count:
        orders[tuple(_drawn(parts, key, attempt))] = None
        attempt += 1
    return [list(order) for order in orders]


def _drawn(parts: Sequence[str], key: bytes, attempt: int) -> list[str]:
    """A shuffle by Fisher and Yates."""
    order = list(parts)
    for last, number in zip(range(len(order) - 1, 0, -1), _random(key, attempt, len(order)), strict=False):
        other = number % (last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def _random(key: bytes, index: int, count: int) -> list[int]:
    """`count` numbers of 64 bits that depend on `key` and `index` alone."""
    digest = hashlib.shake_256(key + b"\0" + str(index).encode()).digest(8 * count)
    return [int.from_bytes(digest[start : start + 8], "big") for start in range(0, len(digest), 8)]
