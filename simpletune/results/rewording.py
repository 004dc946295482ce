"""`--vary`: a prompt with alternatives in braces stands for all its wordings.

"{a drawing|an oil painting} of a {red |}parrot" is four prompts. Alternatives may hold braces of their own; an empty
one leaves the word out. Braces without a bar are just taken off.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from simpletune.config.problems import shown
from simpletune.errors import UsageError
from simpletune.results.prompts import named_prompts

MOST_WORDINGS = 1000
_SHOWN, _DEEPEST = 60, 20


def has_alternatives(prompt: str) -> bool:
    """Whether there is a bar in braces."""
    depth = 0
    for character in re.findall(r"[{}|]", prompt):
        if character == "|" and depth > 0:
            return True
        depth += {"{": 1, "}": -1, "|": 0}[character]
    return False


def wordings(prompt: str) -> list[str]:
    """Every wording of a prompt, each once, the first alternatives first; of a prompt without braces only itself.

    Spaces that an empty alternative leaves double become one. Raises UsageError for a brace without its pair, for
    wordings that have no words, and for more than MOST_WORDINGS.
    """
    if "{" not in prompt and "}" not in prompt:
        return [prompt]
    found = _Reader(prompt).all()
    tidy = list(dict.fromkeys(" ".join(wording.split()) for wording in found))
    if "" in tidy:
        raise _wrong(prompt, "one of its wordings is empty", "leave at least one word outside of the braces")
    return tidy


def reworded(prompts: Mapping[str, str]) -> dict[str, str]:
    """name -> prompt of all wordings of all prompts. A name says the wording, as of any prompt; where the prompt had a
    name of its own, that and some digits of the wording.

    Raises UsageError as `wordings`, and when no prompt has alternatives.
    """
    if not any(has_alternatives(prompt) for prompt in prompts.values()):
        raise UsageError(
            "--vary: no prompt has alternatives",
            'write them in braces: "a {drawing|photo} of a {red|blue} parrot"; a list of your own is --prompts FILE',
        )
    named: dict[str, str] = {}
    for name, prompt in prompts.items():
        found = wordings(prompt)
        if name in named_prompts([prompt]):
            named |= named_prompts(found)
        else:
            named |= {name if wording == prompt else f"{name}-{_digits(wording)}": wording for wording in found}
    return named


class _Reader:
    """One prompt, read from left to right: text, and the characters that mean something."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._pieces = [piece for piece in re.split(r"([{}|])", prompt) if piece]
        self._at = 0

    def all(self) -> list[str]:
        found = self._sequence(depth=0)
        if self._at < len(self._pieces):
            raise self._wrong("a } closes nothing", "take it away, or write the { before it")
        return found

    def _sequence(self, depth: int) -> list[str]:
        """What stands here up to a brace that closes it (in braces also a bar), in every wording."""
        found = [""]
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            if piece == "}" or (depth and piece == "|"):
                break
            self._at += 1
            more = self._choice(depth + 1) if piece == "{" else [piece]
            self._check_count(len(found) * len(more))
            found = [before + after for before in found for after in more]
        return found

    def _choice(self, depth: int) -> list[str]:
        """The alternatives after an opening brace."""
        if depth > _DEEPEST:
            raise self._wrong(f"its braces are nested more than {_DEEPEST} deep", "write some of it out")
        found = self._sequence(depth)
        while self._at < len(self._pieces) and self._pieces[self._at] == "|":
            self._at += 1
            found += self._sequence(depth)
            self._check_count(len(found))
        if self._at == len(self._pieces):
            raise self._wrong("a { is never closed", "end the alternatives with }")
        self._at += 1
        return found

    def _check_count(self, count: int) -> None:
        if count > MOST_WORDINGS:
            raise self._wrong(f"it has more than {MOST_WORDINGS:,} wordings", "leave some alternatives out")

    def _wrong(self, what: str, hint: str) -> UsageError:
        return _wrong(self._prompt, what, hint)


def _wrong(prompt: str, what: str, hint: str) -> UsageError:
    short = prompt if len(prompt) <= _SHOWN else prompt[:_SHOWN] + "..."
    return UsageError(f"--vary: {shown(short)!r}: {what}", hint)


def _digits(wording: str) -> str:
    return hashlib.sha256(wording.encode("utf-8", "surrogatepass")).hexdigest()[:6]
