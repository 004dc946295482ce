"""Data sets of the Hugging Face hub, and in its layouts, end to end: the same pictures give the same plan as a folder.

Their names differ from the folder's, so which picture comes when does too.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow
import pytest
from hub_server import Hub, serve
from project import Project, make_project
from pyarrow import parquet

from simpletune.config.load import load
from simpletune.data.preflight import Preflight, preflight
from simpletune.progress import PlainReporter, SilentReporter
from simpletune.trainer.launch import launch

ENTRY = {"type": "huggingface", "dataset_name": "owner/set", "caption_strategy": "huggingface"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("folder") / "project", max_train_steps=2)


@pytest.fixture(scope="module")
def tables(folder: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder's pictures and captions as Parquet files."""
    data = tmp_path_factory.mktemp("tables")
    pictures = sorted((folder.folder / "pictures").glob("*.png"))
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "text": path.with_suffix(".txt").read_text()}
        for path in pictures
    ]
    for number, half in enumerate((rows[:4], rows[4:])):
        path = data / f"train-{number:05d}-of-00002.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(half), path, row_group_size=2)
    return data


@pytest.fixture(scope="module")
def hub(tables: Path) -> Iterator[Hub]:
    with serve(tables, "datasets", "owner/set") as hub:
        yield hub


@pytest.fixture
def project(
    folder: Project, tables: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Project]:
    """A project on the same pictures, with the given keys of the data set."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)

    def make(**keys: Any) -> Project:
        made = make_project(tmp_path / "project", pictures=0, max_train_steps=2, hf_endpoint=hub.endpoint)
        entries = json.loads((made.folder / "multidatabackend.json").read_text())
        del entries[0]["instance_data_dir"]
        entries[0] |= ENTRY | keys
        (made.folder / "multidatabackend.json").write_text(json.dumps(entries))
        return made

    return make


def planned(look: Preflight) -> tuple[Any, ...]:
    """A plan without the names: buckets, captions and sizes of its pictures, how many steps."""
    samples = Counter((sample.captions, sample.width, sample.height, sample.placements) for sample in look.training)
    return look.buckets, samples, look.steps_per_epoch, look.total_steps


def look_at(project: Project) -> Preflight:
    return preflight(load(project.config)[0], 1, SilentReporter())


@pytest.mark.parametrize(
    "keys", [{}, {"streaming": True}, {"dataset_name": "TABLES"}], ids=["hub", "streamed", "local"]
)
def test_the_same_pictures_train_with_the_same_plan(
    project: Callable[..., Project], folder: Project, tables: Path, keys: dict[str, Any]
) -> None:
    made = project(**{key: str(tables) if value == "TABLES" else value for key, value in keys.items()})
    assert launch(made.config, (), SilentReporter()) is not None
    assert len(made.losses()) == 2
    assert planned(look_at(made)) == planned(look_at(folder))


def test_validating_fetches_nothing_and_training_shows_what_it_fetches(
    project: Callable[..., Project], hub: Hub
) -> None:
    made = project()
    hub.asked.clear()
    problems = preflight(load(made.config)[0], 1, None).problems
    assert "owner/set isn't on this machine yet" in problems[0].message
    assert problems[0].kind == "environment"  # the files are right
    assert hub.asked == []
    shown = io.StringIO()
    preflight(load(made.config)[0], 1, PlainReporter(shown))
    assert "downloading owner/set: " in shown.getvalue()
    assert "preparing owner/set: 6 rows" in shown.getvalue()
    assert not any("datasets-server" in path for path in hub.asked)
