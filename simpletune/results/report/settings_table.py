"""What a run was set to, as rows for people: what differs from the defaults, everything, and where runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simpletune.config.schema import config_keys, entry_keys
from simpletune.results.report.run import Run, Setting, Settings

_PLACES = frozenset(
    {"output_dir", "data_backend_config", "cache_dir_vae", "cache_dir_pictures", "cache_dir", "text_embeds"}
)
"""Keys that say where something lies: two runs always differ there, and it tells nothing."""

_NONE = "not set"


@dataclass(frozen=True)
class Row:
    """A setting as text. `default` is None where the schema has none."""

    key: str
    title: str
    value: str
    default: str | None
    origin: str


@dataclass(frozen=True)
class Difference:
    """A key, and its values in each of the runs compared."""

    key: str
    title: str
    values: tuple[str, ...]


def given(run: Run) -> list[Row]:
    """What somebody wrote, in config.json, on the command line or in the environment, and is no default."""
    rows = _rows(run.config, config_keys())
    return [row for row, setting in rows if setting.given and row.value != row.default and row.key not in _PLACES]


def everything(run: Run) -> list[Row]:
    """Every setting, those of data sets too, under their id."""
    rows = [row for row, _ in _rows(run.config, config_keys())]
    for one in run.data_sets:
        rows += [row for row, _ in _rows(one, entry_keys("image"), f"{_id(one)}: ")]
    return rows


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Where the runs' settings, data sets, model, device or versions differ."""
    tables = [_all_values(run) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    found = []
    for key in keys:
        values = tuple(table.get(key, _NONE) for table in tables)
        if len(set(values)) > 1 and key.rpartition(": ")[2] not in _PLACES:
            found.append(Difference(key, _title(config_keys(), key), values))
    return found


def text(value: Any) -> str:
    """A value as config.json has it; text without its quotes."""
    if value is None:
        return _NONE
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _rows(settings: Settings, schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[Row, Setting]]:
    for key, setting in settings.items():
        default = text(_plain(schema[key]["default"])) if "default" in schema.get(key, {}) else None
        value = text(_plain(setting.value))
        yield Row(prefix + key, _title(schema, key), value, default, setting.origin), setting


def _all_values(run: Run) -> dict[str, str]:
    found = {key: text(_plain(setting.value)) for key, setting in run.config.items()}
    for one in run.data_sets:
        found |= {f"{_id(one)}: {key}": text(_plain(setting.value)) for key, setting in one.items()}
    pictures = {"pictures trained on": f"{len(run.trained):,}", "pictures held out": f"{len(run.held_out):,}"}
    versions = run.facts.get("versions")
    named = {f"version of {name}": text(one) for name, one in versions.items()} if isinstance(versions, Mapping) else {}
    model = run.facts.get("model")
    where = {"model": text(model.get("source"))} if isinstance(model, Mapping) else {}
    return found | pictures | where | {"device it ran on": text(run.facts.get("device"))} | named


def _plain(value: Any) -> Any:
    """Whole numbers without a point, so that 16.0 and 16 are no difference."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _title(schema: Mapping[str, Any], key: str) -> str:
    return str(schema.get(key, {}).get("title", ""))


def _id(one: Settings) -> str:
    return str(one["id"].value) if "id" in one else "data set"
