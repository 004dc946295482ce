"""Orders of a caption's parts: distinct, always the same, the first parts staying."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.captions.shuffle import shuffled

TAGS = "red fox, grass, dusk, side view, blurred background, low sun, two trees, a fence, mist"


def orders(caption: str, count: int, keep: int = 0, separator: str = ",", name: str = "a.png", seed: int = 1):
    return shuffled(caption, separator, count, keep, seed=seed, set_id="foxes", name=name)


@given(
    parts=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=10),
    count=st.integers(1, 50),
    keep=st.integers(0, 4),
    seed=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_orders_are_distinct_whole_and_as_many_as_promised(parts, count, keep, seed):
    found = orders(", ".join(parts), count, keep, seed=seed)
    moving = parts[keep:]
    possible = math.factorial(len(moving)) // math.prod(map(math.factorial, Counter(moving).values()))
    assert len(found) == len(set(found)) == min(count, possible)
    for text in found:
        there = text.split(", ")
        assert there[:keep] == parts[:keep]
        assert Counter(there) == Counter(parts)


def test_the_first_orders_of_a_larger_count_are_those_of_a_smaller():
    for caption in (TAGS, "a, b, c, d"):
        assert orders(caption, 20)[:5] == orders(caption, 5)


def test_what_orders_depend_on():
    known = orders(TAGS, 5)
    assert orders(TAGS, 5) == known
    assert orders(TAGS, 5, name="b.png") != known
    assert orders(TAGS, 5, seed=2) != known
    assert shuffled(TAGS, ",", 5, 0, seed=1, set_id="others", name="a.png") != known


def test_orders_stay_the_same_in_other_versions():
    assert orders("a, b, c, d", 3) == ("b, a, c, d", "b, a, d, c", "d, a, c, b")


@pytest.mark.parametrize("caption", ["one part", "kept, moved", "a,  a,a", "", ", ,"])
def test_a_caption_with_a_single_order_stays_as_written(caption):
    assert orders(caption, 4, keep=1) == (caption,)


@pytest.mark.parametrize(
    ("separator", "caption", "other"),
    [(",", "a,b", "b,a"), (",", "a, b,", "b, a"), ("|", "a | b", "b | a"), (". ", "A b. C d", "C d. A b")],
)
def test_separators_keep_their_blanks(separator, caption, other):
    assert other in orders(caption, 2, separator=separator)


def test_orders_are_spread_evenly():
    first = Counter(orders("a, b, c", 1, name=str(number))[0] for number in range(1200))
    assert len(first) == 6
    assert all(150 < times < 250 for times in first.values())
    far = Counter(orders(TAGS, 1, name=str(number))[0].split(", ")[0] for number in range(900))
    assert len(far) == 9
    assert all(60 < times < 140 for times in far.values())


def test_many_parts_and_a_name_of_broken_bytes():
    tags = ", ".join(f"tag {number}" for number in range(200))
    assert len(set(orders(tags, 100, name="a\udce4.png"))) == 100
