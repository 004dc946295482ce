"""What a first-timer should hear about a set of pictures before training on it."""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.data.geometry import WIDEST_ASPECT
from simpletune.data.survey import Survey, below
from simpletune.wizard.data_proposals import propose_captions

_HARDLY, _SUBJECT_ONLY = 5, 10
_GIGABYTE = 1e9
_OTHER_CAPTIONS = (".caption", ".json", ".jsonl", ".csv", ".parquet")
_SAME_BEGINNING = 40


def words_about(
    survey: Survey,
    resolution: int,
    *,
    strategy: str | None = None,
    square: bool = False,
    disk_needed: int | None = None,
    disk_free: int | None = None,
    memory_needed: int | None = None,
    memory_free: int | None = None,
) -> list[str]:
    """Sentences on what may go wrong with this set; none for a good one.

    `strategy` is its `caption_strategy`, by default the proposed one; with `square` the pictures are cropped to that.
    Sizes are bytes; None is not judged.
    """
    if survey.problem is not None:
        return [survey.problem]
    if survey.unseen is not None:
        return []
    return [
        *_about_number(survey),
        *_about_sizes(survey, resolution, square),
        *_about_captions(survey, strategy or propose_captions(survey).value),
        *_about_room("disk", "the encoded pictures", disk_needed, disk_free),
        *_about_room("memory", "the pictures", memory_needed, memory_free),
    ]


def _about_number(survey: Survey) -> Iterator[str]:
    usable = survey.usable
    if survey.complete and usable < _HARDLY:
        some = "1 picture is" if usable == 1 else f"{usable} pictures are"
        yield f"{some} hardly enough to learn from: 10 to 30 suit a subject, more a style."
    elif survey.complete and usable < _SUBJECT_ONLY:
        yield f"{usable} pictures are enough for one subject, not for a style. More of it, in other scenes, would help."
    if survey.unreadable_count:
        reason = max(survey.reasons, key=lambda reason: survey.reasons[reason])
        yield f"{survey.unreadable_count:,} of {survey.looked_at:,} can't be read and are left out (mostly: {reason})."


def _about_sizes(survey: Survey, resolution: int, square: bool) -> Iterator[str]:
    small = below(survey, resolution, square=square)
    if small * 4 > survey.readable:
        yield (
            f"{small:,} of {survey.readable:,} pictures are smaller than {resolution} x {resolution}: enlarged ones "
            "train blurred. Larger pictures, or a smaller resolution, train sharper."
        )
    long = sum(count for (w, h), count in survey.sizes.items() if max(w, h) > WIDEST_ASPECT * min(w, h))
    if long and not square:
        yield f"{long:,} of {survey.readable:,} are longer than {WIDEST_ASPECT:g}:1 and left out unless cropped."


def _about_captions(survey: Survey, strategy: str) -> Iterator[str]:
    other = next((kind for kind in _OTHER_CAPTIONS if survey.other_files.get(kind) and not survey.tables), None)
    if not survey.with_text and survey.other_files.get(".txt"):
        count = survey.other_files[".txt"]
        yield f"{count:,} .txt file{'' if count == 1 else 's'} found, but none with a caption and a picture's name."
    elif not survey.with_text and other is not None and survey.other_files[other] * 2 > survey.readable:
        yield f"{survey.other_files[other]:,} {other} files found; captions are read from .txt files and from tables."
    if strategy == "textfile":
        yield from _about_texts(survey)


def _about_texts(survey: Survey) -> Iterator[str]:
    without = survey.missing_text + survey.empty_text
    if without and survey.with_text:
        yield f"{without:,} of {survey.readable:,} pictures have no caption and are left out."
    caption, count = survey.commonest
    if survey.with_text > 2 and count == survey.with_text:
        yield "All captions are the same: nothing tells the model what is what in the pictures."
    elif survey.with_text > 9 and count * 2 > survey.with_text:
        yield f'{count:,} of {survey.with_text:,} captions are the same ("{caption[:_SAME_BEGINNING]}").'


def _about_room(where: str, what: str, needed: int | None, free: int | None) -> Iterator[str]:
    if needed is not None and free is not None and needed > free:
        yield (
            f"Not enough {where}: {what} take about {needed / _GIGABYTE:.1f} GB, {free / _GIGABYTE:.1f} GB are free. "
            "max_num_samples takes a part of the pictures."
        )
