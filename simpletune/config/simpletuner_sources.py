"""SimpleTuner's data sets beyond a folder with text files: buckets, the hub, tables of captions, shuffled captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletune.config.aliases import VALUE_ALIASES
from simpletune.config.problems import quoted
from simpletune.config.rules import exists
from simpletune.config.rules_captions import TABLES, regex_fault, table_kind
from simpletune.config.rules_sources import is_hub_data_set
from simpletune.config.simpletuner_conversion import NOT_SET, Conversion, Given
from simpletune.config.simpletuner_values import is_not_set, is_off, number, truth

LEFT_OUT_TYPES: Mapping[str, str] = {
    "csv": 'it lists addresses: download the pictures into a folder, then "caption_strategy": "csv" reads the table',
    "webshart": 'a folder of .tar shards is read with "type": "webdataset"',
    "memory": "pictures are not kept in memory",
}
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the AWS configuration files"
_SEPARATORS = {"comma": ",", "space": " ", "period": "."}
_TABLE_PARTS = ("filename_column", "caption_column", "width_column", "height_column")
_LARGEST_FILTER_FILE = 1 << 20


def kind_of(entry: Mapping[str, Any]) -> str:
    """Where a data set of SimpleTuner has its pictures, by our word for it where there is one."""
    name = str(entry.get("type") or "local").lower()
    return VALUE_ALIASES.get(("type", name), name) if name != "webshart" else name


# --- where the pictures are


def convert_source(c: Conversion, kind: str) -> None:
    """The keys that say where pictures are, for every type."""
    for given in c.taken("type"):
        c.put(given, "type", kind)
    if kind == "s3":
        _bucket(c)
    elif kind == "huggingface":
        _hub(c)


def _bucket(c: Conversion) -> None:
    prefix = c.value("aws_data_prefix")
    folder = str(prefix if prefix is not None else c.value("instance_data_dir") or "").strip("/")
    for given in c.taken("aws_bucket_name"):
        bucket = str(given.value).strip("/").removeprefix("s3://")
        c.put(given, "s3_url", f"s3://{bucket}/{folder}".rstrip("/"), converted=True)
    for given in c.taken("aws_data_prefix"):
        c.move(given, "s3_url", None, "it is part of the address")
    for given in c.taken("instance_data_dir"):
        if prefix is None:
            c.move(given, "s3_url", None, "it is part of the address")
        else:
            c.drop(given, "aws_data_prefix names the folder in the bucket")
    for given in c.taken("aws_endpoint_url"):
        if "@" in str(given.value):
            c.drop(given, f"it holds a name or password; {_CREDENTIALS}")
        else:
            c.put(given, "s3_endpoint", given.value)
    for given in c.taken("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
        c.drop(given, _CREDENTIALS)
    for given in c.taken("aws_region_name"):
        c.drop(given, "set AWS_DEFAULT_REGION, or use the AWS configuration files")


def _hub(c: Conversion) -> None:
    for given in c.taken("dataset_name"):
        text = str(given.value)
        if is_hub_data_set(text) and not exists(c.paths.place(text)):
            c.put(given, "dataset_name", text)
        else:
            c.put(given, "dataset_name", *c.paths.rewritten(text))
    for given in c.taken("cache_dir"):
        c.drop(given, "downloads are kept in the hub's own cache, which HF_HOME moves")
    for given in c.taken("instance_data_dir"):
        c.drop(given, "dataset_name says where the pictures are")
    nested = c.take("huggingface")
    if nested is not None:
        _hub_parts(c, nested)


def _hub_parts(c: Conversion, given: Given) -> None:
    """The nested object: its caption column is a key of the entry here, the rest has no place."""
    parts = given.value if isinstance(given.value, dict) else {}
    column = parts.get("caption_column")
    lost = [name for name in parts if name != "caption_column"]
    if _is_column(column) and c.peek("caption_column") is None:
        c.put_part(given, "caption_column", column)
        c.move(given, "caption_column", column, _left_out(lost) or "it stands in the entry itself here")
    else:
        c.drop(given, _left_out(lost) or NOT_SET)


def _is_column(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)


def _left_out(names: list[str]) -> str | None:
    return f"left out: {', '.join(names)}" if names else None


# --- captions


def convert_table(c: Conversion, strategy: Any) -> None:
    """The nested object that names a table of captions or sizes, whatever the table's format."""
    wanted = str(strategy).lower()
    for given in c.taken("parquet"):
        parts = given.value if isinstance(given.value, dict) else {}
        path = parts.get("path")
        sizes = bool(parts.get("width_column") and parts.get("height_column"))
        if not isinstance(path, str) or not path:
            c.drop(given, "it names no file")
        elif wanted not in TABLES and not sizes:
            c.drop(given, f"captions come by caption_strategy {wanted}")
        else:
            _table(c, given, parts, path, captions=wanted in TABLES)


