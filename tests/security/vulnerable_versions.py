"""Versions of packages that are known to be vulnerable, and why that matters here: the one list of them.

`test_security_dependencies.py` holds pyproject.toml's ranges and constraints.txt against it. When an advisory for one
of our packages comes out, add a line here; the test says which range has to be raised.
"""

# ruff: noqa: E501 - a table is read by its lines
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vulnerable:
    """`versions`: a specifier of all that are affected. `why`: what of ours would meet it."""

    package: str
    versions: str
    advisory: str
    why: str


VULNERABLE = (
    Vulnerable("torch", "<2.6", "CVE-2025-32434", "weights_only didn't keep torch.load from running code; our hint for pickles relies on it"),
    Vulnerable("torch", "<2.10", "CVE-2026-24747", "the same unpickler could be made to corrupt memory"),
    Vulnerable("torch", "<=2.10", "CVE-2026-4538", "loading a .pt2 file unpickles what is in it"),
    Vulnerable("diffusers", "<0.38", "CVE-2026-44513", "code of a model's folder ran in spite of trust_remote_code=False"),
    Vulnerable("diffusers", "<0.42.1", "GHSA-4prv-5hj7-c2xr", "model_index.json could name the library a component's class comes from"),
    Vulnerable("transformers", "<4.48", "CVE-2024-11392", "a model's config was deserialized as a pickle"),
    Vulnerable("transformers", "<=5.2", "CVE-2026-5241", "a model's config could say trust_remote_code for itself; captioners are AutoModels"),
    Vulnerable("accelerate", "<=1.14", "CVE-2026-69112", "an index of shards could lead out of its folder, or to a pipe"),
    Vulnerable("datasets", "<=5.1", "CVE-2026-57845", "the pandas builder reads pickles"),
    Vulnerable("pillow", "<10.0.1", "CVE-2023-4863", "its libwebp wrote behind a buffer; WebP is read here"),
    Vulnerable("pillow", "<10.3", "CVE-2024-28219", "a buffer overflow in colour profiles, which are applied here"),
    Vulnerable("pillow", ">=10.3,<12.1.1", "CVE-2026-25990", "tiles with negative offsets were written before a buffer"),
    Vulnerable("pillow", "<12.3", "CVE-2026-59205", "applying a colour profile could write behind a buffer"),
    Vulnerable("pillow", "<13", "CVE-2026-112403", "a JPEG could write behind a buffer while it is decoded; most data sets are JPEGs"),
    Vulnerable("pillow", "<13", "CVE-2026-112395", "a tiled TIFF was read behind its buffer"),
    Vulnerable("jinja2", "<3.1.5", "CVE-2024-56326", "a template could leave the sandbox; captioners bring a template for their chats"),
    Vulnerable("jinja2", "<3.1.6", "CVE-2025-27516", "the same by another way"),
    Vulnerable("sentencepiece", "<0.2.1", "CVE-2026-1260", "a model file could corrupt memory; T5's tokenizer may be one"),
    Vulnerable("pyarrow", ">=0.14,<14.0.1", "CVE-2023-47248", "Parquet and Arrow files could run code"),
    Vulnerable("pyarrow", ">=15,<=23.0.0", "CVE-2026-25087", "reading an Arrow file could write to memory that was given back"),
    Vulnerable("opencv-python-headless", ">=4.10,<4.12", "CVE-2025-53644", "a JPEG could make it use memory it hadn't set"),
    Vulnerable("wandb", "<0.29", "CVE-2026-91771", "a server could name a file outside of the folder it is downloaded to"),
    Vulnerable("aiohttp", "<3.13.3", "CVE-2025-69223", "a compressed answer could fill the memory; s3fs asks through it"),
    Vulnerable("aiohttp", "<3.14.4", "CVE-2026-128131", "an answer of many compressed parts could keep a client busy"),
    Vulnerable("flask", "==3.1.0", "CVE-2025-47278", "only for tests: keys were used in the wrong order"),
    Vulnerable("flask-cors", "<6", "CVE-2024-6839", "only for tests: paths were matched too loosely"),
)  # fmt: skip

ACCEPTED = {
    "CVE-2025-3000": "torch before 2.13: torch.jit.script on code made for it; nothing from outside is ever scripted here",
}
"""Advisories that touch versions we allow, and why they may stay."""
