"""Keep access tokens out of anything shown or saved."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote

# The shapes that hubs and trackers document for their tokens.
# A name may stand right before or behind one ("key_hf_...", "hf_..._old"): only a letter or digit before it is none.
_TOKEN_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|sk-[A-Za-z0-9_-]{20,}|wandb_v1_[A-Za-z0-9_]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9]))"
)
# W&B's older keys are 40 hexadecimal digits, as a commit is: only behind a word for a key are they taken for one.
_BARE_KEY = re.compile(
    r"((?:wandb|token|secret|api[_-]?key|apikey|password)[\w-]{0,20}[\"']?\s{0,3}[:=]?\s{0,3}[\"']?)[0-9a-f]{40}(?![0-9a-f])",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(?<=://)([^\s/@:\"']*):[^\s/@\"']+@")  # of an address: https://name:password@host
_LONE_SECRET = re.compile(r"(?<=https://)[^\s/@:\"']{16,}@|(?<=http://)[^\s/@:\"']{16,}@")  # https://token@host
_SECRET_VARIABLES = frozenset(
    {
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)
# Other variables by what they are called. PUBLIC_KEY and the like are caught too, which does no harm.
_SECRET_NAME = re.compile(
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_KEY|_KEY_ID)$",
    re.IGNORECASE,
)
_SHORTEST_KNOWN, _SHORTEST_OTHER = 8, 16
"""Characters below which a variable's value is too ordinary to be looked for in a text."""

REDACTED = "[redacted]"

_known: tuple[dict[Any, Any] | None, list[str]] = (None, [])
"""The environment when its secrets were last looked for, and those."""


def looks_like_token(text: str) -> bool:
    """Whether `text` contains something shaped like an access token, a password in an address, or a secret variable's
    value."""
    return shaped_like_token(text) or any(secret in text for secret in _secrets())


def shaped_like_token(text: str) -> bool:
    """The same by the text alone, whatever the environment holds: for many texts."""
    return any(shape.search(text) for shape in (_TOKEN_SHAPES, _BARE_KEY)) or holds_password(text)


def holds_password(text: str) -> bool:
    """Whether `text` holds an address with a password, or a long name that may be a token, before the @."""
    return _PASSWORD.search(text) is not None or _LONE_SECRET.search(text) is not None


def redact(text: str) -> str:
    """`text` with whatever is shaped like a token, passwords in addresses, and secret variables' values replaced.

    A variable's value is found as it is, and as it stands in JSON and in addresses.
    """
    for secret in _secrets():
        for written in _spellings(secret):
            if written in text:
                text = text.replace(written, REDACTED)
    text = _TOKEN_SHAPES.sub(REDACTED, text)
    text = _BARE_KEY.sub(rf"\1{REDACTED}", text)
    text = _PASSWORD.sub(rf"\1:{REDACTED}@", text)
    return _LONE_SECRET.sub(f"{REDACTED}@", text)


def _secrets() -> list[str]:
    """The values of the environment's secrets, longest first, as one may be a part of another.

    They are looked for again whenever the environment isn't what it was. That is asked of the dictionary inside
    os.environ, as going through the mapping decodes every name: where there is none, they are looked for each time.
    """
    global _known
    now = getattr(os.environ, "_data", None)
    before, secrets = _known
    if now is None or before != now:
        before = None if now is None else dict(now)
        secrets = sorted(set(_values()), key=len, reverse=True)
        _known = before, secrets
    return secrets


def _values() -> Iterator[str]:
    for name in os.environ:
        if _is_secret(name):
            value = os.environ.get(name, "").strip()
            known = name.upper() in _SECRET_VARIABLES
            is_path = value.startswith(("/", "~", "./")) and not known
            if len(value) >= (_SHORTEST_KNOWN if known else _SHORTEST_OTHER) and not is_path:
                yield value


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return name.upper() in _SECRET_VARIABLES or _SECRET_NAME.search(name) is not None


@lru_cache(64)
def _spellings(secret: str) -> tuple[str, ...]:
    spelled = (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, safe=""))
    return tuple(dict.fromkeys(spelled))
