"""What an evaluation found, as values: written by `simpletune evaluate`, read by the report and the model card.

`evaluation.json` holds exactly these classes, field by field, with a number of its format. No torch here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from simpletune import files, outside
from simpletune.disk_words import in_words
from simpletune.errors import UsageError
from simpletune.redact import redact

FORMAT = 1
FILE = "evaluation.json"
_LARGEST_FILE = 512 << 20  # it names every picture
FOLDER = "evaluation"
"""Below output_dir: the pictures, features and results of a run's evaluation."""
BASE = "base"
"""The control's name among the variants."""

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Measured:
    """A metric's value for one variant, with its 95% interval, and its difference to the base with its own.

    n: how many pictures (or held-out pictures) it was measured on. The bounds are None with fewer than three
    pictures; the difference is None for the base itself and for what has no pair in the base.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference to the base leaves zero out."""
        if self.difference_low is None or self.difference_high is None:
            return False
        return self.difference_low > 0 or self.difference_high < 0


@dataclass(frozen=True)
class Metric:
    """One metric over all variants.

    name: fit for a key, "clip_t"; title: for people, "CLIP-T"; group: adherence | likeness | diversity | memorization |
    loss | ceiling; unit: "" where it has none; measured_on: the features or pictures it is of, in words; about: what
    it says, in a sentence; source: the paper; digits: decimals worth showing; values: by the variants' names; ceiling:
    of real pictures that went through the VAE and back, what no adapter gets beyond.
    """

    name: str
    title: str
    group: str
    unit: str
    better: Better
    measured_on: str
    about: str
    source: str
    digits: int
    values: Mapping[str, Measured]
    ceiling: Measured | None = None


@dataclass(frozen=True)
class Variant:
    """What was compared: the base, or the base with an adapter. `folder`: its pictures, relative to evaluation.json."""

    name: str
    title: str
    steps: int | None
    adapter: str | None
    adapter_sha256: str | None
    folder: str


@dataclass(frozen=True)
class SigmaLoss:
    """The held-out loss at one noise level, sigma from 0 (clean) to 1 (noise), by the variants' names."""

    sigma: float
    values: Mapping[str, Measured]


@dataclass(frozen=True)
class FlaggedPair:
    """A picture nearer to a training picture than the training pictures are to each other.

    picture: relative to evaluation.json; training: as the data set names it, `data_set` its id; distance and threshold:
    1 - cosine of the features named in `measured_on` of the metric "nearest_...".
    """

    variant: str
    picture: str
    data_set: str
    training: str
    distance: float
    threshold: float


@dataclass(frozen=True)
class LeftOut:
    """A metric that couldn't be measured: why, and what would give it."""

    metric: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Best:
    """The checkpoint that was chosen (None if none passes), by which rule, and what that came to."""

    variant: str | None
    rule: str
    reason: str


@dataclass(frozen=True)
class Intervals:
    """How the intervals were made: bootstrap over the pictures (prompt x size x seed), paired with the base's."""

    level: float
    method: str
    resamples: int
    seed: int


@dataclass(frozen=True)
class FeatureUse:
    """A model that pictures were described with (a hub name, or the name of its folder without the path), and how many
    descriptions were made now or were there already."""

    name: str
    model: str
    preprocessing: str
    computed: int
    from_cache: int


@dataclass(frozen=True)
class Sampling:
    """How the pictures were made; sizes are (width, height) in pixels."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    negative_prompt: str


@dataclass(frozen=True)
class Evaluation:
    """All of it. `memorization_sheet` is the contact sheet of flagged pairs, relative to evaluation.json."""

    format: int
    simpletune: str
    model: str
    sampling: Sampling
    pictures: int  # of each variant
    training_pictures: int
    held_out_pictures: int
    variants: tuple[Variant, ...]
    metrics: tuple[Metric, ...]
    loss_by_sigma: tuple[SigmaLoss, ...]
    flagged: tuple[FlaggedPair, ...]
    memorization_sheet: str | None
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    best: Best
    intervals: Intervals
    features: tuple[FeatureUse, ...]

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, None where it was left out."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def save(folder: Path, evaluation: Evaluation) -> Path:
    """Write `folder`/evaluation.json; its path."""
    path = folder / FILE
    files.write_json(path, to_json(evaluation))
    return path


def load(folder: Path) -> Evaluation | None:
    """The evaluation of a run: in `folder` itself, or in `folder`/evaluation; None where there is none.

    Raises UsageError for a file that is damaged or of another version's format.
    """
    path = next((place for place in (folder / FILE, folder / FOLDER / FILE) if place.is_file()), None)
    if path is None:
        return None
    remedy = "`simpletune evaluate` writes it anew; the pictures and features there are kept"
    try:
        found = outside.read_json(path, _LARGEST_FILE)
        if found.get("format") != FORMAT:
            raise UsageError(f"{path} is of format {found.get('format')}, this version reads {FORMAT}", remedy)
        loaded: Evaluation = from_json(Evaluation, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = in_words(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} can't be read: {said}", remedy) from error
    return loaded


def to_json(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what JSON has; texts without tokens, and without halves of characters
    (from file names that aren't UTF-8), which no file takes."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    return redact(value.encode("utf-8", "backslashreplace").decode()) if isinstance(value, str) else value


def from_json(kind: Any, value: Any) -> Any:
    """The other way round, by the types of the fields. Raises TypeError or KeyError for what doesn't fit them."""
    if is_dataclass(kind):
        hints, build = get_type_hints(kind), cast(Any, kind)
        return build(**{field.name: from_json(hints[field.name], value[field.name]) for field in fields(kind)})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(one for one in arguments if one is not type(None))
        return None if value is None else from_json(inner, value)
    if origin is Literal:
        return _expect(value, value in arguments, kind)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(from_json(one, entry) for one, entry in zip(kinds, value, strict=True))
    if origin is not None:  # Mapping[str, X]
        return {str(name): from_json(arguments[1], entry) for name, entry in value.items()}
    if kind is float:
        return float(_expect(value, isinstance(value, (int, float)) and not isinstance(value, bool), kind))
    return _expect(value, type(value) is kind, kind)


def _expect(value: Any, fits: bool, kind: Any) -> Any:
    if not fits:
        raise TypeError(f"{value!r} is no {kind}")
    return value
