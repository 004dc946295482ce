"""The `datasets` library: brought in when it is needed, kept quiet, and asked which files make up a data set.

It is never allowed to run a data set's own code: versions that could aren't accepted (see the extra `huggingface`).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from simpletune.config.suggest import close, did_you_mean
from simpletune.data.sources import SourceError, shown
from simpletune.machine.hub_access import token_for

INSTALL = "pip install 'simpletune[huggingface]'"
HUB = "https://huggingface.co"

PARQUET, ARROW, PICTURES = "parquet", "arrow", "imagefolder"
"""What the library calls the layouts that are read in place."""
_CONTAINERS = frozenset({PARQUET, ARROW, PICTURES, "webdataset", "json", "lance", "hdf5", "vortex", "iceberg"})
"""Layouts that can hold pictures."""
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Layout:
    """What a data set is made of: the library's name for it, and its files by split, as paths or hf:// addresses."""

    kind: str
    files: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    builder: Any


def need_pyarrow() -> None:
    """Raises SourceError when it isn't installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise _missing("pyarrow", error) from error


def need_library() -> None:
    """Raises SourceError when a package for fetching isn't installed."""
    need_pyarrow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets  # noqa: F401
    except ImportError as error:
        raise _missing("datasets", error) from error


def _missing(package: str, error: ImportError) -> SourceError:
    message = f"type huggingface needs the package {package}, which can't be imported: {shown(str(error))}"
    return SourceError(message, INSTALL)


@contextmanager
def library(endpoint: str | None = None) -> Iterator[Any]:
    """The `datasets` module, asking `endpoint`, without bars or warnings of its own, and counting no visits.

    One thread at a time has it, as its settings are its own. Raises SourceError when it isn't installed.
    """
    need_library()
    import datasets
    import huggingface_hub.constants as hub

    address = endpoint or HUB
    told = {
        "HF_ENDPOINT": address,
        "HUB_DATASETS_URL": address + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_UPDATE_DOWNLOAD_COUNTS": False,
        "HF_HUB_OFFLINE": hub.HF_HUB_OFFLINE,
        "USE_PARQUET_EXPORT": False,
        "TORCH_AVAILABLE": False,  # it would be imported, for seconds, to share a counter among its workers
    }
    with _LOCK, _set(datasets.config, told), _quiet(datasets):
        yield datasets


@contextmanager
def _set(module: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """A module's settings for a while, where it reads the environment only when it is imported."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    verbosity, bars = datasets.logging.get_verbosity(), not datasets.utils.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def layout(path: str, config: str | None, revision: str | None = None, endpoint: str | None = None) -> Layout:
    """The files of a data set on this machine or on the hub.

    Raises SourceError for one without pictures or without that configuration; what the hub's client raises, too.
    """
    with library(endpoint) as datasets:
        try:
            builder = datasets.load_dataset_builder(path, name=config, revision=revision, token=token_for(endpoint))
        except datasets.exceptions.DatasetNotFoundError:
            raise
        except (datasets.data_files.EmptyDatasetError, datasets.exceptions.DataFilesNotFoundError) as error:
            raise SourceError(f"{path} holds no files of a data set", "check the name") from error
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            message = f"{path} is a script, and a data set's own code is never run"
            hint = 'the hub keeps many of these as Parquet files too: try "dataset_revision": "refs/convert/parquet"'
            raise SourceError(message, hint) from error
        except ValueError as error:
            raise _no_configuration(path, config, str(error)) from error
    files = {str(split): tuple(found) for split, found in (builder.config.data_files or {}).items()}
    if builder.name not in _CONTAINERS:
        message = f"{path} holds {shown(builder.name)} files, and no pictures"
        raise SourceError(message, "pictures in Parquet or Arrow files, in folders or in tar shards can be read")
    told = builder.info.splits or {}
    rows = {str(name): info.num_examples for name, info in told.items() if info.num_examples}
    return Layout(builder.name, files, rows, builder)


def _no_configuration(path: str, config: str | None, said: str) -> SourceError:
    """What the library's complaint of a configuration's name means; it lists those there are."""
    there = _quoted(said.partition("vailable")[2] or said.partition("following")[2] or said)
    if config is None and there:
        return SourceError(f"{path} has several configurations", f'name one with "dataset_config": {", ".join(there)}')
    if config is not None and there:
        message = f"{path} has no configuration {shown(config)}{did_you_mean(close(config, there))}"
        return SourceError(message, f'"dataset_config" can be {", ".join(there)}')
    return SourceError(
        f"{path} can't be read as a data set: {shown(said.splitlines()[0] if said else '?')}", "check it"
    )


def _quoted(text: str) -> list[str]:
    """What stands in single quotes, as in a printed list."""
    return [shown(piece) for piece in text.split("[", 1)[-1].split("]", 1)[0].split("'")[1::2]]


def schema_of(found: Layout, split: str, endpoint: str) -> Any:
    """The columns of a split on the hub as a pyarrow schema; None where only all of its files would tell."""
    if found.kind == PARQUET:
        import huggingface_hub
        from pyarrow import parquet

        with huggingface_hub.HfFileSystem(endpoint=endpoint, token=token_for(endpoint)).open(
            found.files[split][0], "rb", cache_type="none"
        ) as file:
            return parquet.read_schema(file)
    features = found.builder.info.features
    return None if features is None else features.arrow_schema


def is_offline() -> bool:
    """Whether a person has forbidden asking the hub."""
    import huggingface_hub.constants as hub

    return bool(hub.HF_HUB_OFFLINE) or os.environ.get("HF_DATASETS_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
