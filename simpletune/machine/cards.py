"""How fast graphics cards are, from their makers' specifications: what times on a card that was not measured rest on.

`tflops` is dense 16-bit matrix throughput with 32-bit accumulation, in 10^12 operations a second; `bandwidth` is that
of the card's memory, in 10^9 bytes a second. Boost clocks are assumed, as the specifications do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    tflops: float
    bandwidth: float


# Common cards by their memory in GB: what a card of that size, whose name isn't known, is likely to be.
TYPICAL = {
    6: ("RTX 2060", "RTX 3050"),
    8: ("RTX 2070", "RTX 3070", "RTX 4060", "RTX 5060"),
    12: ("RTX 3060", "RTX 4070", "RTX 5070"),
    16: ("RTX 4060 Ti", "RTX 4080", "RTX 5080"),
    24: ("RTX 3090", "RTX 4090"),
    32: ("RTX 5090",),
    48: ("RTX A6000", "L40"),
    80: ("A100", "H100"),
}

# A row is meant by every name that holds all its words.
CARDS = {
    "RTX 2060": Speed(25.8, 336),
    "RTX 2060 SUPER": Speed(28.7, 448),
    "RTX 2070": Speed(29.9, 448),
    "RTX 2070 SUPER": Speed(36.3, 448),
    "RTX 2080": Speed(40.3, 448),
    "RTX 2080 SUPER": Speed(44.6, 496),
    "RTX 2080 Ti": Speed(53.8, 616),
    "RTX 3050": Speed(18.2, 224),
    "RTX 3060": Speed(25.5, 360),
    "RTX 3060 Ti": Speed(32.4, 448),
    "RTX 3070": Speed(40.6, 448),
    "RTX 3070 Ti": Speed(43.5, 608),
    "RTX 3080": Speed(59.5, 760),
    "RTX 3080 Ti": Speed(68.2, 912),
    "RTX 3090": Speed(71.2, 936),
    "RTX 3090 Ti": Speed(80.0, 1008),
    "RTX 4060": Speed(30.2, 272),
    "RTX 4060 Ti": Speed(44.1, 288),
    "RTX 4070": Speed(58.3, 504),
    "RTX 4070 SUPER": Speed(71.0, 504),
    "RTX 4070 Ti": Speed(80.2, 504),
    "RTX 4070 Ti SUPER": Speed(88.2, 672),
    "RTX 4080": Speed(97.5, 717),
    "RTX 4080 SUPER": Speed(104.4, 736),
    "RTX 4090": Speed(165.2, 1008),
    "RTX 5060": Speed(38.4, 448),
    "RTX 5060 Ti": Speed(47.4, 448),
    "RTX 5070": Speed(61.7, 672),
    "RTX 5070 Ti": Speed(87.9, 896),
    "RTX 5080": Speed(112.6, 960),
    "RTX 5090": Speed(209.5, 1792),
    "RTX A2000": Speed(31.9, 288),
    "RTX A4000": Speed(76.7, 448),
    "RTX A5000": Speed(111.1, 768),
    "RTX A6000": Speed(154.8, 768),
    "RTX 4000 Ada": Speed(106.9, 360),
    "RTX 5000 Ada": Speed(261.1, 576),
    "RTX 6000 Ada": Speed(364.2, 960),
    "RTX PRO 6000": Speed(503.8, 1792),
    "T4": Speed(65, 320),
    "V100": Speed(125, 900),
    "A10": Speed(125, 600),
    "A10G": Speed(70, 600),
    "A30": Speed(165, 933),
    "A40": Speed(149.7, 696),
    "A100": Speed(312, 1555),
    "L4": Speed(121, 300),
    "L40": Speed(181, 864),
    "L40S": Speed(362, 864),
    "H100": Speed(989, 3350),
    "H200": Speed(989, 4800),
    "B200": Speed(2250, 8000),
}

# Slowest and fastest desktop or data-centre card of each generation, by compute capability.
GENERATIONS = {
    (7, 0): (Speed(112, 650), Speed(130, 1134)),
    (7, 5): (Speed(25.8, 288), Speed(65, 672)),
    (8, 0): (Speed(165, 933), Speed(312, 2039)),
    (8, 6): (Speed(18.2, 192), Speed(154.8, 1008)),
    (8, 9): (Speed(30.2, 272), Speed(364.2, 1008)),
    (9, 0): (Speed(756, 2000), Speed(989, 4800)),
    (10, 0): (Speed(1800, 8000), Speed(2500, 8000)),
    (12, 0): (Speed(30, 320), Speed(503.8, 1792)),
}
SLOWEST, FASTEST = Speed(15, 190), Speed(2500, 8000)


def speed_of(name: str | None) -> Speed | None:
    """The card's figures when its name holds all words of a row; of several rows the one with most words."""
    words = _words(name or "")
    rows = [row for row in CARDS if _words(row) <= words]
    return CARDS[max(rows, key=lambda row: len(_words(row)))] if rows else None


def is_mobile(name: str | None) -> bool:
    """Whether the card is a laptop's, which has the desktop's name and less of its power."""
    return bool({"laptop", "mobile", "max"} & _words(name or ""))


def is_measured(name: str | None) -> bool:
    """Whether the times in `machine/timing.py` were taken on this card."""
    return "h100" in _words(name or "") and not {"pcie", "nvl"} & _words(name or "")


def speeds_of_generation(capability: tuple[int, int] | None) -> tuple[Speed, Speed]:
    """The slowest and the fastest card that has this compute capability; of all cards where it is not known."""
    if capability is None:
        return SLOWEST, FASTEST
    if capability in GENERATIONS:
        return GENERATIONS[capability]
    older = [known for known in GENERATIONS if known < capability]
    return (GENERATIONS[max(older)][0] if older else SLOWEST), FASTEST


def _words(name: str) -> set[str]:
    """The words of a name: "NVIDIA GeForce RTX 4070 Ti SUPER" and "H100-SXM5-80GB" alike."""
    return set(re.findall(r"[a-z0-9]+", name.lower()))
