"""Rules of where a data set's captions come from and what is done to them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from simpletune.config.document import Keys
from simpletune.config.problems import Problem
from simpletune.config.rules import differs

TABLES = ("csv", "jsonl", "parquet")
_TABLE_KEYS = ("metadata_path", "filename_column", "width_column", "height_column")
_ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def caption_problems(entry: Keys) -> Iterator[Problem]:
    yield from _prompt(entry)
    if entry.fine("caption_strategy"):
        yield from _origin(entry, entry["caption_strategy"])
    yield from _sizes_in_pairs(entry)
    yield from _filters(entry)
    if entry.fine("caption_shuffle_count") and not entry["caption_shuffle_count"]:
        for key in ("caption_shuffle_keep", "caption_separator"):
            if differs(entry, key):
                yield entry.useless(key, 'while "caption_shuffle_count" is 0')


def reads_table(entry: Keys) -> bool:
    """Whether a data set's metadata_path is read: for captions, or for sizes alone."""
    sizes = entry["width_column"] is not None and entry["height_column"] is not None
    return entry["metadata_path"] is not None and (entry["caption_strategy"] in TABLES or sizes)


def table_kind(ending: str) -> str | None:
    """The caption_strategy that reads a file whose name ends so (".csv"), if any does."""
    return _ENDINGS.get(ending.lower())


def _prompt(entry: Keys) -> Iterator[Problem]:
    keys = ("caption_strategy", "instance_prompt", "prepend_instance_prompt", "only_instance_prompt")
    if not entry.fine(*keys):
        return
    strategy, prompt = entry["caption_strategy"], entry["instance_prompt"]
    users = [key for key in keys[2:] if entry[key]]
    if prompt is None or not prompt.strip():
        if strategy == "instanceprompt":
            message = '"caption_strategy" instanceprompt needs "instance_prompt"'
            yield entry.error("caption_strategy", message, 'add "instance_prompt": "a photo of ..."')
        for key in users:
            yield entry.error(key, f'"{key}" needs "instance_prompt"', 'add "instance_prompt": "a photo of ..."')
    elif strategy != "instanceprompt" and not users:
        yield entry.useless("instance_prompt", f'while "caption_strategy" is {strategy}; see prepend_instance_prompt')


def _origin(entry: Keys, strategy: str) -> Iterator[Problem]:
    """What a strategy needs, and the keys of another one."""
    if strategy in TABLES:
        yield from _table(entry, strategy)
    elif not reads_table(entry):
        for key in _TABLE_KEYS:
            if differs(entry, key):
                yield entry.useless(key, f'while "caption_strategy" is {strategy}; it is for csv, jsonl and parquet')
    if strategy not in (*TABLES, "huggingface") and differs(entry, "caption_column"):
        why = f'while "caption_strategy" is {strategy}; it is for csv, jsonl, parquet and huggingface'
        yield entry.useless("caption_column", why)
    if differs(entry, "caption_filter") and (strategy == "instanceprompt" or entry["only_instance_prompt"]):
        yield entry.useless("caption_filter", "on instance_prompt")
    if entry.fine("type", "only_instance_prompt"):
        yield from _fits_type(entry, strategy)


def _table(entry: Keys, strategy: str) -> Iterator[Problem]:
    if not entry.fine("metadata_path"):
        return
    path = entry["metadata_path"]
    if path is None:
        message = f'"caption_strategy" {strategy} needs "metadata_path"'
        hint = f'add "metadata_path": "captions.{strategy}", the file with a row for each picture'
        yield entry.error("caption_strategy", message, hint)
        return
    ending = re.search(r"\.\w+$", path)
    meant = table_kind(ending[0]) if ending else None
    if ending and meant not in (None, strategy):
        message = f'"metadata_path" ends in {ending[0]}, and "caption_strategy" is {strategy}'
        yield entry.warning("metadata_path", message, f'set "caption_strategy" to "{meant}" if that is what it holds')


def _fits_type(entry: Keys, strategy: str) -> Iterator[Problem]:
    kind = entry["type"]
    if strategy == "huggingface" and kind != "huggingface":
        message = f'"caption_strategy" huggingface needs "type" huggingface, and it is {kind}'
        hint = "choose textfile, filename, csv, jsonl or parquet" if kind != "s3" else "choose textfile or a table"
        yield entry.error("caption_strategy", message, hint)
    elif kind == "huggingface" and strategy == "textfile" and not entry["only_instance_prompt"]:
        message = '"caption_strategy" textfile: a Hugging Face data set has no .txt files'
        hint = 'set "caption_strategy" to "huggingface"; "caption_column" names the column'
        yield entry.error(entry.first_given("caption_strategy", "type"), message, hint)


def _sizes_in_pairs(entry: Keys) -> Iterator[Problem]:
    for key, other in (("width_column", "height_column"), ("height_column", "width_column")):
        if entry.fine(key, other) and entry[key] is not None and entry[other] is None:
            yield entry.error(key, f'"{key}" needs "{other}"', f'add "{other}", or remove "{key}"')


def _filters(entry: Keys) -> Iterator[Problem]:
    if not entry.fine("caption_filter"):
        return
    for index, pattern in enumerate(entry["caption_filter"]):
        if wrong := regex_fault(pattern):
            message = f'item {index + 1} of "caption_filter" is no regular expression: {wrong}'
            hint = r"put \\ before each of . ^ $ * + ? { } [ ] ( ) | that is meant as it stands"
            yield entry.error("caption_filter", message, hint, item=index)


def regex_fault(pattern: str) -> str | None:
    """What is wrong with a regular expression; None when it is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later Python may read otherwise is no mistake yet
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error) or "it is too deeply nested"
    return None
