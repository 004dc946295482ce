"""Three validation prompts: two that the set holds, and one that it doesn't, to see what the adapter does elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from simpletune.config.rules_captions import TABLES
from simpletune.data.survey import Survey
from simpletune.redact import looks_like_token
from simpletune.wizard.data_proposals import propose_captions
from simpletune.wizard.proposal import Proposal

SUBJECTS = (
    "a lighthouse on a cliff",
    "a red bicycle leaning against a wall",
    "a bowl of oranges on a table",
    "a steam train crossing a bridge",
    "a sailing boat at sea",
    "a village in the snow",
    "a hot air balloon above hills",
    "a cup of coffee beside a window",
    "a castle in the fog",
    "an astronaut riding a horse",
    "a grand piano in an empty hall",
    "a cactus in a clay pot",
    "a windmill among tulips",
    "a waterfall in the jungle",
    "a robot playing chess",
)
"""What may be asked for beside the set; no two share a noun, so that a set of one kind leaves most of them outside."""

Prompts = tuple[Proposal[str], Proposal[str], Proposal[str]]

_SMALL_WORDS = frozenset(
    ("a", "an", "the", "on", "in", "at", "of", "to", "and", "with", "among", "above", "against", "beside")
)
_LEAD_INS = ("of", "showing", "depicting")
_SHARED = 0.8


def propose_prompts(surveys: Sequence[Survey], trigger: str | None, strategies: Sequence[str] = ()) -> Prompts:
    """Two of the sets' captions, different where there are two, and a subject outside them.

    `trigger` is put before captions that lack it. `strategies` are the sets' `caption_strategy`; without them, the
    proposed ones.
    """
    trigger = " ".join((trigger or "").split())
    captions = [_with(trigger, caption) for caption in _captions(surveys, strategies)]
    if not captions:
        captions = [trigger, f"{trigger}, at night in the rain"] if trigger else []
        why = "the phrase for all", "the phrase in a setting of its own"
    elif len(set(captions)) == 1:
        captions = [captions[0], f"{captions[0]}, at night in the rain"]
        why = "a caption of the set", "the same, in another setting"
    else:
        captions = _two_different(captions)
        why = "a caption of the set", "another caption of the set"
    if not captions:
        captions, why = list(SUBJECTS[-2:]), ("any subject: the set has no captions yet",) * 2
    outside = outside_prompt(surveys, trigger)
    return Proposal(captions[0], why[0]), Proposal(captions[1], why[1]), outside


def outside_prompt(surveys: Sequence[Survey], trigger: str = "") -> Proposal[str]:
    """A subject that no caption speaks of, said as the captions say theirs ("a drawing of", the trigger)."""
    words = {word for survey in surveys for word in survey.words} | set(_words(trigger))
    subject = next((s for s in SUBJECTS if not words & _nouns(s)), None)
    if subject is None:
        subject = min(SUBJECTS, key=lambda s: len(words & _nouns(s)))
        reason = "a subject like few in the set: it speaks of nearly everything"
    else:
        reason = "a subject outside the set, to see what else changes"
    lead = shared_lead([caption for survey in surveys for caption in survey.captions])
    # A word goes before any subject; a phrase ("a picture of ohwx") is a subject itself.
    return Proposal(_with("" if " " in trigger else trigger, f"{lead} {subject}".strip()), reason)


def shared_lead(captions: Sequence[str]) -> str:
    """The beginning that nearly all captions share, up to an "of" or a comma: "a drawing of", "watercolour,"; or ""."""
    if len(captions) < 3:
        return ""
    best, words = "", captions[0].split()
    for count in range(1, min(len(words), 12)):
        lead = " ".join(words[:count])
        shared = sum(caption.startswith(f"{lead} ") for caption in captions)
        if shared < _SHARED * len(captions):
            break
        if words[count - 1].lower() in _LEAD_INS or words[count - 1].endswith((",", ":")):
            best = lead
    return best


def _captions(surveys: Sequence[Survey], strategies: Sequence[str]) -> list[str]:
    found: list[str] = []
    for index, survey in enumerate(surveys):
        strategy = strategies[index] if index < len(strategies) else propose_captions(survey).value
        if strategy in ("textfile", "huggingface"):
            found += survey.captions
        elif strategy == "filename":
            found += survey.name_captions
        elif strategy in TABLES:
            found += [table.example for table in survey.tables]
    found = [caption for caption in found if not looks_like_token(caption)]
    return [caption for caption in found if len(caption) <= 300] or found


def _two_different(captions: Iterable[str]) -> list[str]:
    """The first caption, and the one that shares the fewest words with it."""
    first, *rest = dict.fromkeys(captions)
    own = set(_words(first))
    return [first, min(rest, key=lambda caption: len(own & set(_words(caption))) / max(1, len(set(_words(caption)))))]


def _with(trigger: str, caption: str) -> str:
    return f"{trigger} {caption}" if trigger and trigger.lower() not in caption.lower() else caption


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text.lower())


def _nouns(subject: str) -> set[str]:
    """The words of a subject that a caption must not have, in both numbers."""
    words = set(_words(subject)) - _SMALL_WORDS
    return words | {f"{word}s" for word in words} | {word.removesuffix("s") for word in words}
