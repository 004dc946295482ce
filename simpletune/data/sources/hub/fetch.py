"""A data set of the hub comes to this machine: its files into the hub's own cache, its rows into Arrow files.

Both go on where they were stopped. Arrow files can be read at any row without reading the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.data.sources import PICTURE_EXTENSIONS
from simpletune.data.sources.hub import errors as hub_errors
from simpletune.data.sources.hub.columns import choose
from simpletune.data.sources.hub.library import is_offline, layout, schema_of
from simpletune.data.sources.hub.pictures import TABLES, splits
from simpletune.data.sources.hub.prepare import prepare
from simpletune.data.sources.hub.row_filter import no_columns
from simpletune.data.sources.hub.split import check_there
from simpletune.data.sources.hub.wanted import Wanted
from simpletune.machine.hub_access import host_of, token_for
from simpletune.machine.hub_snapshot import snapshot

if TYPE_CHECKING:
    from simpletune.progress import Reporter

ROWS, FOLDER, BEGUN = "rows", "pictures", "begun"
"""Kinds of what a marker describes: Arrow files, a folder of pictures in the hub's cache, neither yet."""

_QUICK_SECONDS = 4.0
_MOST_PATTERNS = 500


def fetch(wanted: Wanted, reporter: Reporter) -> None:
    """Bring a data set here; one that was begun goes on at its commit. Raises SourceError."""
    marker = wanted.marker()
    try:
        there = ask(wanted, None if marker is None else str(marker["commit"]))
        (_fetch_pictures if there.is_plain and wanted.config is None else _fetch_rows)(wanted, there, reporter)
    except Exception as error:  # the library and the hub's client raise nearly anything
        raise hub_errors.told(error, wanted.data_set, wanted.revision, host_of(wanted.endpoint)) from error


@dataclass(frozen=True)
class There:
    """What the hub has: the commit of a revision, the names of its files, and whether they are pictures in folders."""

    commit: str
    names: tuple[str, ...]
    is_plain: bool


def is_whole(marker: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a fetch came to its end, and the files that its marker tells of are still there."""
    if marker["kind"] == FOLDER:
        return Path(str(marker["folder"])).is_dir()
    return marker["kind"] == ROWS and all((wanted.home / part["path"]).is_file() for part in marker["parts"])


def ask(wanted: Wanted, commit: str | None) -> There:
    """What the hub has for the wanted revision, or a commit of it.

    Raises what the hub's client raises, also where this account may not download.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=wanted.endpoint, token=token_for(wanted.endpoint))
    told = api.dataset_info(wanted.data_set, revision=commit or wanted.revision)
    names = [sibling.rfilename for sibling in told.siblings or ()]
    if names:
        # What describes a gated repository may be given to everybody; its data isn't.
        data = next((name for name in names if not name.startswith(".") and not name.endswith(".md")), names[0])
        url = huggingface_hub.hf_hub_url(
            wanted.data_set, data, repo_type="dataset", revision=told.sha, endpoint=wanted.endpoint
        )
        huggingface_hub.get_hf_file_metadata(url, endpoint=wanted.endpoint, token=token_for(wanted.endpoint))
    configured = bool((told.card_data or {}).get("configs"))
    return There(str(told.sha), tuple(names), is_folder_of_pictures(names) and not configured)


def tell_if_newer(wanted: Wanted, commit: str, reporter: Reporter) -> None:
    """Note that the hub has something newer than what was fetched, if it can be asked."""
    import huggingface_hub

    if is_offline() or wanted.revision == commit:
        return
    try:
        api = huggingface_hub.HfApi(endpoint=wanted.endpoint, token=token_for(wanted.endpoint))
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


def begin(wanted: Wanted, reporter: Reporter) -> None:
    """Make the folder for what is fetched, and say what else stands beside it."""
    wanted.home.mkdir(parents=True, exist_ok=True)
    for other in wanted.others():
        reporter.note(f"{wanted.cache} also holds {other}")


def _fetch_pictures(wanted: Wanted, there: There, reporter: Reporter) -> None:
    if wanted.filter:
        raise no_columns(wanted.data_set, streamable=True)
    pictures = [name for name in there.names if Path(name).suffix.lower() in PICTURE_EXTENSIONS]
    by_split = splits(pictures)
    check_there(wanted.spans, by_split, wanted.data_set)
    taken = [name for span in wanted.spans for name in by_split[span.split]]
    folders = {_top(name) for name in taken}
    patterns = ["*"] if folders & {""} else [f"{folder}/*" for folder in sorted(folders)]
    tables = [f"*{table}" for table in TABLES]
    folder = _download(wanted, there.commit, patterns + tables, reporter)
    wanted.mark(kind=FOLDER, commit=there.commit, folder=str(folder))


def _top(name: str) -> str:
    """The folder that makes a picture part of its split, as a pattern; "" for one that is in none."""
    first, slash, rest = name.partition("/")
    if not slash:
        return ""
    second, deeper, _ = rest.partition("/")
    return f"{first}/{second}" if first.lower() == "data" and deeper else first


def _download(wanted: Wanted, commit: str, patterns: Sequence[str], reporter: Reporter) -> Path:
    """The files that match, into the hub's own cache. The marker says meanwhile what is under way, and how much."""
    begin(wanted, reporter)
    arguments = {
        "repo_id": wanted.data_set,
        "repo_type": "dataset",
        "revision": commit,
        "allow_patterns": list(patterns),
        "endpoint": wanted.endpoint,
    }
    return snapshot(arguments, reporter, lambda total: wanted.mark(kind=BEGUN, commit=commit, bytes=total))


def _fetch_rows(wanted: Wanted, there: There, reporter: Reporter) -> None:
    commit = there.commit
    found = layout(wanted.data_set, wanted.config, commit, wanted.endpoint)
    check_there(wanted.spans, found.files, wanted.data_set)
    schema = schema_of(found, wanted.spans[0].split, wanted.endpoint)
    if schema is not None:
        choose(
            schema, wanted.image, wanted.captions, wanted.data_set, wanted.filter
        )  # before anything large is downloaded
    addresses = {span.split: found.files[span.split] for span in wanted.spans}
    inside = {split: [in_repository(one) for one in ones] for split, ones in addresses.items()}
    folder = _download(wanted, commit, _patterns([name for names in inside.values() for name in names]), reporter)
    here = {split: [str(folder / name) for name in names] for split, names in inside.items()}
    parts = prepare(wanted, found, here, wanted.home / commit[:12], reporter)
    wanted.mark(kind=ROWS, commit=commit, config_taken=found.builder.config.name, parts=parts)


def in_repository(address: str) -> str:
    """The path inside its repository of hf://datasets/owner/name@commit/path."""
    return address.partition("@")[2].partition("/")[2]


def _patterns(names: Sequence[str]) -> list[str]:
    """Patterns that match the names; of very many, all names of their endings, as each is tried on each file."""
    if len(names) > _MOST_PATTERNS:
        return sorted({f"*{Path(name).suffix}" for name in names})
    return [_literal(name) for name in names]


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
