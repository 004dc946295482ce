"""What is proposed for a data set: where captions come from, resolution, crop, repeats. Pure functions of a survey."""

from __future__ import annotations

import re
from collections.abc import Sequence

from simpletune.config.families import Flavour
from simpletune.data.survey import Survey, TableLook, below
from simpletune.data.survey.names import speaking_words
from simpletune.data.survey.wording import shape_of
from simpletune.wizard.proposal import Fits, Proposal, is_small

RESOLUTIONS = (512, 768, 1024)
_MOST_REACH = 0.75
_NEARLY_ALL = 0.9
_MOST = 0.5
_FEW_NAMES = 4
_UNBALANCED = 3.0
_MOST_TIMES = 10
_LONGEST_SHOWN = 40
_TAGS, _WORDS_OF_A_TAG = 5, 3
_TELLS_NOTHING = frozenset({"data", "dataset", "datasets", "training", "folder", "images", "new", "set", "my"})

CaptionOption = tuple[str, str, str | None]
"""(caption_strategy, what it means for these pictures, why it can't be chosen or None)"""


def caption_options(survey: Survey) -> tuple[CaptionOption, ...]:
    """The values of `caption_strategy` that need no table, in the order to show them."""
    one_phrase: CaptionOption = ("instanceprompt", "one phrase of yours for all pictures", None)
    return (_own(survey) if survey.type == "huggingface" else _texts(survey)), _names(survey), one_phrase


def _own(survey: Survey) -> CaptionOption:
    if survey.hub is not None and not survey.hub.texts:
        return "huggingface", "", "no column of it holds text"
    if survey.unseen or survey.hub is None:
        return "huggingface", "", None
    if not survey.with_own:
        return "huggingface", "", "the pictures looked at have none there"
    return "huggingface", f"{survey.with_own:,} of {_these(survey)} have one", None


def _texts(survey: Survey) -> CaptionOption:
    if survey.unseen:
        return "textfile", "pictures without one are left out", None
    if survey.with_text:
        rest = survey.missing_text + survey.empty_text
        left_out = f"; the other {rest:,} {'is' if rest == 1 else 'are'} left out" if rest else ""
        return "textfile", f"{survey.with_text:,} of {_these(survey)} have one{left_out}", None
    return "textfile", "", "no picture has a .txt of the same name with a caption in it"


def _names(survey: Survey) -> CaptionOption:
    name = _shortened(survey.name_captions[0]) if survey.name_captions else ""
    if survey.likely_names:
        return "filename", f'such as "{name}"', None
    return "filename", "", f"the names say nothing of the pictures{f' ({name})' if name else ''}"


def propose_captions(survey: Survey) -> Proposal[str]:
    """Where a set's captions come from: a `caption_strategy`, or the path of a table that was found."""
    if survey.type == "huggingface":
        known = _own(survey)[2] is None
        if known and (survey.unseen or survey.hub is None or survey.with_own > _MOST * survey.readable):
            unseen = "the usual case; the data set could not be looked at yet"
            return Proposal("huggingface", unseen if survey.unseen else "the data set brings its captions")
    elif survey.unseen:
        return Proposal("textfile", "the usual case; the pictures have not been looked at")
    if survey.with_text > _MOST * survey.readable:
        return Proposal("textfile", f"{survey.with_text:,} of {_these(survey)} have a .txt beside them")
    table = next(iter(survey.tables), None)
    if table is not None and table.matching > _MOST * min(table.rows, survey.pictures):
        return Proposal(table.path, f"{_table_said(table)} these pictures")
    if survey.likely_names > _MOST * survey.readable and not _is_series(survey):
        return Proposal("filename", f'the names read like captions ("{_shortened(survey.name_captions[0])}")')
    some = (
        f"only {survey.with_text:,} of {_these(survey)} have a .txt" if survey.with_text else "no captions were found"
    )
    return Proposal("instanceprompt", f"{some}: one phrase stands for all")


def table_note(table: TableLook) -> str:
    """What was seen of a table, for who chooses it."""
    return f'{_table_said(table)} them, such as "{_shortened(table.example)}"'


def _table_said(table: TableLook) -> str:
    first = "" if table.complete else f"in its first {table.rows:,} rows "
    return f"{first}it has captions of {table.matching:,} of"


