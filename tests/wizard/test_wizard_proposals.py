"""What the wizard recommends for a set of pictures, and the reasons it gives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.config.families import SD3
from simpletune.data.survey import Survey
from simpletune.wizard import proposals
from simpletune.wizard.prompt_proposals import SUBJECTS, shared_lead
from simpletune.wizard.proposals import Proposal

MEDIUM, TINY = SD3.flavours["sd3-medium"], SD3.flavours["tiny"]
EVERYTHING, NOTHING = (lambda _: True), (lambda _: False)


def words(*texts: str) -> frozenset[str]:
    return frozenset(word for text in texts for word in re.findall(r"\w{2,}", text.lower()))


def found(
    sizes: dict[tuple[int, int], int] | None = None,
    captions: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    **changes,
) -> Survey:
    """A survey of pictures of which the first have these captions, and whose names read like captions if given."""
    sizes = {(1024, 1024): 26} if sizes is None else sizes
    readable = sum(sizes.values())
    values = Survey(
        folder=Path("/pictures"),
        pictures=readable,
        looked_at=readable,
        listed_all=True,
        seconds=0.1,
        sizes=sizes,
        unreadable=(),
        reasons={},
        with_text=len(captions),
        empty_text=0,
        missing_text=max(0, readable - len(captions)),
        captions=tuple(dict.fromkeys(captions)),
        distinct_captions=len(set(captions)),
        commonest=max(((c, captions.count(c)) for c in captions), key=lambda pair: pair[1], default=("", 0)),
        name_captions=names or ("IMG 2034",),
        likely_names=len(names),
        distinct_names=len(set(names)),
        commonest_name=max(((n, names.count(n)) for n in names), key=lambda pair: pair[1], default=("", 0)),
        words=words(*captions, *names),
        notes={},
        other_files={},
    )
    return replace(values, **changes)


EDGES = st.integers(1, 10_000)
LINES = st.text(min_size=1, max_size=30).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def surveys(draw) -> Survey:
    sizes = draw(st.dictionaries(st.tuples(EDGES, EDGES), st.integers(1, 1000), max_size=5))
    readable = sum(sizes.values())
    captions = tuple(draw(st.lists(LINES, max_size=min(readable, 4))))
    names = tuple(draw(st.lists(LINES, max_size=min(readable, 4))))
    return found(sizes, captions, names, pictures=readable + draw(st.integers(0, 50)), listed_all=draw(st.booleans()))


@given(surveys(), st.lists(surveys(), max_size=2), st.sampled_from([MEDIUM, TINY]), st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_every_survey_gets_proposals_with_reasons(survey, others, flavour, largest):
    made = [
        proposals.propose_captions(survey),
        proposals.propose_trigger(survey),
        proposals.propose_resolution(survey, flavour, lambda size: size <= largest),
        proposals.propose_crop(survey),
        proposals.propose_repeats(survey, others),
        *proposals.propose_prompts([survey, *others], None),
    ]
    assert all(isinstance(one, Proposal) and one.reason and not one.reason.endswith(".") for one in made)
    assert made[2].value in proposals.resolutions(flavour)
    assert all(str(one.value).strip() for one in made[-3:])
    options = proposals.caption_options(survey)
    assert [value for value, _, _ in options] == ["textfile", "filename", "instanceprompt"]
    chosen = next(option for option in options if option[0] == made[0].value)
    assert chosen[2] is None
    assert all(isinstance(word, str) for word in proposals.words_about(survey, 1024))


def test_captions_from_what_is_there():
    full, part = found(captions=("a cat",) * 24), found(captions=("a cat",) * 8)
    assert proposals.propose_captions(full) == Proposal("textfile", "24 of 26 pictures have a .txt beside them")
    assert proposals.propose_captions(part).value == "instanceprompt"
    assert "only 8 of 26" in proposals.propose_captions(part).reason
    assert proposals.caption_options(part)[0][1] == "8 of 26 pictures have one; the other 18 are left out"
    named = found({(9, 9): 3}, names=("red parrot", "blue whale", "two cats"))
    assert proposals.propose_captions(named).value == "filename"
    assert proposals.caption_options(named)[0][2] == "no picture has a .txt of the same name with a caption in it"
    plain = found()
    assert proposals.propose_captions(plain).value == "instanceprompt"
    assert proposals.caption_options(plain)[1][2] == "the names say nothing of the pictures (IMG 2034)"


def test_a_numbered_series_of_names_makes_a_trigger_and_no_captions():
    series = found({(9, 9): 20}, names=("my dog",) * 20)
    assert proposals.propose_captions(series).value == "instanceprompt"
    assert proposals.propose_trigger(series).value == "a picture of my dog"


@pytest.mark.parametrize(
    ("folder", "phrase"),
    [
        ("10_rex dog", "a picture of rex dog"),
        ("blue_teapot", "a picture of blue teapot"),
        ("training images", "a picture of ohwx"),
        ("2024-01-05", "a picture of ohwx"),
    ],
)
def test_the_folder_gives_a_trigger_if_its_name_says_something(folder, phrase):
    assert proposals.propose_trigger(found(folder=Path("/x") / folder)).value == phrase


def test_resolution():
    def proposed(sizes, fits=EVERYTHING):
        return proposals.propose_resolution(found(sizes), MEDIUM, fits)

    assert proposed({(1024, 1024): 9, (400, 400): 1}).value == 1024
    mixed = proposed({(1024, 1024): 5, (800, 800): 5})
    assert (mixed.value, mixed.reason) == (768, "5 of 10 pictures would be enlarged at 1024")
    assert proposed({(700, 1600): 9}).value == 1024
    assert proposed({(300, 300): 9}) == Proposal(512, "most pictures are smaller than even 512 x 512")
    short = proposed({(2000, 2000): 9}, lambda size: size < 1024)
    assert (short.value, short.reason) == (768, "1024 doesn't fit into the memory")
    assert proposed({(2000, 2000): 9}, NOTHING).value == 512
    assert proposals.propose_resolution(found({(9, 9): 1}), TINY, EVERYTHING).value == TINY.resolution


def test_crop_when_nearly_all_are_square():
    assert proposals.propose_crop(found({(1024, 1000): 19, (1024, 600): 1})).value is True
    assert proposals.propose_crop(found({(1024, 1000): 5, (1024, 600): 5})).value is False


def test_repeats_balance_sets_of_different_size():
    few, many, all_of_them = found({(9, 9): 10}), found({(9, 9): 55}), found({(9, 9): 9000})
    assert proposals.propose_repeats(few).value == 0
    assert proposals.propose_repeats(few, [few]).value == 0
    assert proposals.propose_repeats(few, [few, many]).value == 5
    assert proposals.propose_repeats(few, [all_of_them]).value == 9
    assert proposals.propose_repeats(many, [few]).value == 0
    assert proposals.propose_repeats(found({(9, 9): 1}), [few]).reason == "1 picture beside 10 would hardly count"


@given(st.integers(1, 10**6), st.integers(0, 50), st.integers(1, 64), st.sampled_from([MEDIUM, TINY]))
@settings(max_examples=50, deadline=None)
def test_a_run_has_a_sensible_length(pictures, repeats, batch, flavour):
    steps = proposals.propose_steps(pictures, repeats, batch, flavour)
    assert (500 <= steps.value <= 4000) if flavour is MEDIUM else (100 <= steps.value <= 300)
    assert steps.value <= proposals.propose_steps(pictures + 1, repeats, batch, flavour).value
    assert steps.value >= proposals.propose_steps(pictures, repeats, batch + 1, flavour).value
    for interval in (
        proposals.propose_checkpoint_interval(steps.value),
        proposals.propose_validation_interval(steps.value),
    ):
        assert 2 <= steps.value / interval.value <= 14


def test_steps_are_told_as_showings():
    assert proposals.propose_steps(20, 0, 1) == Proposal(2000, "a picture (of 20) is seen about 100 times")
    assert proposals.propose_steps(20, 3, 1).reason.endswith("100 times on average (25 epochs)")
    assert "only 4,000 of the 10,000" in proposals.propose_steps(10_000, 0, 1).reason
    assert proposals.propose_checkpoint_interval(2000).value == 500
    assert proposals.propose_validation_interval(2000).value == 250
    assert proposals.propose_checkpoint_interval(1).value == 1


def test_learning_rates():
    assert proposals.propose_learning_rate("adamw").value == 1e-4
    assert proposals.propose_learning_rate("lion").value == pytest.approx(1e-4 / 3, rel=0.2)
    assert proposals.propose_learning_rate("adafactor").value == 1e-2
    assert proposals.propose_learning_rate("prodigy", TINY).value == 1.0
    assert proposals.propose_learning_rate("adamw", TINY).value > 1e-3


def test_batch_by_number_and_memory():
    assert [proposals.propose_batch(count, EVERYTHING).value for count in (1, 11, 24, 48, 9999)] == [1, 1, 2, 4, 4]
    assert proposals.propose_batch(100, lambda size: size <= 2) == Proposal(2, "4 don't fit into the memory")
    assert proposals.propose_batch(100, NOTHING).value == 1


def test_rank_by_number_and_purpose():
    assert [proposals.propose_rank(count).value for count in (5, 26, 1000)] == [8, 16, 32]
    assert proposals.propose_rank(5, "style").value == 32
    assert proposals.propose_rank(1000, fits=lambda rank: rank <= 8).value == 8


ANIMALS = ("a drawing of a red parrot", "a drawing of a whale", "a drawing of a lighthouse", "a drawing of two cats")


def test_prompts_are_two_captions_and_something_else_said_alike():
    first, second, outside = proposals.propose_prompts([found({(9, 9): 4}, ANIMALS)], None)
    assert first.value in ANIMALS
    assert second.value in ANIMALS
    assert first.value != second.value
    assert outside.value.startswith("a drawing of ")
    assert "lighthouse" not in outside.value
    assert outside.value.removeprefix("a drawing of ") in SUBJECTS


def test_prompts_with_a_trigger():
    plain = found({(9, 9): 9})
    values = [one.value for one in proposals.propose_prompts([plain], "ohwx dog")]
    assert values[0] == "ohwx dog"
    assert values[1].startswith("ohwx dog")
    assert values[2] in SUBJECTS  # a phrase is a subject itself, and no two are put together
    (_, _, outside) = proposals.propose_prompts([plain], "ohwx")
    assert outside.value.startswith("ohwx ")
    captioned = proposals.propose_prompts([found({(9, 9): 2}, ("ohwx dog runs", "a cat sits"))], "ohwx dog")
    assert {one.value for one in captioned[:2]} == {"ohwx dog runs", "ohwx dog a cat sits"}


def test_prompts_follow_the_strategies_and_every_set():
    sets = [found({(9, 9): 1}, ("a cat",)), found({(9, 9): 1}, names=("blue teapot",))]
    assert {one.value for one in proposals.propose_prompts(sets, None)[:2]} == {"a cat", "blue teapot"}
    only_names = proposals.propose_prompts([replace(sets[0], name_captions=("old cat",))], None, ["filename"])
    assert only_names[0].value == "old cat"


@given(st.lists(st.sampled_from(SUBJECTS), max_size=len(SUBJECTS) - 1))
@settings(max_examples=30, deadline=None)
def test_the_outside_subject_is_outside(subjects):
    prompt = proposals.outside_prompt([found(captions=tuple(subjects))])
    assert prompt.value not in subjects


def test_a_set_that_speaks_of_everything_is_told():
    prompt = proposals.outside_prompt([found({(9, 9): 99}, SUBJECTS)])
    assert prompt.value in SUBJECTS
    assert "nearly everything" in prompt.reason


@pytest.mark.parametrize(
    ("captions", "lead"),
    [
        (("a photo of a cat", "a photo of the dog", "a photo of rain"), "a photo of"),
        (("watercolour, a cat", "watercolour, rain", "watercolour, a dog on a hill"), "watercolour,"),
        (("a red parrot sits", "a red parrot flies", "a red parrot eats"), ""),
        (("a cat", "a dog"), ""),
        ((), ""),
    ],
)
def test_how_captions_begin(captions, lead):
    assert shared_lead(captions) == lead


def test_words_about_sets_that_may_disappoint():
    def said(survey, **more):
        return " ".join(proposals.words_about(survey, 1024, **more))

    good = found(captions=tuple(f"picture {n}" for n in range(26)))
    assert proposals.words_about(good, 1024, disk_needed=5, disk_free=5) == []
    assert "hardly enough" in said(found({(1024, 1024): 3}))
    assert "one subject" in said(found({(1024, 1024): 8}))
    assert "26 of 26 pictures are smaller than 1024 x 1024" in said(found({(512, 512): 26}))
    assert "longer than 8:1" in said(found({(9000, 900): 26}))
    assert "All captions are the same" in said(found(captions=("a cat",) * 26))
    assert '15 of 20 captions are the same ("a cat")' in said(
        found(captions=(*("a cat",) * 15, *"bcdef"), missing_text=6), strategy="textfile"
    )
    assert "2 of 26 pictures have no caption" in said(found(captions=tuple(f"{n} cats" for n in range(24))))
    assert "3 of 26 can't be read" in said(found({(1024, 1024): 23}, looked_at=26, reasons={"empty file": 3}))
    assert "5 .txt files found" in said(found(other_files={".txt": 5}))
    assert "30 .json files found" in said(found(other_files={".json": 30}))
    assert "Not enough disk" in said(good, disk_needed=3 * 10**9, disk_free=10**9)
    assert "3.0 GB, 1.0 GB are free" in said(good, memory_needed=3 * 10**9, memory_free=10**9)
    assert said(found({}, problem="there is no folder /x")) == "there is no folder /x"
