"""The sources that a survey lists pictures through where they aren't in a plain folder, and what it must know of them.

Everything here may wait for a disk, a network or the loading of a library: it is called in the survey's thread only.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from simpletune.config.schema import entry_keys
from simpletune.config.settings import ImageSet
from simpletune.data.sources import ImageFile, Listing, Rejected, Source, SourceError
from simpletune.data.survey import HubLook, Place

FETCHED_LATER = "a data set of the hub: it is fetched when training starts"
_TRAIN = "train"


class Known(NamedTuple):
    """A picture of a listing, which says already what can be said without opening it."""

    name: str
    file: ImageFile | Rejected

    def look(self) -> ImageFile | Rejected:
        return self.file


class Away(Exception):
    """The data set is not on this machine yet, and nothing is wrong with that."""


def pictures_of(listing: Listing) -> list[Known]:
    return [*(Known(file.name, file) for file in listing.files), *(Known(*one) for one in listing.rejected)]


def open_bucket(place: Place) -> Source:
    """A bucket that has answered, so that listing it is a matter of time alone. Raises SourceError."""
    from simpletune.data.sources.s3 import Bucket
    from simpletune.data.sources.s3_client import Client, Patience
    from simpletune.data.sources.s3_errors import Where

    patience = Patience(connect=2.0, silence=2.0, tries=1)
    bucket = Bucket(place.where, dict(place.keys).get("s3_endpoint"), patience)
    client = Client(Where(bucket.url, bucket.endpoint, False), bucket.bucket, patience)
    if not next(client.pages(bucket.prefix)):
        raise SourceError(f"{client.where}: there is nothing below that", "Check the spelling; capital letters count.")
    return bucket


def open_hub(place: Place) -> tuple[Source, HubLook | None]:
    """A data set of the hub, or in its layout. Raises SourceError; Away when it has to be fetched first."""
    from simpletune.data.sources.huggingface import HuggingFace

    image_set = _image_set(place)
    if place.folder is None:
        source = HuggingFace(image_set, place.mirror)
        try:
            source.list()
        except SourceError:
            raise Away(FETCHED_LATER) from None
        return source, None
    look = _look(Path(place.where), image_set.dataset_config)
    if look is not None:
        image_set = _fitting(image_set, look, dict(place.keys))
    return HuggingFace(image_set, place.mirror), look


def _image_set(place: Place) -> ImageSet:
    """The entry's values, with the schema's defaults for the rest."""
    keys = entry_keys("image")
    values: dict[str, Any] = {field.name: keys[field.name].get("default") for field in fields(ImageSet)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    values |= {"id": "survey", "type": "huggingface", "dataset_name": place.where, "cache_dir_pictures": Path("cache")}
    return ImageSet(**values | {"caption_strategy": "instanceprompt"} | dict(place.keys))


def _fitting(image_set: ImageSet, look: HubLook, given: dict[str, Any]) -> ImageSet:
    """With the part and the columns that are there, where the entry names none."""
    if "dataset_split" not in given and look.splits and _TRAIN not in look.splits:
        image_set = replace(image_set, dataset_split=look.splits[0])
    if image_set.image_column is None and look.images:
        image_set = replace(image_set, image_column=look.images[0])
    caption = image_set.caption_column or look.caption or next(iter(look.texts), None)
    if caption is not None:
        image_set = replace(image_set, caption_strategy="huggingface", caption_column=caption)
    return image_set


def _look(path: Path, config: str | None) -> HubLook | None:
    """The parts and columns of a data set on this machine; None for pictures in folders. Raises SourceError."""
    from simpletune.data.sources.hub.library import need_pyarrow
    from simpletune.data.sources.hub.local import files_of

    need_pyarrow()
    found = files_of(path, config)
    if found is None:
        return None
    return _columns(tuple(found.files), str(next(iter(found.files.values()))[0]), found.kind)


def _columns(splits: tuple[str, ...], path: str, kind: str) -> HubLook:
    from simpletune.data.sources.hub.columns import choose
    from simpletune.data.sources.hub.shards import Shard

    schema = Shard(path, kind).schema
    images: list[str] = []
    texts: tuple[str, ...] = ()
    for name in schema.names:
        try:
            texts = choose(schema, name, (), path).texts
            images.append(name)
        except SourceError:
            continue
    if not images:
        choose(schema, None, (), path)  # which says what is there
    try:
        caption = choose(schema, images[0], None, path).captions[0]
    except SourceError:
        caption = None
    return HubLook(splits, tuple(images), tuple(name for name in texts if name not in images), caption)