def looks_like_tags(captions: Sequence[str]) -> bool:
    """Whether most captions are lists of short parts between commas, whose order says nothing."""
    lists = [parts for parts in (caption.split(",") for caption in captions) if len(parts) >= _TAGS]
    short = [
        parts for parts in lists if sum(len(part.split()) <= _WORDS_OF_A_TAG for part in parts) >= _MOST * len(parts)
    ]
    return bool(captions) and len(short) > _MOST * len(captions)


def propose_trigger(survey: Survey) -> Proposal[str]:
    """The phrase for a set without captions, from what its files or its folder are called; a word of no meaning if not.

    `10_rex dog`, as other trainers have their folders named, is "rex dog".
    """
    name, count = survey.commonest_name
    if count > _MOST * survey.readable:
        return Proposal(f"a picture of {name}", "what most files are called; a rare word calls it up more surely")
    words = speaking_words(re.sub(r"^\d+_", "", survey.folder.name))
    telling = [word for word in words if word not in _TELLS_NOTHING]
    if telling:
        whose = "folder" if survey.type == "local" else "data set"
        return Proposal(f"a picture of {' '.join(telling)}", f"the {whose}'s name; a rare word calls it up more surely")
    return Proposal("a picture of ohwx", "a word that means nothing yet, so that it can come to mean these pictures")


def resolutions(flavour: Flavour) -> tuple[int, ...]:
    """The sizes a flavour can sensibly be trained at, in pixels, smallest first."""
    if is_small(flavour):
        return (flavour.resolution,)
    return (*(size for size in RESOLUTIONS if size < flavour.resolution), flavour.resolution)


def propose_resolution(survey: Survey, flavour: Flavour, fits: Fits) -> Proposal[int]:
    """The largest size that fits and most pictures have; `fits(size)` says whether the device's memory takes it."""
    sizes = resolutions(flavour)
    if len(sizes) == 1 or (survey.unseen and fits(sizes[-1])):
        return Proposal(sizes[-1], "the size this model was made for")
    fitting = [size for size in sizes if fits(size)]
    if not fitting:
        return Proposal(sizes[0], "the smallest there is; not even that fits into the memory as it is set now")
    reached = [size for size in fitting if survey.readable - below(survey, size) >= _MOST_REACH * survey.readable]
    if not reached:
        return Proposal(fitting[0], f"most pictures are smaller than even {fitting[0]} x {fitting[0]}")
    value = reached[-1]
    if value != fitting[-1]:
        larger = fitting[fitting.index(value) + 1]
        return Proposal(value, f"{below(survey, larger):,} of {_these(survey)} would be enlarged at {larger}")
    if value != sizes[-1]:
        return Proposal(value, f"{sizes[sizes.index(value) + 1]} doesn't fit into the memory")
    return Proposal(value, "the size this model was made for, and the pictures have it")


def propose_crop(survey: Survey) -> Proposal[bool]:
    """Whether to cut all pictures to squares (True) or keep each one's shape (False)."""
    square = sum(count for size, count in survey.sizes.items() if shape_of(*size) == "square")
    if survey.readable and square >= _NEARLY_ALL * survey.readable:
        return Proposal(True, f"{square:,} of {_these(survey)} are square, or nearly")
    if not survey.readable:
        return Proposal(False, "nothing of them is cut off")
    return Proposal(False, "the pictures differ in shape, and nothing of them is cut off")


def propose_repeats(survey: Survey, others: Sequence[Survey] = ()) -> Proposal[int]:
    """Extra showings of each picture an epoch (0 = once); more for a set much smaller than the largest of `others`."""
    largest = max((other.usable for other in others), default=0)
    own = survey.usable
    if not own or largest < _UNBALANCED * own:
        return Proposal(0, "the run's length decides how often each is seen")
    times = min(round(largest / own), _MOST_TIMES)
    return Proposal(times - 1, f"{own:,} picture{'' if own == 1 else 's'} beside {largest:,} would hardly count")


def _is_series(survey: Survey) -> bool:
    """Whether the names are one or few phrases with numbers ("my_dog_01", "my_dog_02"): no captions, though words."""
    return survey.likely_names >= _FEW_NAMES and survey.distinct_names * 2 < survey.likely_names


def _these(survey: Survey) -> str:
    seen = f"{survey.readable:,} picture{'' if survey.readable == 1 else 's'}"
    return seen if survey.complete else f"{seen} looked at"


def _shortened(caption: str) -> str:
    return caption if len(caption) <= _LONGEST_SHOWN else f"{caption[: _LONGEST_SHOWN - 3]}..."
