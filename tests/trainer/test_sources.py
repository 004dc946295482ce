"""Each kind of source, end to end: the same pictures give the same plan and the same training as a folder of them.

To add one, write a function that lays out the pictures its way and gives the keys of the data set, and name it in
SOURCES. Names of pictures are part of the plan, so the folder has them in `balls.tar/`, a shard's name.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from project import Project, make_project
from s3_server import S3Server, aws_environment, s3_server

from simpletune.config.load import load
from simpletune.data.preflight import preflight
from simpletune.progress import SilentReporter
from simpletune.trainer.launch import launch

SHARD = "balls.tar"
Keys = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a run did: its plan in words, what each step saw, and the losses to the last bit."""

    buckets: dict[tuple[int, int], int]
    steps: list[list[tuple[str, str]]]
    trained: list[dict[str, Any]]
    losses: list[float]


def local(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    return {"type": "local", "instance_data_dir": str(pictures)}


def webdataset(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    shards = folder / "shards"
    shards.mkdir()
    with tarfile.open(shards / SHARD, "w") as shard:
        for path in sorted((pictures / SHARD).iterdir()):
            shard.add(path, path.name)
    return {"type": "webdataset", "instance_data_dir": "shards"}


def s3(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    server: S3Server = request.getfixturevalue("s3")
    server.fill("pictures", {f"set/{SHARD}/{path.name}": path.read_bytes() for path in (pictures / SHARD).iterdir()})
    return {"type": "s3", "s3_url": "s3://pictures/set", "s3_endpoint": server.address}


def csv(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    return table(pictures, folder, "csv")


def jsonl(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    return table(pictures, folder, "jsonl")


def parquet(pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Keys:
    return table(pictures, folder, "parquet")


def table(pictures: Path, folder: Path, kind: str) -> Keys:
    """The folder of pictures, with the captions of its text files in a table instead."""
    texts = sorted(pictures.rglob("*.txt"))
    rows = [(f"{SHARD}/{path.stem}.png", path.read_text().strip()) for path in texts]
    path = folder / f"captions.{kind}"
    if kind == "csv":
        path.write_text("file_name,caption\n" + "".join(f'{name},"{text}"\n' for name, text in rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"file_name": name, "caption": text}) + "\n" for name, text in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        columns = dict(zip(("file_name", "caption"), map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return {**local(pictures, folder, None), "caption_strategy": kind, "metadata_path": path.name}


SOURCES: tuple[Callable[[Path, Path, pytest.FixtureRequest], Keys], ...] = (webdataset, s3, csv, jsonl, parquet)


@pytest.fixture(scope="module", name="s3")
def running_s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        aws_environment(patch)
        with s3_server() as server:
            yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    made = make_project(folder / "made").folder / "pictures"
    (folder / "pictures").mkdir()
    made.rename(folder / "pictures" / SHARD)
    return folder / "pictures"


@pytest.fixture(scope="module")
def from_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Trained:
    return train(local, pictures, tmp_path_factory.mktemp("local"), request)


def train(source: Callable[..., Keys], pictures: Path, folder: Path, request: pytest.FixtureRequest) -> Trained:
    """Two steps on the pictures, read through a source."""
    made = make_project(folder / "project", pictures=0, max_train_steps=2)
    entries = json.loads((made.folder / "multidatabackend.json").read_text())
    del entries[0]["type"], entries[0]["instance_data_dir"]
    entries[0] |= source(pictures, made.folder, request)
    (made.folder / "multidatabackend.json").write_text(json.dumps(entries))
    look = preflight(load(made.config)[0], 1, SilentReporter())
    assert look.plan is not None
    assert launch(made.config, (), SilentReporter()) is not None
    return Trained(look.buckets, planned(look.plan), manifest(made), made.losses())


def planned(plan: Any) -> list[list[tuple[str, str]]]:
    """What every step of three epochs shows, in order."""
    steps = (plan.step(number) for number in range(3 * plan.steps_per_epoch))
    return [[ref.id for batches in step.ranks for batch in batches for ref in batch] for step in steps]


def manifest(project: Project) -> list[dict[str, Any]]:
    return json.loads((project.output / "data.json").read_text())["trained"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_the_same_pictures_train_the_same(
    source: Callable[..., Keys],
    pictures: Path,
    from_folder: Trained,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    assert len(from_folder.trained) == 6
    assert len(from_folder.losses) == 2
    assert train(source, pictures, tmp_path, request) == from_folder
