"""What becomes of a model's answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.data.captioning.text import clean, with_trigger

ANSWERS = {
    "A red car on a street.": "A red car on a street.",
    "  A red car\n\non a\tstreet. ": "A red car on a street.",
    "The image shows a red car.": "A red car.",
    "This picture clearly depicts two dogs in snow.": "Two dogs in snow.",
    "The black photo features a cat": "A cat",
    "This is an image of a lake at dawn.": "A lake at dawn.",
    "In this image, there is a castle.": "A castle.",
    "In the picture we can see a bus": "A bus",
    "In this photograph, a man reads.": "A man reads.",
    "Sure! Here's a caption for the picture: A tall tower.": "A tall tower.",
    "Here is a description of the image:\n\nThe image shows a bird.": "A bird.",
    '"A boat on the sea."': "A boat on the sea.",
    "“A boat.”": "A boat.",
    '"No" and "yes" on two doors': '"No" and "yes" on two doors',
    "**Caption:** A _calm_ lake": "A _calm_ lake",
    "Caption: the image depicts “fog”": "fog",
    "## Description\n\n- A **bold** cat\n- on a `sofa`": "Description A bold cat on a sofa",
    "1. A house\n2. A tree": "A house A tree",
    "<think>What is it?</think>A frog.": "A frog.",
    "<think>What is it? A": "",
    "A [link](http://x.y/z) on a wall": "A link on a wall",
    "The imagery shows care.": "The imagery shows care.",
    "A painting of a pictured image": "A painting of a pictured image",
    "snake_case_name and 2*3*4": "snake_case_name and 2*3*4",
    "The image shows": "The image shows",
    "Ein Straßenschild, das „Halt“ sagt": "Ein Straßenschild, das „Halt“ sagt",
    "一只猫坐在窗台上。": "一只猫坐在窗台上。",
    "...": "",
    "": "",
}


@pytest.mark.parametrize(("answer", "caption"), ANSWERS.items())
def test_answers(answer, caption):
    assert clean(answer) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A cat sits. It looks at the w", "A cat sits."),
        ('He says "stop!" Then the', 'He says "stop!"'),
        ("A cat that is 3.5 feet ta", "A cat that is 3.5 feet"),
        ("Mr. Smith and Dr. Jones stand in a ro", "Mr. Smith and Dr. Jones stand in a"),
        ("A cat, a dog, and", "A cat, a dog"),
        ("Supercal", "Supercal"),
        ("The image shows a cat. Beh", "A cat."),
        ("猫坐着。它在", "猫坐着。"),
    ],
)
def test_an_answer_that_was_cut_ends_at_a_sentence_or_a_word(answer, caption):
    assert clean(answer, cut=True) == caption


PIECES = st.sampled_from(
    [
        "The image shows ",
        "a cat",
        ". ",
        '"',
        "**",
        "\n",
        "- ",
        "# ",
        "Caption: ",
        "<think>",
        "</think>",
        "“",
        "”",
        "`",
        "3.5 ",
    ]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join), st.booleans())
def test_a_caption_is_one_line_and_clean_already(answer, cut):
    caption = clean(answer, cut)
    assert caption == caption.strip()
    assert "\n" not in caption
    assert clean(caption) == caption


@pytest.mark.parametrize(
    ("trigger", "caption", "whole"),
    [
        ("sks dog", "A dog.", "sks dog, A dog."),
        ("  sks\n dog ", "A dog.", "sks dog, A dog."),
        ("In ohwx style:", "a dog", "In ohwx style: a dog"),
        ("sks", "SKS on a wall", "SKS on a wall"),
        ("", "A dog.", "A dog."),
        ("sks", "", ""),
    ],
)
def test_trigger_words_stand_in_front_once(trigger, caption, whole):
    assert with_trigger(trigger, caption) == whole
