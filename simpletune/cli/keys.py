"""Parameters that the shell completes with the keys of the two files. Reads nothing but the schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Parameter = click.ParamType[str]
else:
    Parameter = click.ParamType  # not generic in click 8.1

DATASET = "dataset"


class KeyName(Parameter):
    """A key as `explain` takes it: lora_rank, dataset.repeats."""

    name = "key"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        return _items((name, schema["title"]) for name, schema in key_schemas(DATASET) if name.startswith(incomplete))


class KeyValue(Parameter):
    """`key=value` as `--set` takes it: first the key, then what a key with few values may be."""

    name = "key=value"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        key, equals, begun = incomplete.partition("=")
        if not equals:
            found = key_schemas(f"{DATASET}.0")
            return _items((f"{name}=", schema["title"]) for name, schema in found if name.startswith(key))
        parts = key.split(".")
        plain = f"{DATASET}.0.{parts[2]}" if len(parts) == 3 and parts[0] == DATASET else key
        schema = dict(key_schemas(f"{DATASET}.0")).get(plain, {})
        return _items((f"{key}={value}", "") for value in choices(schema) if value.startswith(begun))


def key_schemas(dataset: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key with its schema; those of data sets behind `dataset`."""
    from simpletune.config.schema import config_keys, entry_keys

    yield from config_keys().items()
    for key, schema in {**entry_keys("text_embeds"), **entry_keys("image")}.items():
        yield f"{dataset}.{key}", schema


def choices(schema: Mapping[str, Any]) -> list[str]:
    """The values a key with few of them may have, as they are typed."""
    if schema.get("type") == "boolean":
        return ["true", "false"]
    found = schema.get("enum") or schema.get("then", {}).get("enum", [])
    return [str(value) for value in found]


def _items(found: Iterator[tuple[str, str]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=title or None) for name, title in found]
