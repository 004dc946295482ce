"""Checking a value against its schema, in words for people.

jsonschema finds the places; the sentences are ours. Two things it lets pass are caught here: 16.0 for a whole number,
and, since the reader has removed it, NaN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from simpletune.config.document import Document
from simpletune.config.jsonfile import JsonPath
from simpletune.config.problems import Problem, quoted
from simpletune.config.schema import CONFIG, entry_keys, entry_schema, load_schema, optimizer_arguments, types_of
from simpletune.config.suggest import (
    Said,
    meant_config_key,
    meant_entry_key,
    missing_hint,
    unknown_argument,
    unknown_config_key,
    unknown_entry_key,
    unknown_value,
)

MAXIMUM_UNKNOWN = 40  # of one object; guessing what each was meant for takes milliseconds

_TYPE_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text in quotes",
    "array": "a list",
    "object": "an object {...}",
    "null": "null",
}


@cache
def _validator() -> Any:
    """jsonschema's validator for the schemas' draft, for which 16.0 is no whole number. It is slow to import."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
            "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
        ),
        validators={"pattern": _pattern},
    )


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    """As JSON Schema has it: $ is the end alone, where Python's stands before a last line break too."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def check_config(document: Document) -> Iterator[Problem]:
    """Every way in which config.json's value breaks its schema."""
    if document.is_bad(()) and document.value is None:
        return
    if not isinstance(document.value, dict):
        if () in document.file.partial:
            return
        message = f"the file must hold an object, not {_kind(document.value)}"
        yield document.problem((), message, "the whole file stands between { and }")
        return
    for error in _unknown_first(load_schema(CONFIG), document.value):
        path = tuple(error.absolute_path)
        if _half_read(document, path, 0):
            continue
        if error.validator != "additionalProperties":
            yield from _broken(document, path, error)
            continue
        if not path:
            _suspect(document, map(meant_config_key, _extra_keys(error)), document.value)
        yield from _too_many(document, path, error)
        for key in _extra_keys(error):
            unsure = path and (("optimizer",) in document.bad or document.file.partial)
            if (*path, key) in document.bad or unsure:
                continue
            if path:
                optimizer = document.value.get("optimizer", "adamw")
                message, hint = unknown_argument(key, optimizer, list(optimizer_arguments(optimizer)))
            else:
                message, hint = unknown_config_key(key)
            yield document.problem((*path, key), message, hint, on_key=True)


def check_data(document: Document) -> Iterator[Problem]:
    """Every way in which the data file's value breaks its schema; which branch an entry belongs to is decided here."""
    if document.is_bad(()) and document.value is None:
        return
    if not isinstance(document.value, list):
        if () in document.file.partial:
            return
        message = f"the file must hold a list, not {_kind(document.value)}"
        yield document.problem((), message, "the whole file stands between [ and ], with { } around each data set")
        return
    for index, entry in enumerate(document.value):
        if document.is_bad((index,)) and entry is None:
            continue
        if not isinstance(entry, dict):
            if () in document.file.partial:
                continue  # a bracket may be what is wrong
            yield document.problem((index,), f"a data set must be an object {{...}}, not {_kind(entry)}")
            continue
        yield from _check_entry(document, index, entry)


def _check_entry(document: Document, index: int, entry: Mapping[str, Any]) -> Iterator[Problem]:
    kind = entry_kind(entry)
    for error in _unknown_first(entry_schema(kind), entry):
        path = (index, *error.absolute_path)
        if _half_read(document, path, 1):
            continue
        if error.validator != "additionalProperties":
            yield from _broken(document, path, error)
            continue
        meant = {key: meant_entry_key(key, kind, entry) for key in _extra_keys(error)}
        _suspect(document, meant.values(), entry, index)
        yield from _too_many(document, path, error)
        for key in meant:
            of_another_kind = _kind_is_unclear(document, index) and key in entry_keys("text_embeds")
            if (*path, key) not in document.bad and not of_another_kind:
                message, hint = unknown_entry_key(key, kind, entry)
                yield document.problem((*path, key), message, hint, on_key=True)


def _unknown_first(schema: Mapping[str, Any], value: Any) -> list[Any]:
    """jsonschema's errors in the order in which one may explain another: a wrong kind, unknown names, all the rest."""

    def rank(error: Any) -> int:
        if list(error.absolute_path) == ["dataset_type"]:
            return 0
        return 1 + len(error.absolute_path) if error.validator == "additionalProperties" else 9

    return sorted(_validator()(schema).iter_errors(value), key=rank)


def _half_read(document: Document, path: JsonPath, top: int) -> bool:
    """Whether a path leads into an object or list whose end could not be read, below the first `top` levels."""
    return any(path[:length] in document.file.partial for length in range(top + 1, len(path) + 1))


def _suspect(document: Document, meant: Iterable[str | None], value: Mapping[str, Any], *prefix: int) -> None:
    """Let no rule speak of the keys that misspelled ones were meant for: what they are set to is not known."""
    document.bad.update((*prefix, key) for key in meant if key is not None and key not in value)


