"""Both files together, as rules and `load` read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simpletune.config.check import entry_kind
from simpletune.config.document import Document, Keys
from simpletune.config.families import FAMILIES, FamilyFacts, Flavour
from simpletune.config.schema import config_keys, entry_keys

DEFAULT_STEPS = 1000
"""How long a run is that says neither steps nor epochs."""


@dataclass(frozen=True)
class View:
    """config.json and, when it could be read, the entries of the data file that are not disabled."""

    config: Keys
    data: Document | None
    images: tuple[Keys, ...]
    texts: tuple[Keys, ...]

    @property
    def family(self) -> FamilyFacts:
        return FAMILIES[self.config["model_family"]]

    @property
    def flavour(self) -> Flavour:
        return self.family.flavours[self.config["model_flavour"]]

    @property
    def resolution(self) -> int:
        value: int = self.config["resolution"] or self.flavour.resolution
        return value

    @property
    def alignment(self) -> int:
        value: int = self.config["aspect_bucket_alignment"] or self.flavour.bucket_alignment
        return value

    @property
    def t5_tokens(self) -> int:
        value: int = self.config["tokenizer_max_length"] or self.flavour.t5_tokens
        return value

    @property
    def trained(self) -> tuple[Keys, ...]:
        """The data sets that are trained on; the others of `images` only measure the validation loss."""
        return tuple(entry for entry in self.images if entry["dataset_type"] == "image")

    @property
    def run_steps(self) -> int | None:
        """The run's steps as far as the files say: None when epochs are counted."""
        steps: int | None = self.config["max_train_steps"]
        return steps or (DEFAULT_STEPS if self.config["num_train_epochs"] is None else None)

    @property
    def default_text_embeds(self) -> Keys | None:
        """The text cache of data sets that name none: the one marked default, or the only one."""
        marked = [entry for entry in self.texts if entry["default"]]
        if marked:
            return marked[0]
        return self.texts[0] if len(self.texts) == 1 else None


def view(config: Document, data: Document | None) -> View:
    values = config.value if isinstance(config.value, dict) else {}
    keys = Keys(config, (), config_keys(), values)
    keys.placeholders["model_family"] = keys["model_family"]
    keys.placeholders["output_dir"] = str(keys.path("output_dir"))
    entries = data.value if data is not None and isinstance(data.value, list) else []
    found: dict[str, list[Keys]] = {"image": [], "text_embeds": []}
    for index, entry in enumerate(entries):
        if data is not None and isinstance(entry, dict) and not (data.is_bad((index,)) and _unusable(data, index)):
            kind = entry_kind(entry)
            one = Keys(data, (index,), entry_keys(kind), entry)
            if not one["disabled"]:
                one.placeholders.update(keys.placeholders, id=str(one["id"]))
                found[kind].append(one)
    return View(keys, data, tuple(found["image"]), tuple(found["text_embeds"]))


def _unusable(data: Document, index: int) -> bool:
    """Whether an entry as a whole is wrong, or its kind is, rather than something in it."""
    return any(bad in data.bad for bad in ((), (index,), (index, "dataset_type")))


def resolution_of(entry: Keys, whole: View) -> tuple[int, str]:
    """A data set's resolution in pixels and its type; `area` in megapixels becomes `pixel_area`, on the size step."""
    value: Any = entry["resolution"]
    kind: str = entry["resolution_type"]
    if kind != "area":
        return int(value or whole.resolution), kind
    if value is None:
        return whole.resolution, "pixel_area"
    step = whole.alignment
    return step * max(1, round((value * 1_000_000) ** 0.5 / step)), "pixel_area"
