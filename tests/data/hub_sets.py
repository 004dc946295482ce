"""One small data set in every layout that the Hugging Face hub knows, made without asking it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from data_helpers import colours, image_set
from pyarrow import parquet

from simpletune.config.settings import ImageSet

FEATURES = {
    "image": {"_type": "Image"},
    "caption": {"dtype": "string", "_type": "Value"},
    "tags": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "kind": {"names": ["ball", "box"], "_type": "ClassLabel"},
}
KINDS = {
    "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
    "caption": pyarrow.string(),
    "tags": pyarrow.list_(pyarrow.string()),
    "kind": pyarrow.int64(),
}


def picture(seed: int, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    colours(40 + seed, 32, seed).save(data, kind)
    return data.getvalue()


def rows(count: int = 6) -> list[dict[str, Any]]:
    """Rows with pictures 0-ball.png and so on, captions, tags and a label."""
    return [
        {
            "image": {"bytes": picture(seed), "path": f"{seed}-ball.png"},
            "caption": f"ball number {seed}",
            "tags": ["round", f"ball {seed}"],
            "kind": seed % 2,
        }
        for seed in range(count)
    ]


def table(content: Sequence[dict[str, Any]], features: dict[str, Any] | None = None) -> pyarrow.Table:
    """The rows as the hub has them: what the columns are stands in the schema's metadata."""
    told = {"huggingface": json.dumps({"info": {"features": FEATURES if features is None else features}})}
    names = list(content[0]) if content else list(KINDS)
    schema = pyarrow.schema([(name, KINDS.get(name, pyarrow.string())) for name in names], told)
    return pyarrow.Table.from_pylist(list(content), schema)


def write_parquet(folder: Path, content: Sequence[dict[str, Any]], files: int = 2, group: int = 2) -> Path:
    """A folder with data/train-00000-of-0000N.parquet and so on, in groups of a few rows."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    whole, size = table(content), -(-len(content) // files)
    for number in range(files):
        path = folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet"
        parquet.write_table(whole.slice(number * size, size), path, row_group_size=group)
    return folder


def write_saved(folder: Path, content: Sequence[dict[str, Any]]) -> Path:
    """What `Dataset.save_to_disk` leaves: the test of the library itself shows that this is its layout."""
    folder.mkdir(parents=True)
    whole = table(content)
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink:
        with pyarrow.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole, max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_pictures(folder: Path, content: Sequence[dict[str, Any]], split: str = "train") -> Path:
    """Pictures in folders, with a metadata.jsonl beside them."""
    (folder / split).mkdir(parents=True)
    lines = []
    for row in content:
        (folder / split / row["image"]["path"]).write_bytes(row["image"]["bytes"])
        lines.append(json.dumps({"file_name": row["image"]["path"], "text": row["caption"]}))
    (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def write_shards(folder: Path, content: Sequence[dict[str, Any]]) -> Path:
    """Tar shards with 0-ball.png and 0-ball.txt and so on."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-00000.tar", "w") as shard:
        for row in content:
            name = Path(row["image"]["path"])
            for own, data in ((name, row["image"]["bytes"]), (name.with_suffix(".txt"), row["caption"].encode())):
                member = tarfile.TarInfo(str(own))
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return folder


def hub_set(named: Path | str, cache: Path, **changes: Any) -> ImageSet:
    """The entry of a data set of type huggingface."""
    values = {
        "type": "huggingface",
        "instance_data_dir": None,
        "dataset_name": str(named),
        "caption_strategy": "huggingface",
        "cache_dir_pictures": cache,
    }
    return image_set(**(values | changes))
