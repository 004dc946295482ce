"""The text of docs/config-reference.md, made from the schemas: `python -m simpletune.config.reference` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from simpletune.config.check import bounds, type_words
from simpletune.config.problems import quoted
from simpletune.config.schema import CONFIG, config_keys, entry_keys, load_schema

_INTRODUCTION = """# The two files

Made from the schemas by `python -m simpletune.config.reference`; do not edit.

`config.json` says what to train and how, `multidatabackend.json` which pictures. Both are strict JSON: text in double
quotes, no comments, no comma after the last item. Every key of `config.json` may be left out. Relative paths are meant
from the folder of the file they stand in (of `--set key=value`: from the current folder); `~` is the home folder, and
`{model_family}`, `{output_dir}` and, in data sets, `{id}` are filled in.

`simpletune validate` checks both. `simpletune train --set lora_rank=8 --set dataset.0.repeats=2` changes values for one
run; data sets are counted from 0. Access tokens never stand in these files: use `hf auth login`, or set `HF_TOKEN`."""


def reference() -> str:
    """The whole document."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (_INTRODUCTION, "", "# config.json")
    for group, keys in groupby(config_keys().items(), lambda item: str(item[1]["x-group"])):
        yield from ("", f"## {group}", "")
        yield from _table(dict(keys))
    yield from ("", "## Arguments for optimizer_config")
    for name, schema in load_schema(CONFIG)["$defs"]["optimizers"].items():
        yield from ("", f"### {name} ({schema['x-library']})", "")
        yield from _table(schema["properties"])
    yield from ("", "# multidatabackend.json", "", "A list of entries. At least one is a set of pictures.")
    for kind, title in (("image", "Pictures"), ("text_embeds", "Caption caches")):
        yield from ("", f"## {title} (dataset_type {kind})", "")
        yield from _table(entry_keys(kind))
    yield from ("", "Without a text_embeds entry one is made, with the default folder.")


def _table(keys: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for key, schema in keys.items():
        default = f"`{quoted(schema['default'])}`" if "default" in schema else ""
        yield f"| `{key}` | {_cell(_values(schema))} | {default} | {_cell(_meaning(schema))} |"


def _meaning(schema: Mapping[str, Any]) -> str:
    """What a key means, and what it costs where it costs something."""
    meaning = str(schema["description"])
    return f"{meaning} *Cost:* {schema['x-cost']}" if "x-cost" in schema else meaning


def _values(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum") or schema.get("then", {}).get("enum")
    if choices:
        listed = ", ".join(f"`{choice}`" for choice in choices)
        return f"{listed}, or a list" if "then" in schema else listed
    limits = bounds(schema) or bounds(schema.get("items", {}))
    return f"{type_words(schema)}: {limits}" if limits else type_words(schema)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
