"""What a run was trained on: a row for each data set, and some of its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from simpletune.data.report.page import fair_shares
from simpletune.results.report.embed import Embedded, Embedder
from simpletune.results.report.run import Picture, Run, Settings

_SHOWN = 48
_EDGE = 200
_BUDGET = 1_500_000
_BUCKETS = 4


@dataclass(frozen=True)
class DataSetRow:
    """A data set in a table; everything is text for people."""

    name: str
    where: str
    role: str
    trained: int
    held_out: int
    captions: str
    sizes: str


@dataclass(frozen=True)
class Thumbnail:
    picture: Embedded
    name: str
    caption: str
    said: str


def table(run: Run) -> list[DataSetRow]:
    """A row for each data set that run.json or data.json names."""
    names = dict.fromkeys([*(_text(one, "id") for one in run.data_sets), *run.roles])
    settings = {_text(one, "id"): one for one in run.data_sets}
    return [_row(run, name, settings.get(name, {})) for name in names]


def thumbnails(run: Run, embedder: Embedder) -> tuple[list[Thumbnail], str]:
    """Pictures that were trained on, spread over the data sets; and what isn't shown, in words.

    Only what lies in folders of this machine is shown: a page fetches nothing.
    """
    here = {name: [p for p in run.trained if p.data_set == name] for name in run.folders}
    shares = fair_shares([len(pictures) for pictures in here.values()], _SHOWN)
    chosen = [p for pictures, share in zip(here.values(), shares, strict=True) for p in _spread(pictures, share)]
    paths = {picture: run.folders[picture.data_set] / picture.name for picture in chosen}
    made = embedder.embed(paths.values(), _EDGE, _BUDGET)
    found = [_thumbnail(picture, made[path]) for picture, path in paths.items() if path in made]
    return found, _left_out(run, len(found), len(chosen))


def _row(run: Run, name: str, settings: Settings) -> DataSetRow:
    trained = [picture for picture in run.trained if picture.data_set == name]
    held_out = [picture for picture in run.held_out if picture.data_set == name]
    different = len({caption for picture in (*trained, *held_out) for caption in picture.captions})
    buckets = Counter(picture.bucket for picture in trained).most_common()
    sizes = ", ".join(f"{count:,} in {width} × {height}" for (width, height), count in buckets[:_BUCKETS])
    return DataSetRow(
        name=name,
        where=next((_text(settings, key) for key in _PLACES if _text(settings, key)), ""),
        role=str(run.roles.get(name, {}).get("role", "training")),
        trained=len(trained),
        held_out=len(held_out),
        captions=f"{different:,} different ({_text(settings, 'caption_strategy') or 'unknown'})",
        sizes=sizes + (f" and {len(buckets) - _BUCKETS} more" if len(buckets) > _BUCKETS else ""),
    )


_PLACES = ("instance_data_dir", "s3_url", "dataset_name")


def _text(settings: Settings, key: str) -> str:
    setting = settings.get(key)
    return "" if setting is None or setting.value is None else str(setting.value)


def _spread(pictures: Sequence[Picture], share: int) -> Sequence[Picture]:
    return pictures[:: max(1, len(pictures) // max(1, share))][:share]


def _thumbnail(picture: Picture, made: Embedded) -> Thumbnail:
    width, height = picture.size
    caption = picture.captions[0] if picture.captions else ""
    return Thumbnail(made, picture.name, caption, f"{width} × {height}")


def _left_out(run: Run, shown: int, chosen: int) -> str:
    said = []
    elsewhere = sum(picture.data_set not in run.folders for picture in run.trained)
    if elsewhere:
        said.append(f"{elsewhere:,} pictures aren't in a folder of this machine and not shown here")
    if shown < chosen:
        said.append(f"{chosen - shown:,} can't be read any more")
    further = len(run.trained) - elsewhere - chosen
    if further:
        said.append(f"{further:,} more were trained on")
    return "; ".join(said)
