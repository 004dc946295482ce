"""Small tokenizers of our own for the models we build: every common caption word is one token, anything else is spelt.

The real vocabularies can't be downloaded where there is no network; these work the same way (byte-level pair encoding
for CLIP, a unigram model for T5) with ids that fit inside the real embedding tables. words.txt lists the words from
the most to the least frequent in the captions of examples/tiny-model; each tokenizer takes as many as it has room for.
The trained `tiny` model's embeddings belong to these ids: another list or order means training it anew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"

_LIST = resources.files("simpletune.models") / "words.txt"
WORDS = tuple(dict.fromkeys(_LIST.read_text(encoding="utf-8").split()))
_PIECES = ("s", "es", "ed", "ing", "er", "ly", "un", "re", "al", "ness", "tion", "'s")
_SCALE = 1_000_000  # whole numbers: the order of merges must not hang on rounding

# What words outside the list are spelt with: ASCII and the letters of Latin-1.
_CHARACTERS = [chr(code) for code in (*range(0x21, 0x7F), *range(0xC0, 0xD7), *range(0xD8, 0xF7), *range(0xF8, 0x100))]


def clip_tokenizer(vocab_size: int, pad_token: str = END, max_length: int = 77) -> Any:
    """A CLIPTokenizer with at most `vocab_size` ids; CLIP-G of SD3 pads with "!", CLIP-L with the end token.

    `max_length` is what texts are cut to, in tokens with both ends.
    """
    from transformers import CLIPTokenizer

    symbols = _byte_symbols()
    merges = _merges(vocab_size - 2 * len(symbols) - 2)
    tokens = [*symbols, *(symbol + SUFFIX for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=list(merges),
        pad_token=pad_token,
        model_max_length=max_length,
    )


def t5_tokenizer(vocab_size: int, max_length: int = 512) -> Any:
    """A T5TokenizerFast of at most `vocab_size` ids: pad 0, end 1, unknown 2, then words, pieces and characters.

    The rarer kinds cost more, so a word of the list is one token and any other as few pieces as will do.
    """
    from transformers import T5TokenizerFast

    space = "\N{LOWER ONE EIGHTH BLOCK}"
    special = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, space: -4.0}
    spelling = dict.fromkeys(_PIECES, -7.0) | {char: -10.0 for char in _CHARACTERS if char not in _PIECES}
    words = WORDS[: vocab_size - len(special) - len(spelling)]
    scores = special | {space + word: -6.0 for word in words} | spelling
    return T5TokenizerFast(vocab=list(scores.items()), extra_ids=0, model_max_length=max_length)


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level encodings, in the order of GPT-2 and CLIP.

    Printable bytes stand for themselves; the others are moved to 256 and up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = range(256, 256 + 256 - len(printable))
    return [chr(code) for code in (*printable, *moved)]


@cache
def _merges(limit: int) -> tuple[tuple[str, str], ...]:
    """Byte-pair merges (Sennrich et al. 2016, algorithm 1) over the list, where the n-th word occurs 1/n times.

    That is Zipf's law: so the first words become one token each and the last ones a few pieces.
    """
    words = [[*word[:-1], word[-1] + SUFFIX] for word in WORDS]
    counts: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # by rank; some may hold the pair no longer
    for rank, word in enumerate(words):
        _count(counts, holders, word, rank, 1)
    merges: list[tuple[str, str]] = []
    while counts and len(merges) < limit:
        _, best = max(zip(counts.values(), counts, strict=True))
        merges.append(best)
        for rank in holders.pop(best):
            _count(counts, holders, words[rank], rank, -1)
            words[rank] = _merge(words[rank], best)
            _count(counts, holders, words[rank], rank, 1)
    return tuple(merges)


def _count(
    counts: Counter[tuple[str, str]],
    holders: defaultdict[tuple[str, str], set[int]],
    word: list[str],
    rank: int,
    sign: int,
) -> None:
    """Add or take away what the word at `rank` counts for."""
    for pair in pairwise(word):
        counts[pair] += sign * (_SCALE // (rank + 1))
        holders[pair].add(rank)
        if not counts[pair]:
            del counts[pair]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
