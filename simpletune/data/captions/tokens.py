"""How long captions are in the text encoders' tokens, and how many are cut off.

What a text encoder gets ends at its limit, the marks at the beginning and the end counted. T5's is
tokenizer_max_length; that of both CLIPs is what the model's files say where they are on this machine (77 in SD3, 32 in
tiny), else the flavour's. With the model's own tokenizers on this machine the counts are exact, without them they are
estimates, and called so. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config.architecture import ENCODER_PARTS, clip_tokens, config_number
from simpletune.config.builtin import tiny_folder
from simpletune.config.families import FAMILIES
from simpletune.data.captions.token_counter import estimating, load_counter, tokenizer_identity
from simpletune.data.sources import shown
from simpletune.machine import model_folder
from simpletune.machine.hub_access import cached_file

if TYPE_CHECKING:
    from simpletune.config.settings import Settings

_EXAMPLES = 5


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder's name, CLIP or T5, its limit in tokens, and the folders of its tokenizers, if they are here.

    SD3 has two CLIPs; their captions are cut off where either's tokenizer does it.
    """

    name: str
    limit: int
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the different captions, for one text encoder.

    `over` counts captions that are cut off, `examples` are the longest of those: (picture's name, tokens). `histogram`
    is (largest number of tokens, captions) of each bar, in order; None in place of the number means any more.
    """

    encoder: str
    limit: int
    exact: bool
    captions: int
    longest: int
    over: int
    examples: tuple[tuple[str, int], ...]
    histogram: tuple[tuple[int | None, int], ...]

    def line(self) -> str:
        """The count in a line, such as "CLIP: 3 of 200 captions are longer than its 77 tokens (longest: 120)"."""
        about = "" if self.exact else "about "
        captions = f"{self.captions:,} {'caption' if self.captions == 1 else 'captions'}"
        longest = f"(longest: {about}{self.longest})"
        estimate = "" if self.exact else ", by estimate"
        if not self.over:
            return f"{self.encoder}: {captions}, none longer than its {self.limit} tokens{estimate} {longest}"
        are = "is" if self.over == 1 else "are"
        return f"{self.encoder}: {about}{self.over:,} of {captions} {are} longer than its {self.limit} tokens {longest}"

    def names(self) -> str:
        """The longest captions that are cut off: "fox.png (120 tokens), cat.png (90)"."""
        said = [f"{shown(name)} ({tokens})" for name, tokens in self.examples]
        more = self.over - len(said)
        return ", ".join(said) + (f" and {more} more" if more > 0 else "")


def count_tokens(captions: Iterable[tuple[str, str]], encoders: Sequence[TextEncoder]) -> tuple[TokenCounts, ...]:
    """Tokens of each different caption, for each encoder; `captions` are (picture's name, caption).

    A caption that several pictures have counts once, under the first one's name.
    """
    names: dict[str, str] = {}
    for name, caption in captions:
        names.setdefault(caption, name)
    return tuple(_count(names, encoder) for encoder in encoders)


def text_encoders(settings: Settings) -> tuple[TextEncoder, ...]:
    """The run's text encoders, with the tokenizers that are on this machine; nothing is downloaded."""
    parts: list[tuple[str, int, tuple[str, ...]]] = [("CLIP", _clip_limit(settings), ("tokenizer", "tokenizer_2"))]
    if settings.use_t5:
        parts.append(("T5", settings.tokenizer_max_length, ("tokenizer_3",)))
    return tuple(
        TextEncoder(name, limit, tuple(folder for part in tokenizers if (folder := _folder(settings, part))))
        for name, limit, tokenizers in parts
    )


def _clip_limit(settings: Settings) -> int:
    """As `SD3` has it at run time, from what is here of the model's files."""
    tokenizer, positions = _folder(settings, "tokenizer"), clip_tokens(settings.model_flavour)
    if tokenizer is None:
        return positions
    configs = (tokenizer.parent / name / "config.json" for name in ENCODER_PARTS[:2])
    said = [config_number(config, "max_position_embeddings") for config in configs]
    return model_folder.clip_tokens(tokenizer, min(filter(None, said), default=positions))


def _folder(settings: Settings, part: str) -> Path | None:
    """Where a tokenizer is, looked for as `models/locate.py` and `models/parts.py` do."""
    source = settings.pretrained_model_name_or_path
    if not source:
        source = FAMILIES[settings.model_family].flavours[settings.model_flavour].hub_id or ""
    root = settings.config_path.parent / Path(source).expanduser() if source else tiny_folder()
    folders = [root / part]
    if settings.pretrained_text_encoders_path is not None:
        folders.append(settings.pretrained_text_encoders_path / part)
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None or root.exists() or not source:
        return found
    names = ("tokenizer.json", "vocab.json")
    cached = (cached_file(source, f"{part}/{name}", settings.revision) for name in names)
    return next((path.parent for path in cached if path is not None), None)


def _count(names: dict[str, str], encoder: TextEncoder) -> TokenCounts:
    exact, tokens = _tokens(list(names), encoder)
    over = [index for index, count in enumerate(tokens) if count > encoder.limit]
    over.sort(key=lambda index: -tokens[index])
    pictures = list(names.values())
    return TokenCounts(
        encoder=encoder.name,
        limit=encoder.limit,
        exact=exact,
        captions=len(tokens),
        longest=max(tokens, default=0),
        over=len(over),
        examples=tuple((pictures[index], tokens[index]) for index in over[:_EXAMPLES]),
        histogram=_histogram(tokens, encoder.limit),
    )


def _tokens(captions: Sequence[str], encoder: TextEncoder) -> tuple[bool, list[int]]:
    """Whether the counts are exact, and each caption's, for the tokenizer that makes most of it."""
    different = {tokenizer_identity(folder): folder for folder in encoder.folders}.values()
    counters = [load_counter(folder) for folder in different]
    known = [counter for counter in counters if counter is not None]
    if not known or len(known) < len(counters):
        return False, list(map(estimating(encoder.name).tokens, captions))
    return True, list(map(max, zip(*(map(counter.tokens, captions) for counter in known), strict=True)))


def _histogram(tokens: Sequence[int], limit: int) -> tuple[tuple[int | None, int], ...]:
    """Bars of a quarter of the limit, then to twice and four times of it."""
    edges = [limit // 4, limit // 2, limit * 3 // 4, limit, limit * 2, limit * 4]
    bars = Counter(next((edge for edge in edges if count <= edge), None) for count in tokens)
    return tuple((edge, bars[edge]) for edge in (*edges, None))
