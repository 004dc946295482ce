"""What a first-timer should hear about a set of pictures before training on it."""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.data.survey import Survey, below

_HARDLY, _SUBJECT_ONLY = 5, 10
_GIGABYTE = 1e9


def words_about(
    survey: Survey,
    resolution: int,
    *,
    strategy: str = "textfile",
    square: bool = False,
    disk_needed: int | None = None,
    disk_free: int | None = None,
    memory_needed: int | None = None,
    memory_free: int | None = None,
) -> list[str]:
    """Sentences on what may go wrong with this set; none for a good one. Sizes are bytes; None is not judged."""
    if survey.problem is not None:
        return [survey.problem]
    return [
        *_about_number(survey),
        *_about_sizes(survey, resolution, square),
        *_about_captions(survey, strategy),
        *_about_room("disk", "the encoded pictures", disk_needed, disk_free),
        *_about_room("memory", "the pictures' list", memory_needed, memory_free),
    ]


def _about_number(survey: Survey) -> Iterator[str]:
    usable = survey.usable
    if survey.complete and usable < _HARDLY:
        yield f"{usable} picture{'' if usable == 1 else 's'}: hardly enough to learn from. 10 to 30 suit a subject."
    elif survey.complete and usable < _SUBJECT_ONLY:
        yield f"{usable} pictures are enough for one subject, not for a style. More of them, in other scenes, help."
    if survey.unreadable_count:
        reason = max(survey.reasons, key=lambda reason: survey.reasons[reason])
        yield f"{survey.unreadable_count:,} of {survey.looked_at:,} can't be read and are left out (mostly: {reason})."


def _about_sizes(survey: Survey, resolution: int, square: bool) -> Iterator[str]:
    small = below(survey, resolution, square=square)
    if small * 4 > survey.readable:
        yield (
            f"{small:,} of {survey.readable:,} pictures have fewer pixels than {resolution} x {resolution}: "
            "enlarged ones train blurred. A smaller resolution suits them better."
        )


def _about_captions(survey: Survey, strategy: str) -> Iterator[str]:
    if strategy == "textfile":
        without = survey.missing_text + survey.empty_text
        if without and survey.with_text:
            yield f"{without:,} of {survey.readable:,} pictures have no caption and are left out."
        caption, count = survey.commonest
        if survey.with_text > 2 and count == survey.with_text:
            yield "All captions are the same: the model can't tell what in the pictures is what."
        elif survey.with_text > 9 and count * 2 > survey.with_text:
            yield f'{count:,} of {survey.with_text:,} captions are the same ("{caption[:40]}").'


def _about_room(where: str, what: str, needed: int | None, free: int | None) -> Iterator[str]:
    if needed is not None and free is not None and needed > free:
        yield (
            f"Not enough {where}: {what} take about {needed / _GIGABYTE:.1f} GB, {free / _GIGABYTE:.1f} GB are free. "
            "max_num_samples takes a part of the pictures."
        )
