"""What is proposed for a data set: where captions come from, resolution, crop, repeats. Pure functions of a survey."""

from __future__ import annotations

from collections.abc import Sequence

from simpletune.config.families import Flavour
from simpletune.data.survey import Survey, below
from simpletune.data.survey_lines import shape_of
from simpletune.wizard.proposal import Fits, Proposal, is_small

RESOLUTIONS = (512, 768, 1024)
_MOST_REACH = 0.75
_NEARLY_ALL_SQUARE = 0.9
_MOST_HAVE_TEXT = 0.5
_UNBALANCED = 3.0
_MOST_TIMES = 10


def caption_options(survey: Survey) -> tuple[tuple[str, str, str | None], ...]:
    """(caption_strategy, what it means here, why it can't be chosen or None), in the order to show them."""
    texts = f"{survey.with_text:,} of {_these(survey)} have a .txt with a caption beside them"
    names = f'"{survey.name_captions[0]}"' if survey.name_captions else ""
    return (
        ("textfile", texts, None if survey.with_text else "no picture has a .txt with a caption beside it"),
        (
            "filename",
            f"such as {names}",
            None if survey.likely_names else f"the names say nothing of the pictures{f' ({names})' if names else ''}",
        ),
        ("instanceprompt", "one phrase of yours for all pictures", None),
    )


def propose_captions(survey: Survey) -> Proposal[str]:
    """Where a set's captions come from: a `caption_strategy`."""
    readable = max(1, survey.readable)
    if survey.with_text > _MOST_HAVE_TEXT * readable:
        return Proposal("textfile", f"{survey.with_text:,} of {_these(survey)} have a .txt beside them")
    numbered = survey.readable > 3 and survey.distinct_names * 2 < survey.readable
    if survey.likely_names > _MOST_HAVE_TEXT * readable and not numbered:
        return Proposal("filename", f'the names read like captions ("{survey.name_captions[0]}")')
    some = (
        f"only {survey.with_text:,} of {_these(survey)} have a .txt" if survey.with_text else "no captions were found"
    )
    return Proposal("instanceprompt", f"{some}: one phrase stands for all")


def resolutions(flavour: Flavour) -> tuple[int, ...]:
    """The sizes a flavour can sensibly be trained at, in pixels, smallest first."""
    if is_small(flavour):
        return (flavour.resolution,)
    return (*(size for size in RESOLUTIONS if size < flavour.resolution), flavour.resolution)


def propose_resolution(survey: Survey, flavour: Flavour, fits: Fits) -> Proposal[int]:
    """The largest size that fits and most pictures have; `fits(size)` says whether the device's memory takes it."""
    sizes = resolutions(flavour)
    if len(sizes) == 1:
        return Proposal(sizes[0], "the size this model was made for")
    fitting = [size for size in sizes if fits(size)] or [sizes[0]]
    reached = [size for size in fitting if survey.readable - below(survey, size) >= _MOST_REACH * survey.readable]
    value = max(reached, default=fitting[0])
    larger = [size for size in fitting if size > value]
    if survey.readable and not reached:
        return Proposal(value, f"most pictures are smaller than even {value} x {value}")
    if larger:
        small = below(survey, larger[0])
        return Proposal(value, f"{small:,} of {_these(survey)} would be enlarged at {larger[0]}")
    if value == sizes[-1]:
        return Proposal(value, "the size this model was made for")
    return Proposal(value, f"{sizes[sizes.index(value) + 1]} doesn't fit into the memory")


def propose_crop(survey: Survey) -> Proposal[bool]:
    """Whether to cut all pictures to squares (True) or keep each one's shape (False)."""
    square = sum(count for size, count in survey.sizes.items() if shape_of(*size) == "square")
    if survey.readable and square >= _NEARLY_ALL_SQUARE * survey.readable:
        return Proposal(True, f"{square:,} of {_these(survey)} are square")
    return Proposal(False, "the pictures differ in shape, and nothing of them is cut off")


def propose_repeats(survey: Survey, others: Sequence[Survey] = ()) -> Proposal[int]:
    """Extra showings of each picture an epoch (0 = once); more for a set much smaller than the largest of `others`."""
    largest = max((other.usable for other in others), default=0)
    own = survey.usable
    if not own or largest < _UNBALANCED * own:
        return Proposal(0, "once is enough: the run's length decides how often each is seen")
    times = min(round(largest / own), _MOST_TIMES)
    return Proposal(times - 1, f"{own:,} pictures beside {largest:,}: {times} times keeps them from being drowned")


def _these(survey: Survey) -> str:
    seen = f"{survey.readable:,} picture{'' if survey.readable == 1 else 's'}"
    return seen if survey.complete else f"{seen} looked at"
