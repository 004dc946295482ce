"""The feature models of an evaluation: found before any picture is made, and what each of them sees afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simpletune.errors import ModelUnavailable
from simpletune.evaluate.features import Describer, Picture
from simpletune.evaluate.features.describe import Described
from simpletune.evaluate.features.locate import find
from simpletune.evaluate.features.networks import Clip, Dino
from simpletune.evaluate.features.statistics import Statistics
from simpletune.evaluate.features.style import Csd
from simpletune.evaluate.measure import View
from simpletune.evaluate.metrics import Array
from simpletune.evaluate.request import CLIP, DINO, Models
from simpletune.evaluate.results import FeatureUse, LeftOut

if TYPE_CHECKING:
    import torch

    from simpletune.progress import Reporter

NONE = "none"
OF_CLIP, OF_DINO, OF_CSD = "CLIP-T and CMMD", "all that DINO judges", "style"


@dataclass(frozen=True)
class Describers:
    """What there is to describe pictures with, by name, and the metrics that are left out for want of a model."""

    found: Mapping[str, Describer]
    left_out: tuple[LeftOut, ...]


def find_describers(models: Models, endpoint: str | None, device: torch.device, reporter: Reporter) -> Describers:
    """Find every feature model, without loading one.

    A default model that is out of reach is left out, and that is said. Raises ModelUnavailable for one that was asked
    for by name.
    """
    found: dict[str, Describer] = {}
    left_out: list[LeftOut] = []

    def attempt(name: str, option: str, wish: str | None, default: str, metric: str, kind: type[Clip | Dino]) -> None:
        if wish == NONE:
            left_out.append(LeftOut(metric, f"{option} none", f"leave {option} none away"))
            return
        model = wish or default
        try:
            folder = find(option, model, endpoint, reporter)
            found[name] = kind(folder, folder.name if Path(model).expanduser().is_dir() else model, device)
        except ModelUnavailable as error:
            if wish is not None:
                raise
            left_out.append(LeftOut(metric, error.message, error.hint or f"{option} FOLDER"))

    attempt("clip", "--clip", models.clip, CLIP, OF_CLIP, Clip)
    attempt("dino", "--dino", models.dino, DINO, OF_DINO, Dino)
    if models.csd in (None, NONE):
        left_out.append(LeftOut(OF_CSD, "no weights of CSD were given", "--csd FILE.safetensors"))
    else:
        found["csd"] = Csd(Path(str(models.csd)), device)
    if models.statistics or "dino" not in found:
        found["statistics"] = Statistics()
    return Describers(found, tuple(left_out))


@dataclass(frozen=True)
class Seen:
    """A view, and the features of texts where its model describes texts (CLIP): the prompt of each picture, and the
    caption of each restored one."""

    view: View
    prompts: Array | None
    captions: Array | None


def look(
    describers: Describers,
    folder: Path,
    device: torch.device,
    variants: Mapping[str, Sequence[Picture]],
    prompts: Sequence[str],
    training: Sequence[Picture],
    restored: Sequence[Picture],
    captions: Sequence[str],
    unseen: bool,
    reporter: Reporter,
) -> tuple[list[Seen], tuple[FeatureUse, ...]]:
    """Describe all pictures by all models, one model after the other, each loaded only if it has something to do.

    variants: pictures by the variants' names, in the order of `prompts`, those of each picture.
    """
    seen, uses = [], []
    for describer in describers.found.values():
        described = Described(describer, folder, device, reporter)
        seen.append(_seen(described, variants, prompts, training, restored, captions, unseen))
        uses.append(described.use)
        describer.release()  # before the next one's weights come
    return seen, tuple(uses)


def _seen(
    described: Described,
    variants: Mapping[str, Sequence[Picture]],
    prompts: Sequence[str],
    training: Sequence[Picture],
    restored: Sequence[Picture],
    captions: Sequence[str],
    unseen: bool,
) -> Seen:
    describer = described.describer
    sets = [*variants.values(), training, restored]
    every = described.pictures([picture for pictures in sets for picture in pictures])
    ends = np.cumsum([len(pictures) for pictures in sets])
    *by_variant, trained, after_vae = np.split(every, ends[:-1])
    view = View(
        describer.name,
        describer.model,
        dict(zip(variants, by_variant, strict=True)),
        trained if len(trained) else None,
        after_vae if len(after_vae) else None,
        unseen,
    )
    texts: Callable[[Sequence[str]], Array] | None = None
    if isinstance(describer, Clip):
        clip = describer
        texts = lambda wanted: described.texts(clip, wanted)  # noqa: E731
    return Seen(
        view,
        texts(prompts) if texts is not None else None,
        texts(captions) if texts is not None and captions else None,
    )
