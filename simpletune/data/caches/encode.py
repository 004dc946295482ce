"""Fill the caches: every caption through the text encoders, every picture through the VAE, each exactly once.

A model is loaded only when something is missing, and is gone again when its function returns. Pictures are read,
decoded and resized ahead of the VAE, in processes when there are many (`workers.py`), and entries written behind it.
Keys hold the content and everything else that determines the result (`entries.py`), so order, names and batches have
no say in what an entry holds. An entry appears whole or not at all: a run that was killed goes on with what is missing.

Which entries are there is seen from the names in the cache's folder. What is in them is checked when they are read;
a damaged one is then made again by itself (`repair.py`), or by `verify`, which looks at all of them.
"""

from __future__ import annotations

from simpletune.data.caches.encode_pictures import LATENTS, EncodedPictures, fill_latent_cache
from simpletune.data.caches.encode_text import POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS, StoredText, fill_text_cache
from simpletune.data.caches.entries import latent_key, text_key
from simpletune.data.caches.repair import Repair

__all__ = [
    "LATENTS",
    "POOLED_PROMPT_EMBEDS",
    "PROMPT_EMBEDS",
    "EncodedPictures",
    "Repair",
    "StoredText",
    "fill_latent_cache",
    "fill_text_cache",
    "latent_key",
    "text_key",
]