def _kind_is_unclear(document: Document, index: int) -> bool:
    return (index, "dataset_type") in document.bad


def entry_kind(entry: Mapping[str, Any]) -> str:
    """The branch of the schema that an entry of the data file belongs to."""
    return "text_embeds" if entry.get("dataset_type") == "text_embeds" else "image"


def bounds(schema: Mapping[str, Any]) -> str:
    """A number's bounds in words: "at least 1 and at most 1024"."""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return " and ".join(f"{word} {schema[name]}" for name, word in words.items() if name in schema)


def type_words(schema: Mapping[str, Any]) -> str:
    """The types a key may have, in words."""
    return " or ".join(_TYPE_WORDS[name] for name in types_of(schema))


def _extra_keys(error: Any) -> list[str]:
    """The names that are no keys; the first of very many."""
    return _all_extra_keys(error)[:MAXIMUM_UNKNOWN]


def _all_extra_keys(error: Any) -> list[str]:
    known = error.schema.get("properties", {})
    return [key for key in error.instance if key not in known]


def _too_many(document: Document, path: JsonPath, error: Any) -> Iterator[Problem]:
    count = len(_all_extra_keys(error)) - MAXIMUM_UNKNOWN
    if count > 0:
        message = f"there are {count:,} more unknown keys: this is another kind of file"
        yield document.problem(path, message)


def _broken(document: Document, path: JsonPath, error: Any) -> Iterator[Problem]:
    if path and path[0] == "optimizer_config" and ("optimizer",) in document.bad:
        return  # which arguments there are is not known
    if error.validator in ("required", "minItems") and path in document.file.partial:
        return  # it may stand in what could not be read
    if error.validator == "required":
        unclear = any((*path, key) in document.bad for key in ("dataset_type", "type"))
        for key in error.validator_value:
            if key not in error.instance and not document.is_bad((*path, key)) and not (unclear and key != "id"):
                yield document.problem((*path, key), f'this entry has no "{key}"', missing_hint(key, error.instance))
        return
    if not document.is_bad(path):  # one problem a value is enough
        message, hint = _sentence(path, error, from_file=document.override_of(path) is None)
        yield document.problem(path, message, hint)


def label(path: JsonPath) -> str:
    """What a value is called in a sentence: "lora_rank", "optimizer_config.eps", item 2 of "lora_target"."""
    names = [part for part in path if isinstance(part, str)]
    name = '"' + ".".join(names) + '"'
    return f"item {path[-1] + 1} of {name}" if isinstance(path[-1], int) and names else name


def _sentence(path: JsonPath, error: Any, from_file: bool) -> Said:
    name, value, limit, schema = label(path), error.instance, error.validator_value, error.schema
    match error.validator:
        case "type":
            return _wrong_type(name, value, schema, from_file)
        case "enum":
            return unknown_value(name, str(path[-1]), value, limit)
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return f"{name} must be {bounds(schema)}, not {quoted(value)}", None
        case "pattern":
            return f"{name} {schema.get('patternErrorMessage', 'has the wrong form')}, not {quoted(value)}", None
        case "minLength":
            return f"{name} must not be empty", _leave_out(schema)
        case "maxLength":
            return f"{name} is longer than {limit} characters", None
        case "minItems" | "maxItems" if schema.get("minItems") == schema.get("maxItems"):
            return f"{name} must have {limit} items, not {len(value)}", None
        case "minItems":
            return f"{name} must not be empty", _leave_out(schema)
        case "maxItems":
            return f"{name} has more than {limit} items", None
        case "uniqueItems":
            return f"{name} holds the same item twice", None
        case other:
            return f"{name} breaks the schema's {other}", None


def _wrong_type(name: str, value: Any, schema: Mapping[str, Any], from_file: bool) -> Said:
    types = types_of(schema)
    must = f"{name} must be {type_words(schema)}"
    if isinstance(value, str):
        bare = _unquoted(value, types)
        if bare is not None and from_file:
            return f"{must}, not {quoted(value)} in quotes", f"drop the quotes: {bare}"
        if bare is not None:  # on the command line there were no quotes
            return f"{must}, not {value}", f"write {bare}"
        if types == ("array",) and schema.get("items", {}).get("type") == "string":
            return f"{must}, not {quoted(value)}", f"write [{quoted(value)}]"
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return f"{must}, not {value}", f"write {int(value)}"
    if value is None:
        return f"{must}, not null", _leave_out(schema)
    return f"{must}, not {quoted(value)}", None


def _unquoted(value: str, types: tuple[str, ...]) -> str | None:
    """What a value would be without the quotes around it, if that is of one of the types."""
    text = value.strip().lower()
    if "boolean" in types and text in {"true", "false"}:
        return text
    if "null" in types and text in {"null", "none"}:
        return "null"
    try:
        number = float(text)
    except ValueError:
        return None
    if "integer" in types and number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return text if "number" in types and number - number == 0 else None


def _leave_out(schema: Mapping[str, Any]) -> str | None:
    if "default" not in schema:
        return None
    return f"leave the key out to use the default, {quoted(schema['default'])}"


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return quoted(value)
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a number"
