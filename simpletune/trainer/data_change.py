"""How a data set differs from the one that a run was trained on so far, in words.

data.json is the manifest that a run keeps of its data, and its SHA-256 is what a checkpoint is compared by: the file
tells what has changed as long as it is the very one. When a run goes on with other data it keeps the earlier file as
data-DIGEST.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from simpletune import files
from simpletune.config.document import display
from simpletune.config.settings import ImageSet
from simpletune.data.geometry import Placement
from simpletune.data.plan import schedule_of
from simpletune.data.preflight_lines import count
from simpletune.data.scan import Sample
from simpletune.errors import ConfigError
from simpletune.results.run_folder import DATA_FILE, STATE_FILE, holds_only_adapter, list_checkpoints
from simpletune.trainer.asked import Asked
from simpletune.trainer.refusals import Way, hint

Row = Mapping[str, Any]
"""A picture's line in data.json."""
Name = tuple[str, str]
_NAMED = 3
_LOOKS = ("size", "bucket", "crops")
_CONTENT = ("latents", "masks")
_ALL_LATENTS = "every picture has another latent: the model's VAE is another one, or this version prepares otherwise"
_WORDS = {
    "added": "new",
    "removed": "gone",
    "captions": "captioned otherwise",
    "looks": "cropped or sized otherwise",
    "content": "of other content",
    "held_out": "held out now, trained on before",
    "trained": "trained on now, held out before",
}


@dataclass(frozen=True)
class DataChange:
    """Pictures by what is other with them, "data set/name" each; `roles` has a line for each other value of a data set.

    trained, held_out: pictures that are so now and were not. everything: of all pictures the latents are others.
    """

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    captions: Sequence[str] = ()
    looks: Sequence[str] = ()
    content: Sequence[str] = ()
    trained: Sequence[str] = ()
    held_out: Sequence[str] = ()
    roles: Sequence[str] = ()
    everything: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether it is a change already before anything is encoded: what is new might not be readable, and its
        being there have decided what is held out."""
        return bool(self.removed or self.captions or self.looks or self.roles)

    def lines(self) -> list[str]:
        """What has changed, a line each kind with the number and the first names."""
        kinds = ((words, getattr(self, name)) for name, words in _WORDS.items())
        lines = [_line(words, names) for words, names in kinds if names] + [f"data set {role}" for role in self.roles]
        return [*lines, _ALL_LATENTS] if self.everything else lines


@dataclass(frozen=True)
class Data:
    """data.json, or what it would be. rows: by data set and name; trained: the names of those that aren't held out."""

    roles: Mapping[str, Mapping[str, Any]]
    rows: Mapping[Name, Row]
    trained: frozenset[Name] = field(default_factory=frozenset)


def described(sample: Sample) -> dict[str, Any]:
    """A picture's line, without what is known only once it is encoded."""
    return {
        "data_set": sample.set_id,
        "name": sample.name,
        "captions": list(sample.captions),
        "size": [sample.width, sample.height],
        "bucket": list(sample.bucket),
        "crops": [_crop(placement) for placement in sample.placements],
    }


def role(image_set: ImageSet) -> dict[str, Any]:
    """What a data set is there for, how much its pictures count and when they come."""
    if image_set.dataset_type == "eval":
        return {"role": "evaluation", "mask_source": image_set.mask_source}
    return {
        "role": "regularisation" if image_set.is_regularisation_data else "training",
        "loss_weight": loss_weight(image_set),
        "mask_source": image_set.mask_source,
        **asdict(schedule_of(image_set)),
    }


def loss_weight(image_set: ImageSet) -> float:
    """What the loss of a data set's pictures is multiplied by."""
    return image_set.regularisation_weight if image_set.is_regularisation_data else 1.0


def data_of(image_sets: Iterable[ImageSet], trained: Iterable[Row], held_out: Iterable[Row]) -> Data:
    shown = {_name(row): row for row in trained}
    rows = {**shown, **{_name(row): row for row in held_out}}
    return Data({entry.id: role(entry) for entry in image_sets}, rows, frozenset(shown))


