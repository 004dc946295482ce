"""A data set of the hub comes to this machine: its files into the hub's own cache, its rows into Arrow files.

Both go on where they were stopped. Arrow files can be read at any row without reading the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.data import hub_errors
from simpletune.data.hub_library import is_offline, layout
from simpletune.data.hub_pictures import TABLES, splits
from simpletune.data.hub_prepare import prepare
from simpletune.data.hub_split import check_there
from simpletune.data.hub_wanted import Wanted
from simpletune.data.sources import PICTURE_EXTENSIONS
from simpletune.machine.hub_access import host_of
from simpletune.machine.hub_snapshot import snapshot

if TYPE_CHECKING:
    from simpletune.progress import Reporter

ROWS, FOLDER = "rows", "pictures"
"""Kinds of what a marker describes: Arrow files, or a folder of pictures in the hub's cache."""

_QUICK_SECONDS = 4.0


def fetch(wanted: Wanted, reporter: Reporter) -> None:
    """Bring a data set here, unless it is. Raises SourceError."""
    marker = wanted.marker()
    if marker is not None and is_whole(marker, wanted):
        tell_if_newer(wanted, str(marker["commit"]), reporter)
        return
    if is_offline():
        raise hub_errors.offline(wanted.data_set)
    try:
        commit, names = ask(wanted, None if marker is None else str(marker["commit"]))
        wanted.home.mkdir(parents=True, exist_ok=True)
        for other in wanted.others():
            reporter.note(f"{wanted.cache} also holds {other}")
        if is_folder_of_pictures(names):
            _fetch_pictures(wanted, commit, names, reporter)
        else:
            _fetch_rows(wanted, commit, reporter)
    except Exception as error:  # the library and the hub's client raise nearly anything
        raise hub_errors.told(error, wanted.data_set, wanted.revision, host_of(wanted.endpoint)) from error


def is_whole(marker: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether the files that a marker tells of are still there."""
    if marker.get("kind") == FOLDER:
        return Path(str(marker["folder"])).is_dir()
    return all((wanted.home / part["path"]).is_file() for part in marker.get("parts", ()))


def ask(wanted: Wanted, commit: str | None) -> tuple[str, list[str]]:
    """The commit that the hub has for the wanted revision, or the given one, and the names of its files.

    Raises what the hub's client raises, also where this account may not download.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=wanted.endpoint)
    told = api.dataset_info(wanted.data_set, revision=commit or wanted.revision)
    names = [sibling.rfilename for sibling in told.siblings or ()]
    if names:
        url = huggingface_hub.hf_hub_url(
            wanted.data_set, names[0], repo_type="dataset", revision=told.sha, endpoint=wanted.endpoint
        )
        huggingface_hub.get_hf_file_metadata(url, endpoint=wanted.endpoint)
    return str(told.sha), names


def tell_if_newer(wanted: Wanted, commit: str, reporter: Reporter) -> None:
    """Note that the hub has something newer than what was fetched, if it can be asked."""
    import huggingface_hub

    if is_offline() or wanted.revision == commit:
        return
    try:
        api = huggingface_hub.HfApi(endpoint=wanted.endpoint)
        newest = api.dataset_info(wanted.data_set, revision=wanted.revision, timeout=_QUICK_SECONDS).sha
    except Exception:  # what is here can be used whatever the hub says
        return
    if newest != commit:
        reporter.note(
            f"{wanted.data_set} has changed on the hub since it was fetched ({commit[:12]}); what was fetched is used. "
            f'"dataset_revision": "{newest}" takes the new one'
        )


def is_folder_of_pictures(names: Sequence[str]) -> bool:
    """Whether a repository is pictures in folders, and not files of rows."""
    endings = [Path(name).suffix.lower() for name in names]
    pictures = sum(ending in PICTURE_EXTENSIONS for ending in endings)
    rows = sum(name.endswith((".parquet", ".arrow", ".tar")) and Path(name).name not in TABLES for name in names)
    return pictures > rows


def _fetch_pictures(wanted: Wanted, commit: str, names: Sequence[str], reporter: Reporter) -> None:
    pictures = [name for name in names if Path(name).suffix.lower() in PICTURE_EXTENSIONS]
    by_split = splits(pictures)
    check_there(wanted.spans, by_split, wanted.data_set)
    taken = [name for span in wanted.spans for name in by_split[span.split]]
    folders = {_top(name) for name in taken}
    patterns = ["*"] if folders & {""} else [f"{folder}/*" for folder in sorted(folders)]
    tables = [f"*{table}" for table in TABLES]
    folder = snapshot(_snapshot_arguments(wanted, commit, patterns + tables), reporter)
    wanted.mark(kind=FOLDER, commit=commit, folder=str(folder))


def _top(name: str) -> str:
    """The folder that makes a picture part of its split, as a pattern; "" for one that is in none."""
    first, slash, rest = name.partition("/")
    if not slash:
        return ""
    second, deeper, _ = rest.partition("/")
    return f"{first}/{second}" if first.lower() == "data" and deeper else first


def _snapshot_arguments(wanted: Wanted, commit: str, patterns: Sequence[str]) -> dict[str, Any]:
    return {
        "repo_id": wanted.data_set,
        "repo_type": "dataset",
        "revision": commit,
        "allow_patterns": list(patterns),
        "endpoint": wanted.endpoint,
    }


def _fetch_rows(wanted: Wanted, commit: str, reporter: Reporter) -> None:
    found = layout(wanted.data_set, wanted.config, commit, wanted.endpoint)
    check_there(wanted.spans, found.files, wanted.data_set)
    addresses = {span.split: found.files[span.split] for span in wanted.spans}
    inside = {split: [in_repository(one) for one in ones] for split, ones in addresses.items()}
    exact = [_literal(name) for names in inside.values() for name in names]
    folder = snapshot(_snapshot_arguments(wanted, commit, exact), reporter)
    here = {split: [str(folder / name) for name in names] for split, names in inside.items()}
    parts = prepare(wanted, found, here, reporter)
    wanted.mark(kind=ROWS, commit=commit, config_taken=found.builder.config.name, parts=parts)


def in_repository(address: str) -> str:
    """The path inside its repository of hf://datasets/owner/name@commit/path."""
    return address.partition("@")[2].partition("/")[2]


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
