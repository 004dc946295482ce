"""What a model says of a picture, made a caption: one line, about the picture and nothing else."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MARKERS = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]+|[-*•+][ \t]+|\d{1,2}[.)][ \t]+|```\w*[ \t]*$|-{3,}[ \t]*$)", re.MULTILINE
)
_EMPHASIS = re.compile(r"(\*\*\*|\*\*|__|`|(?<![\w*])\*(?=\w)|(?<=[\w.,!?])\*(?![\w*]))")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_LABEL = re.compile(r"^(?:(?:image|picture|photo) )?(?:caption|description|answer|assistant)\s*:\s*", re.IGNORECASE)
_GREETING = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)\b[^.!:]{0,40}[.!:,]\s*)?"
    r"(?:here(?:'s|’s| is) (?:a|an|the|your|one)\b[^.:]{0,60}:\s*)?",
    re.IGNORECASE,
)
_PICTURE = r"(?:image|picture|photo|photograph|photographic image)"
_LEAD_IN = re.compile(
    rf"^(?:(?:the|this)(?: \w+)? {_PICTURE} (?:clearly )?"
    r"(?:shows|depicts|features|captures|displays|presents|portrays|contains|is of|is showing|showcases|illustrates)"
    rf"|(?:this|it) is an? (?:\w+ )?{_PICTURE} (?:of|showing|depicting|that shows|which shows)"
    rf"|an? {_PICTURE} (?:showing|depicting)"
    rf"|in (?:the|this) {_PICTURE},?(?: (?:we|you)(?: can)? see| there (?:is|are)|(?<=,)))"
    r"\s+",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}
_SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[”’」』）]*)")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|no|vs|etc|approx|e\.g|i\.e|[A-Za-z])\.$", re.IGNORECASE)
_NO_END = " ,;:-–—(\"'“‘"


def clean(text: str, cut: bool = False) -> str:
    """A model's answer as a caption: one line without markdown, quotes around it or "The image shows".

    `cut` says that the answer ended because it was long enough, not because it was complete: it then ends at its last
    whole sentence, else before its last word. "" when nothing is left. What is clean already stays as it is.
    """
    text = _plain(text.replace("\N{REPLACEMENT CHARACTER}", " "))
    if cut:
        text = _whole(text)
    while (shorter := _without_wrapping(_plain(text))) != text:  # what was inside may have something around it too
        text = shorter
    return text if any(character.isalnum() for character in text) else ""


def with_trigger(trigger: str, caption: str) -> str:
    """`caption` with the trigger words in front, once; "" stays "", as words alone describe nothing."""
    words = " ".join(trigger.split())
    if not words or not caption or caption.lower().startswith(words.lower()):
        return caption
    return f"{words} {caption}" if words[-1] in ".,:;!?" else f"{words}, {caption}"


def _plain(text: str) -> str:
    """One line without thoughts and markdown."""
    without = _LINK.sub(r"\1", _EMPHASIS.sub("", _MARKERS.sub("", _THOUGHT.sub(" ", text))))
    return " ".join(without.split())


def _without_wrapping(text: str) -> str:
    """`text` without one layer of what isn't about the picture."""
    text = _LABEL.sub("", _GREETING.sub("", text)).strip()
    inner = text[1:-1]
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not set(text[0] + text[-1]) & set(inner):
        text = inner.strip()
    found = _LEAD_IN.match(text)
    return _capitalised(text[found.end() :]) if found and found.end() < len(text) else text


def _capitalised(text: str) -> str:
    first = text[0].upper()
    return first + text[1:] if len(first) == 1 else text


def _whole(text: str) -> str:
    """The whole sentences of a text that was cut; without any, the whole words."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text[: found.end()])]
    if ends:
        return text[: ends[-1]]
    return (text.rpartition(" ")[0] or text).rstrip(_NO_END)
