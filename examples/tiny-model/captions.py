"""Categories, and the captions of a drawing: one family of plain sentences and lists, all in small letters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from look import Look
from wordlists import COLOURS, DULL, SINGULAR_S, UNCOUNTED

_HERE = Path(__file__).resolve().parent
_MAX_WORDS = 14


@dataclass(frozen=True)
class Category:
    name: str
    words: str
    folders: dict[str, bool]  # folder to whether it is sure
    nouns: set[str] = field(default_factory=set)


class Categories:
    """The table of categories.txt."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.all: dict[str, Category] = {}
        for line in lines:
            if line.startswith("= "):
                name, nouns = line[2:].split(":")
                self.all[name].nouns.update(nouns.split())
            elif "|" in line and not line.startswith("#"):
                name, words, folders = (part.strip() for part in line.split("|"))
                sure = {folder.rstrip("?"): not folder.endswith("?") for folder in folders.split()}
                self.all[name] = Category(name, words, sure)
        self._folders = {folder: category for category in self.all.values() for folder in category.folders}
        self._nouns = {noun: category for category in reversed(self.all.values()) for noun in category.nouns}

    @classmethod
    def load(cls) -> Categories:
        return cls((_HERE / "categories.txt").read_text(encoding="utf-8").splitlines())

    def of(self, folder: str, subject: str, keywords: Iterable[str]) -> Category:
        """By folder where that is sure, else by the subject's last noun that is known, a keyword, the folder."""
        by_folder = self._by_folder(folder)
        if by_folder and by_folder[1]:
            return by_folder[0]
        for word in [*_head_first(subject), *keywords]:
            if word in self._nouns:
                return self._nouns[word]
        return by_folder[0] if by_folder else self.all["other"]

    def known(self, subject: str) -> bool:
        return any(word in self._nouns for word in subject.split())

    def _by_folder(self, folder: str) -> tuple[Category, bool] | None:
        parts = folder.split("/")
        for length in range(len(parts), 0, -1):
            path = "/".join(parts[:length])
            if path in self._folders:
                return self._folders[path], self._folders[path].folders[path]
        return None


def _head_first(subject: str) -> list[str]:
    """The words of a phrase by how likely each names the thing: "cat on a tree" is about the cat."""
    words = subject.split()
    ends = [words.index(word) for word in ("with", "of", "on", "in", "at", "and", "from", "for") if word in words]
    head = min(ends, default=len(words))
    return [*reversed(words[:head]), *words[head:]]


def texts(subject: str, category: Category, keywords: Iterable[str], seen: Look) -> list[str]:
    """Two to four captions of at most 14 words; the last names the colours that were measured."""
    extra = [word for word in dict.fromkeys(keywords) if _says_more(word, subject, category)][:2]
    lines = [
        f"a drawing of {with_article(subject)}",
        ", ".join([subject, *extra, category.words]),
        f"{category.name}: {subject}",
    ]
    coloured = _coloured(subject, seen)
    if coloured and category.name != "flags":
        lines.append(coloured)
    return list(dict.fromkeys(" ".join(line.split()[:_MAX_WORDS]) for line in lines))


def _says_more(word: str, subject: str, category: Category) -> bool:
    known = f"{subject} {category.name} {category.words}"
    return (
        word.isascii() and word.isalpha() and 2 < len(word) < 13 and word not in DULL and word.rstrip("s") not in known
    )


def _coloured(subject: str, seen: Look) -> str:
    if seen.kind == "silhouette":
        plain = " ".join(word for word in subject.split() if word not in COLOURS) or subject
        return f"a black silhouette of {with_article(plain)}"
    if seen.kind == "gray":
        return f"a {'black and white' if len(seen.colours) > 1 else 'gray'} drawing of {with_article(subject)}"
    if seen.kind == "outline":
        return f"a black line drawing of {with_article(subject)}"
    if not seen.colours or COLOURS & set(subject.split()):
        return ""
    return f"a drawing of {with_article(' and '.join(seen.colours) + ' ' + subject)}"


def with_article(phrase: str) -> str:
    """ "a cat", "an owl", "two dogs", "bread": by the first word and the last before "of" or "with"."""
    words = phrase.split()
    ends = [words.index(word) for word in ("with", "of", "on", "in", "at", "from", "for", "and") if word in words[1:]]
    counted = [end for end in ends if not (words[end] == "and" and words[end - 1] in COLOURS)]
    head = words[min(counted, default=len(words)) - 1]
    plural = head.endswith("s") and not head.endswith(SINGULAR_S)
    if plural or head in UNCOUNTED or words[0] in {"a", "an", "the", "one", "two", "three", "four", "five", "six"}:
        return phrase
    return f"{'an' if words[0][0] in 'aeiou' and not words[0].startswith(('uni', 'eu', 'us', 'one')) else 'a'} {phrase}"
