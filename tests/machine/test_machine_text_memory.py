"""What text encoders need together, in turn and streamed, and which way fits."""

import pytest

from simpletune.machine.estimate import weight_bytes
from simpletune.machine.text_memory import TextWay, groups, text_needs, way_that_fits

GIB = 1 << 30


def needs(precision: str, *, use_t5: bool = True):
    return text_needs("sd3-medium", ("no_change", "no_change", precision), use_t5, "bf16", 8, 154)


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto", "int4-quanto"])
def test_each_way_needs_less_than_the_one_before(precision):
    sizes = [need.bytes for need in needs(precision).values()]
    assert list(needs(precision)) == list(TextWay)
    assert sizes == sorted(sizes, reverse=True)


def test_the_largest_of_what_is_there_at_a_time_counts():
    found = needs("int8-quanto")
    clips = sum(weight_bytes("sd3-medium", part, "no_change", "bf16") for part in ("text_encoder", "text_encoder_2"))
    t5 = weight_bytes("sd3-medium", "text_encoder_3", "int8-quanto", "bf16")
    assert found[TextWay.TOGETHER].weights == clips + t5
    assert found[TextWay.IN_TURN].weights == t5
    assert found[TextWay.STREAMED].weights == clips  # two blocks in int8 are 390 MB


def test_the_fastest_way_that_fits_is_taken_else_the_smallest():
    found = needs("int8-quanto")
    assert way_that_fits(found, None) is TextWay.TOGETHER
    for free, way in ((7, TextWay.TOGETHER), (6, TextWay.IN_TURN), (4, TextWay.STREAMED), (1, TextWay.STREAMED)):
        assert way_that_fits(found, free * GIB) is way
    assert way_that_fits(needs("int8-quanto", use_t5=False), GIB) is TextWay.TOGETHER


def test_encoders_in_turn_are_loaded_once_for_each_group_that_may_wait():
    assert groups(TextWay.TOGETHER, "sd3-medium", "bf16", 10_000, 154) == 1
    assert groups(TextWay.STREAMED, "sd3-medium", "bf16", 850, 154) == 1
    assert groups(TextWay.STREAMED, "sd3-medium", "bf16", 10_000, 154) == 12
