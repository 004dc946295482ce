"""What a drawing shows, from its file's name and from the metadata in its SVG: a subject in English and keywords."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wordlists import COLOURS, LINKS, NOISE, NUMBERS, RANKS, SUITS

_HERE = Path(__file__).resolve().parent
_FIELD = r"<dc:%s\b[^>]*>(.*?)</dc:%s>"
_ANY_SERIES = 6  # a title that this many differently named files share is that of a series, not of a drawing


@dataclass(frozen=True)
class Metadata:
    title: str = ""
    creator: str = ""
    keywords: tuple[str, ...] = ()


def read_metadata(svg: Path) -> Metadata:
    """Title, creator and keywords of the RDF in an SVG; empty where the file isn't there or has none.

    Found by pattern, not by a parser: many of these files aren't well-formed.
    """
    try:
        text = svg.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Metadata()
    block = re.search(r"<(?:\w+:)?Work\b.*?</(?:\w+:)?Work>", text, re.DOTALL)
    work = block.group() if block else ""
    creator = re.search(r"<dc:creator\b.*?</dc:creator>", work, re.DOTALL)
    title = re.search(_FIELD % ("title", "title"), re.sub(r"<(?:\w+:)?Agent\b.*?</(?:\w+:)?Agent>", "", work, flags=16))
    named = re.search(_FIELD % ("title", "title"), creator.group() if creator else "", re.DOTALL)
    keywords = [_fold(item) for item in re.findall(r"<rdf:li>(.*?)</rdf:li>", work, re.DOTALL)]
    return Metadata(
        _fold(title.group(1)) if title else "",
        _fold(named.group(1)) if named else "",
        tuple(word for word in keywords if word and not word.startswith("hash(")),
    )


def _fold(text: str) -> str:
    """Small ASCII letters: entities read (twice, as some were written twice), accents taken off."""
    decomposed = unicodedata.normalize("NFKD", html.unescape(html.unescape(text)))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).strip().lower()


def series_titles(titles: Mapping[str, str]) -> frozenset[str]:
    """Titles that belong to whole series ("Etiquette Icons"); `titles` are those of the files' stems."""
    stems = defaultdict(set)
    for stem, title in titles.items():
        stems[title].add(re.sub(r"[_\d]+$", "", stem))
    return frozenset(title for title, names in stems.items() if len(names) >= _ANY_SERIES)


def without_creator(stem: str, creator: str) -> str:
    """A file's stem without its number and the (cut off) name of its author: "duck_nicu_bucul_01" becomes "duck"."""
    name = re.sub(r"(_\d*r?|-v[\d.]+|-md|-md-v[\d.]+)$", "", stem.lower())
    author = re.sub(r"[^a-z0-9.@-]+", "_", creator).strip("_")
    for start in (match.start() for match in re.finditer("_", name)):
        tail = name[start + 1 :].rstrip("_")
        if len(tail) > 2 and author.startswith(tail):
            return name[:start]
    return name


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


class Subjects:
    """The table of subjects.txt, asked before anything is guessed."""

    def __init__(self, lines: Iterable[str]) -> None:
        pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
        self._table = {plain(name): subject.strip() for name, subject in pairs}

    @classmethod
    def load(cls) -> Subjects:
        return cls((_HERE / "subjects.txt").read_text(encoding="utf-8").splitlines())

    def subject(self, stem: str, metadata: Metadata, series: frozenset[str]) -> str:
        """What the drawing shows in at most six words, "" where that can't be told."""
        if card := re.fullmatch(r"(bordered|ornamental|simple|white)_([cdhs])_(\w+?)(_\d+)?", stem.lower()):
            return f"{RANKS[card.group(3)]} of {SUITS[card.group(2)]}" if card.group(3) in RANKS else ""
        title = "" if metadata.title in series or metadata.title.startswith("clipart by") else metadata.title
        name = without_creator(stem, metadata.creator)
        bare_title = re.sub(r"\(.*?\)", "", title)
        for text in (stem, re.sub(r"[_\d]+r?$", "", stem), name, title, bare_title):
            for key in (plain(text), plain(re.sub(r"\d+", " ", text))):
                if key in self._table:
                    return self._table[key].replace("-", "")
        cleaned = _cleaned(title or name, metadata.creator) or _cleaned(name, metadata.creator)
        return self._table.get(cleaned, cleaned).replace("-", "")


def _cleaned(text: str, creator: str) -> str:
    if "@" in text or "hash" in text:
        return ""
    author = set(plain(creator).split())
    text = re.sub(r"\((b ?(and|&|n|/)? ?w|colou?r|.*italian)\)", "", text)
    words = re.findall(r"[a-z]+|\d+", text)
    if words and words[0] in NUMBERS and len(words) > 1:
        words[0] = NUMBERS[words[0]]  # elsewhere a number tells files apart
    kept = [word for word in words if word.isalpha() and word not in NOISE and word not in author]
    while kept and kept[-1] in LINKS:
        kept.pop()
    while kept and kept[0] in LINKS:
        kept.pop(0)
    if len(kept) > 1 and kept[-1] in COLOURS and kept[-2] not in LINKS:
        kept.insert(0, kept.pop())  # "arrow down blue"
    return " ".join(kept[:6]) if any(len(word) > 2 for word in kept) else ""
