"""Keep access tokens out of anything shown or saved."""

from __future__ import annotations

import os
import re

# The shapes that hubs and trackers document for their tokens; a bare 40-digit hex string is W&B's older form.
_TOKEN_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}\b|\bapi_org_[A-Za-z0-9]{20,}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}\b|\bwandb_v1_[A-Za-z0-9_]{20,}\b|\bAKIA[0-9A-Z]{16}\b"
)
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
_MINIMUM_SECRET_LENGTH = 8
REDACTED = "[redacted]"


def looks_like_token(text: str) -> bool:
    """Whether `text` contains something shaped like an access token."""
    return _TOKEN_SHAPES.search(text) is not None


def redact(text: str) -> str:
    """`text` with anything shaped like a token, and the values of secret environment variables, replaced."""
    text = _TOKEN_SHAPES.sub(REDACTED, text)
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _MINIMUM_SECRET_LENGTH:
            text = text.replace(value, REDACTED)
    return text
