"""Parts of captions that are left out: what the regular expressions of caption_filter match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from simpletune.data.captions.texts import one_line
from simpletune.data.sources import SourceError, shown


def filtered(texts: tuple[str, ...], patterns: Sequence[str], separator: str) -> tuple[str, ...]:
    """`texts` without what the regular expressions match; one of which nothing is left is gone.

    What a removal leaves is tidied: doubled blanks and separators, and separators at an end that had none. A text in
    which nothing matches stays as it is.
    """
    if not patterns:
        return texts
    expressions = [_compiled(pattern) for pattern in patterns]
    kept = []
    for text in texts:
        rest = text
        for expression in expressions:
            rest = expression.sub("", rest)
        kept.append(text if rest == text else _tidied(rest, text, separator))
    return tuple(dict.fromkeys(text for text in kept if text))


def _tidied(rest: str, text: str, separator: str) -> str:
    """`rest`, which is left of `text`, without the gaps."""
    rest = one_line(rest)
    for mark in dict.fromkeys((separator.strip(), ",")):
        if not mark:
            continue
        escaped = re.escape(mark)
        rest = re.sub(rf"({escaped})(?:\s*{escaped})+", r"\1", rest)
        rest = re.sub(r"\s+,", ",", rest) if mark == "," else rest
        if not text.startswith(mark):
            rest = re.sub(rf"^\s*{escaped}\s*", "", rest)
        if not text.endswith(mark):
            rest = re.sub(rf"\s*{escaped}\s*$", "", rest)
    return rest.strip()


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        message = f"caption_filter: {shown(pattern)} is no regular expression: {error}"
        raise SourceError(
            message, "write a backslash before a character that is meant as such, such as \\( or \\."
        ) from error
