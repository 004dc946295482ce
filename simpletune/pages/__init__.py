"""Pages: one self-contained HTML file each, to be opened without a network, in light and dark, on a phone and on paper.

A template stands beside this module, extends `base.html` and is filled with plain values. Whatever text comes from
outside is escaped, without tokens and control characters. Pictures are embedded as data URIs. The page's own policy
lets nothing be fetched, and no script run but those of the template.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.redact import redact

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

JPEG = "image/jpeg"


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page that `template`, a file name here, makes of `values`. A value it misses is an error, not a gap."""
    return _environment().get_template(template).render({**values, "nonce": secrets.token_urlsafe(12)})


def data_uri(data: bytes, kind: str = JPEG) -> Markup:
    """A file's bytes as an address that a page can hold. Marked as safe, as its letters need no escape: that spares
    a search through megabytes."""
    from markupsafe import Markup

    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")  # noqa: S704


def _tidy(value: Any) -> Any:
    """Text as a page may hold it: without tokens, control characters as escapes, half surrogates too."""
    if type(value) is not str:
        return value
    text = redact(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_tidy,
        trim_blocks=True,
        lstrip_blocks=True,
    )
