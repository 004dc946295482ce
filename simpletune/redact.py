"""Keep access tokens out of anything shown or saved."""

from __future__ import annotations

import os
import re

# The shapes that hubs and trackers document for their tokens; a bare 40-digit hex string is W&B's older form.
# A name may stand right before or behind one ("key_hf_...", "hf_..._old"): only a letter or digit before it is none.
_TOKEN_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|sk-[A-Za-z0-9_-]{20,}|wandb_v1_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16}(?![A-Za-z0-9]))"
)
_PASSWORD = re.compile(r"(?<=://)([^\s/@:\"']*):[^\s/@\"']+@")  # of an address: https://name:password@host
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
_MINIMUM_SECRET_LENGTH = 8
REDACTED = "[redacted]"


def looks_like_token(text: str) -> bool:
    """Whether `text` contains something shaped like an access token."""
    return _TOKEN_SHAPES.search(text) is not None


def redact(text: str) -> str:
    """`text` with whatever is shaped like a token, passwords in addresses, and secret variables' values replaced."""
    text = _TOKEN_SHAPES.sub(REDACTED, text)
    text = _PASSWORD.sub(rf"\1:{REDACTED}@", text)
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _MINIMUM_SECRET_LENGTH:
            text = text.replace(value, REDACTED)
    return text
