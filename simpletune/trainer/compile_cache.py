"""Compiled code is kept between runs, in a folder that only its owner can write: it is code that gets run."""

from __future__ import annotations


def has_code() -> bool:
    return False
