"""Small tokenizers of our own for the models we build: every common caption word is one token, anything else is spelt.

The real vocabularies can't be downloaded where there is no network; these work the same way (byte-level pair encoding
for CLIP, a unigram model for T5) with ids that fit inside the real embedding tables.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from itertools import pairwise
from typing import Any

from simpletune.config.architecture import CLIP_TOKENS

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"

# Words that captions of pictures are made of; nothing depends on the list but the number of tokens.
WORDS = (resources.files("simpletune.models") / "words.txt").read_text(encoding="utf-8").split()
_PIECES = ("s", "es", "ed", "ing", "er", "ly", "un", "re", "al", "ness", "tion", "'s")


def clip_tokenizer(vocab_size: int, pad_token: str = END) -> Any:
    """A CLIPTokenizer with at most `vocab_size` ids; CLIP-G of SD3 pads with "!", CLIP-L with the end token."""
    from transformers import CLIPTokenizer

    symbols = _byte_symbols()
    merges = _merges(vocab_size - 2 * len(symbols) - 2)
    tokens = [*symbols, *(symbol + SUFFIX for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=CLIP_TOKENS,
    )


def t5_tokenizer(max_length: int = 512) -> Any:
    """A T5TokenizerFast: pad 0, end 1, unknown 2, then words, pieces and characters, costlier the rarer."""
    from transformers import T5TokenizerFast

    space = "\N{LOWER ONE EIGHTH BLOCK}"
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, space: -4.0}
    scores |= {space + word: -6.0 for word in WORDS}
    scores |= dict.fromkeys(_PIECES, -7.0)
    characters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x180))]
    scores |= {character: -10.0 for character in characters if character not in scores}
    return T5TokenizerFast(vocab=list(scores.items()), extra_ids=0, model_max_length=max_length)


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level encodings, in the order of GPT-2 and CLIP.

    Printable bytes stand for themselves; the others are moved to 256 and up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = range(256, 256 + 256 - len(printable))
    return [chr(code) for code in (*printable, *moved)]


def _merges(limit: int) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word of the list one token (Sennrich et al. 2016, algorithm 1)."""
    words = [[*word[:-1], word[-1] + SUFFIX] for word in dict.fromkeys(WORDS)]
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