def earlier_data(folder: Path, digest: str) -> Data | None:
    """The data of that digest that a run's folder has the manifest of; None when it has not."""
    for path in (folder / DATA_FILE, folder / earlier_name(digest)):
        try:
            if files.sha256(path) == digest:
                return _parsed(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def is_of(folder: Path, now: Data) -> bool:
    """Whether the run in a folder could go on with this data: its newest checkpoint was trained on no other, as far as
    `now` says."""
    whole = [path for _, path in list_checkpoints(folder) if not holds_only_adapter(path)]
    try:
        digest = json.loads((whole[-1] / STATE_FILE).read_text(encoding="utf-8"))["run"]["data"]
    except (IndexError, OSError, ValueError, KeyError, TypeError):
        return False
    before = earlier_data(folder, digest)
    return before is not None and not compare(before, now).lines()


def earlier_name(digest: str) -> str:
    return f"data-{digest[:12]}.json"


def keep_earlier(folder: Path, digest: str) -> None:
    """Keep the manifest of what was trained on so far beside the one that is about to take its place."""
    path = folder / DATA_FILE
    if path.is_file() and files.sha256(path) == digest:
        files.write_bytes(folder / earlier_name(digest), path.read_bytes())


def compare(before: Data, now: Data) -> DataChange:
    """What is other in `now`; of content only where both say what it is."""
    both = [name for name in now.rows if name in before.rows]
    other_content = [name for name in both if _other_content(before.rows[name], now.rows[name])]
    everything = len(both) > 1 and len(other_content) == len(both)
    return DataChange(
        added=_listed(name for name in now.rows if name not in before.rows),
        removed=_listed(name for name in before.rows if name not in now.rows),
        captions=_listed(name for name in both if _differ(before.rows[name], now.rows[name], ("captions",))),
        looks=_listed(name for name in both if _differ(before.rows[name], now.rows[name], _LOOKS)),
        content=() if everything else _listed(other_content),
        trained=_listed(name for name in both if name in now.trained and name not in before.trained),
        held_out=_listed(name for name in both if name in before.trained and name not in now.trained),
        roles=_other_roles(before.roles, now.roles),
        everything=everything,
    )


def refused(checkpoint: Path, change: DataChange | None, asked: Asked, anew: Sequence[Way]) -> ConfigError:
    """The error of a start with other data that wasn't said to be meant."""
    message = f"the data set has changed since {display(checkpoint)} was saved"
    go_on = ("to train the rest of that run on the data as it is now", asked.command("--accept-data-change"))
    return ConfigError("\n".join([message, *(f"  {line}" for line in said(change))]), hint([go_on, *anew]))


def said(change: DataChange | None) -> list[str]:
    """None: nothing tells what it was."""
    lines = change.lines() if change is not None else []
    return lines or [f"what it was can't be told: {DATA_FILE} is another one than the run had then"]


def _line(words: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{count(len(names), 'picture')} {verb} {words}: {', '.join(names[:_NAMED])}{more}"


def _parsed(data: Mapping[str, Any]) -> Data:
    shown = {_name(row): row for row in data["trained"]}
    rows = {**shown, **{_name(row): row for row in data["held_out"]}}
    return Data(data["data_sets"], rows, frozenset(shown))


def _name(row: Row) -> Name:
    return row["data_set"], row["name"]


def _listed(names: Iterable[Name]) -> list[str]:
    return sorted("/".join(name) for name in names)


def _differ(before: Row, now: Row, keys: Sequence[str]) -> bool:
    return any(before.get(key) != now.get(key) for key in keys)


def _other_content(before: Row, now: Row) -> bool:
    return _CONTENT[0] in now and not _differ(before, now, _LOOKS) and _differ(before, now, _CONTENT)


def _other_roles(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f'"{name}" is gone' for name in before if name not in now]
    for name, values in now.items():
        if name not in before:
            lines.append(f'"{name}" is new')
            continue
        old = before[name]
        keys = dict.fromkeys([*old, *values])
        lines += [
            f'"{name}": {key}: {json.dumps(old.get(key))} -> {json.dumps(values.get(key))}'
            for key in keys
            if old.get(key) != values.get(key)
        ]
    return lines


def _crop(placement: Placement) -> dict[str, Any]:
    """What the model saw of a picture: resized to `resized` (width, height), `crop` (left, top, right, bottom) of it,
    all in pixels, mirrored or not."""
    crop = {"resized": list(placement.resized), "crop": list(placement.crop)}
    return {**crop, "mirrored": True} if placement.mirrored else crop