def _table(c: Conversion, given: Given, parts: Mapping[str, Any], path: str, *, captions: bool) -> None:
    beside = c.value("instance_data_dir")
    if beside and not exists(c.paths.place(path)) and exists(c.paths.place(f"{beside}/{path}")):
        path = f"{beside}/{path}"
    c.put_part(given, "metadata_path", path)
    taken, lost = [], []
    for name, value in parts.items():
        if name == "path" or is_not_set(value):
            continue
        if name in _TABLE_PARTS and _is_column(value) and (captions or name != "caption_column"):
            c.put_part(given, name, value)
            taken.append(name)
        elif name != "identifier_includes_extension":
            lost.append(name)
    for one, other in (("width_column", "height_column"), ("height_column", "width_column")):
        if one in c.out and other not in c.out:
            del c.out[one]
            taken.remove(one)
            lost.append(one)
    words = [f"with {', '.join(taken)}" if taken else None, _left_out(lost)]
    c.move(given, "metadata_path", c.out["metadata_path"], "; ".join(word for word in words if word))


def strategy_of(c: Conversion, value: Any, kind: str) -> tuple[str, str | None]:
    """Our caption_strategy for SimpleTuner's, and a word where it isn't the same; after the table was converted."""
    name = str(value).lower()
    meant = VALUE_ALIASES.get(("caption_strategy", name), name)
    if kind == "huggingface" and meant in {"textfile", "filename", *TABLES}:
        return "huggingface", "its captions are in a column"
    if meant == "huggingface" and kind != "huggingface":
        return "textfile", "only type huggingface has captions of its own"
    if meant == "webshart":
        return "textfile", "captions in the shards' metadata are not read"
    if meant not in TABLES:
        return meant, None
    path = c.out.get("metadata_path")
    if path is None:
        return "textfile", f'there is no "parquet" that names the table of caption_strategy {name}'
    ours = table_kind(Path(str(path)).suffix) or meant
    return ours, None if ours == name else "by the ending of its file"


def convert_shuffle(c: Conversion) -> None:
    """caption_shuffle, an object there, as our three keys."""
    for given in c.taken("caption_shuffle"):
        parts = given.value if isinstance(given.value, dict) else {"enable": given.value}
        if is_off(parts.get("enable", False)):
            c.drop(given, "off there")
            continue
        count, keep = number(parts.get("count", 1)), number(parts.get("position_start", 0))
        count = count if isinstance(count, int) and 0 < count < 1000 else 1
        original = truth(parts.get("include_original", True)) is not False
        separator = _SEPARATORS.get(str(parts.get("split_on", "comma")).lower(), ",")
        c.put_part(given, "caption_shuffle_count", count + original)
        c.put_part(given, "caption_shuffle_keep", keep if isinstance(keep, int) and 0 <= keep <= 1000 else 0)
        c.put_part(given, "caption_separator", separator)
        note = "with caption_shuffle_keep and caption_separator; orders are drawn by seed, others than there"
        c.move(given, "caption_shuffle_count", count + original, note)


def convert_filter(c: Conversion) -> None:
    """A text cache's caption_filter_list, which goes into the data sets that use the cache."""
    for given in c.taken("caption_filter_list"):
        found = _filter_items(c, given.value)
        if found is None:
            c.drop(given, "there is no such file, or it holds no list")
            continue
        kept = [item for item in dict.fromkeys(found) if not item.startswith("s/") and regex_fault(item) is None]
        c.caption_filter = kept[:100]
        lost = len(set(found)) - len(c.caption_filter)
        note = "in the data sets that use this cache"
        if lost:
            note += f"; {lost} left out: nothing is replaced here, or no regular expression"
        if kept:
            c.move(given, "caption_filter", None, note)
        else:
            c.drop(given, "nothing in it can be used: captions' parts are removed here, never replaced")


def _filter_items(c: Conversion, value: Any) -> list[str] | None:
    """The items of a list, of a JSON file that holds one, or of a text file with one a line."""
    if isinstance(value, str) and not value.strip().startswith("["):
        try:
            with c.paths.place(value).open("rb") as file:
                value = file.read(_LARGEST_FILTER_FILE).decode("utf-8-sig", "replace")
        except (OSError, ValueError):
            return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = value.splitlines()
    if not isinstance(value, list):
        return None
    return [item for item in value if isinstance(item, str) and item.strip() and len(item) <= 1000]


# --- what a set is for


def convert_role(c: Conversion) -> None:
    """Evaluation, regularisation, and when and how much a set is trained on."""
    for given in c.taken("is_regularisation_data", "is_regularization_data"):
        if is_off(given.value):
            c.drop(given, "off there")
        else:
            note = "the base model's own prediction is the target there, here the pictures with regularisation_weight"
            c.put(given, "is_regularisation_data", given.value, note)
    for given in c.taken("probability"):
        _probability(c, given)
    for given in c.taken("start_step"):
        first = number(given.value)
        if first in (0, 1):
            c.drop(given, "it is trained on from the first step")
        else:
            c.put(given, given.key, first)
    for given in c.taken("end_step"):
        if number(given.value) == 0:
            c.drop(given, "0 is no limit")
        else:
            c.put(given, given.key, given.value)


def _probability(c: Conversion, given: Given) -> None:
    share = number(given.value)
    if not isinstance(share, int | float) or isinstance(share, bool):
        c.put(given, "probability", given.value)
    elif share <= 0:
        c.drop(given, f"{quoted(share)} there never shows it; disable the set if that is meant")
    elif share >= 1:
        c.drop(given, "every picture is seen 1 + repeats times an epoch" if share > 1 else "1 there, as every set here")
    else:
        note = "there the set's chance in each draw, here the share of its pictures in an epoch"
        c.put(given, "probability", share, note)
