"""Pages: one self-contained HTML file each, to be opened without a network, in light and dark, on a phone and on paper.

A template stands beside this module, extends `base.html` and is filled with plain values; everything that comes from
outside is escaped. Pictures are embedded as data URIs.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

JPEG = "image/jpeg"


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page that `template`, a file name here, makes of `values`. A value it misses is an error, not a gap."""
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str = JPEG) -> str:
    """A file's bytes as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
