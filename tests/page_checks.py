"""What any page must hold, asked of its text: nothing from elsewhere, and usable without eyes or mouse."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

_FETCHED = {"src", "srcset", "data", "poster", "action"}
_VOID = {"meta", "img", "input", "br", "path", "link", "hr"}


class Outline(HTMLParser):
    """The elements of a page in order, each with its attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.unclosed: list[str] = []
        self.feed(text)
        self.unclosed += [self.elements[index][0] for index in self._open]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in _VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        if self._open and self.elements[self._open[-1]][0] == tag:
            self._open.pop()
        elif tag not in _VOID:
            self.unclosed.append(f"/{tag}")

    def handle_data(self, data):
        for index in self._open:
            self.elements[index][2].append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        return [(about, "".join(text).strip()) for tag, about, text in self.elements if tag in tags]


def faults(text: str) -> list[str]:
    """Everything that is wrong with a page; empty for a good one."""
    page = Outline(text)
    found = [f"not closed: {tag}" for tag in page.unclosed]
    found += [f"from elsewhere: {about}" for about, _ in page.all("link", "iframe", "object", "embed", "base")]
    found += _addresses(page)
    found += [] if dict(page.all("html")[0][0]).get("lang") else ["no language"]
    found += [f"{tag} occurs {len(page.all(tag))} times" for tag in ("h1", "main", "header", "footer", "title") if
              len(page.all(tag)) != 1]  # fmt: skip
    found += ["a navigation without a name" for about, _ in page.all("nav") if not about.get("aria-label")]
    found += [f"no alt: {about.get('src', '')[:40]}" for about, _ in page.all("img") if "alt" not in about]
    found += [f"no size: {about.get('alt')}" for about, _ in page.all("img") if "width" not in about]
    found += _headings(page)
    found += _names(page)
    ids = [about["id"] for _, about, _ in page.elements if about.get("id")]
    found += [f"id twice: {name}" for name in set(ids) if ids.count(name) > 1]
    links = [about.get("href", "") for about, _ in page.all("a")]
    found += [f"leads nowhere: {link}" for link in links if link[:1] != "#" or link[1:] not in ids]
    found += [f"a table head that is no head: {about}" for about, _ in page.all("th") if about.get("scope") is None]
    return found


def _addresses(page: Outline) -> list[str]:
    found = []
    for tag, about, text in page.elements:
        fetched = {name: value or "" for name, value in about.items() if name in _FETCHED}
        found += [f"asks for {value[:60]}" for value in fetched.values() if not value.startswith("data:")]
        found += [f"handler {name} on {tag}" for name in about if name.startswith("on")]
        if tag == "style":
            found += re.findall(r"url\([^)]*\)|@import[^;]*", "".join(text))
        if tag == "script" and not about.get("nonce"):
            found.append("a script that isn't the page's")
    return found


def _headings(page: Outline) -> list[str]:
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    found = [f"h{now} after h{before}" for before, now in pairwise(levels) if now > before + 1]
    empty = [about for about, text in page.all("h1", "h2", "h3") if not text]
    return found + [f"an empty heading {about}" for about in empty] + ([] if levels[:1] == [1] else ["h1 isn't first"])


def _names(page: Outline) -> list[str]:
    """Whatever can be used or stands for a picture must have a name."""
    found = []
    labels = "".join(text for _, text in page.all("label"))
    for tag, about, text in page.elements:
        said = (about.get("aria-label") or "").strip() or "".join(text).strip()
        if tag == "input" and not about.get("aria-label") and about.get("type") != "checkbox":
            found.append(f"an input without a name: {about}")
        if tag == "input" and about.get("type") == "checkbox" and not labels:
            found.append("a checkbox without a label")
        if tag == "svg" and about.get("aria-hidden") != "true" and not (about.get("role") == "img" and said):
            found.append("a drawing without words")
        if "tabindex" in about and not said:
            found.append(f"a stop of the keyboard without a name: {tag}")
    return found


def contrast(one: str, other: str) -> float:
    """The contrast of two colours "#rrggbb", 1 to 21 (WCAG 2.2, relative luminance)."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def colours(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The page's colours by variable, in light and in dark."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    return {name: light for name, light, _ in pairs}, {name: dark for name, _, dark in pairs}
