"""Taking pictures: what each shot is, what its file says of itself, and sampling those that aren't there yet.

The trainer's validation and `simpletune generate` both work here, so that the same prompt, seed and weights are the
same picture in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from simpletune.config.families import FAMILIES
from simpletune.errors import UsageError
from simpletune.models.family import Family, LatentCoder, ModelFiles, SamplingRequest, TextEncoding
from simpletune.models.parts import open_part
from simpletune.results.pictures import read_description, save_picture

if TYPE_CHECKING:
    import numpy as np
    import torch

    from simpletune.config.settings import Settings
    from simpletune.progress import Phase


@dataclass(frozen=True)
class Shot:
    """One picture to take: the same prompt, seed and size (in pixels) every time. `name` is the prompt's, for files."""

    name: str
    prompt: str
    width: int
    height: int
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.width}x{self.height}-{self.seed}.png"


DECODED = "decoded"
"""The PNG entry of a picture that was decoded in tiles. Nobody plans that, so it has no say in whether it is done."""


@dataclass(frozen=True)
class Planned:
    """A shot, where its picture goes, and all that the picture's PNG entries will say."""

    shot: Shot
    path: Path
    about: Mapping[str, str]

    @property
    def done(self) -> bool:
        """Whether the picture is there, whole, and made as it would be made now."""
        found = read_description(self.path)
        return found is not None and {name: found[name] for name in found if name != DECODED} == self.about


@dataclass
class _Tiling:
    """What one call of `take` leaves to the next: as `LatentCoder.tile`."""

    tile: int | None = None


@dataclass(frozen=True)
class Studio:
    """What decides pictures, apart from prompt, seed, size and weights. Nothing is loaded to have one.

    Where memory runs out while a picture is decoded, it and all later ones are decoded in tiles, which can be seen in
    them a little. What was sampled is kept.
    """

    settings: Settings  # the validation_* keys say how it samples
    family: Family
    files: ModelFiles
    device: torch.device
    _tiling: _Tiling = field(default_factory=_Tiling, init=False, repr=False, compare=False)

    def plan(self, folder: Path, shots: Sequence[Shot], about: Mapping[str, str]) -> list[Planned]:
        """Every shot with its place in `folder`; `about` says which adapter it is taken with."""
        return [Planned(shot, folder / shot.file_name, {**self._description(shot), **about}) for shot in shots]

    def _sample(
        self, transformer: nn.Module, vae: LatentCoder, encodings: Mapping[str, TextEncoding], shot: Shot
    ) -> np.ndarray[Any, Any]:
        """uint8 (height, width, 3), with the weights in force. One at a time: batches change a picture's last bits."""
        settings = self.settings
        request = SamplingRequest(
            encoding=self._here(encodings[shot.prompt]),
            negative=self._here(encodings[settings.validation_negative_prompt]),
            width=shot.width,
            height=shot.height,
            seed=shot.seed,
            steps=settings.validation_num_inference_steps,
            guidance=settings.validation_guidance,
            skip_layers=settings.validation_guidance_skip_layers,
            skip_layers_start=settings.validation_guidance_skip_layers_start,
            skip_layers_stop=settings.validation_guidance_skip_layers_stop,
            skip_layers_scale=settings.validation_guidance_skip_scale,
        )
        return self.family.sample(self.files, settings, transformer, vae, request)

    def take(
        self,
        todo: Sequence[Planned],
        transformer: nn.Module,
        encodings: Mapping[str, TextEncoding],
        phase: Phase,
        tell: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Sample and save them in order, each file whole or not at all; `stopped` is asked before each.

        encodings: by prompt, B = 1, on any device; the negative prompt's is among them. `tell` takes a line for people
        when pictures begin to be decoded in tiles.
        """
        vae = self.family.load_vae(self.files, self.settings, self.device)
        vae.tile = self._tiling.tile
        with sampling(transformer):
            for planned in todo:
                if stopped():
                    break
                planned.path.parent.mkdir(parents=True, exist_ok=True)
                pixels = self._sample(transformer, vae, encodings, planned.shot)
                save_picture(planned.path, pixels, {**planned.about, **self._decoding(vae, planned.shot, tell)})
                phase.advance()

    def _decoding(self, vae: LatentCoder, shot: Shot, tell: Callable[[str], None]) -> dict[str, str]:
        """What the PNG says of how the picture was decoded; people are told when that has changed."""
        if vae.tile is None:
            return {}
        side = vae.tile * self.family.vae_scale_factor
        if vae.tile != self._tiling.tile:
            tell(
                f"out of memory while decoding a picture: from now on in tiles of {side} pixels, which can differ a "
                "little in tone and show their seams; smaller pictures avoid it"
            )
            self._tiling.tile = vae.tile
        return {DECODED: f"in tiles of {side} pixels"} if max(shot.width, shot.height) > side else {}

    def _here(self, encoding: TextEncoding) -> TextEncoding:
        return TextEncoding(encoding.prompt_embeds.to(self.device), encoding.pooled_prompt_embeds.to(self.device))

    @cached_property
    def _text_identity(self) -> str:
        return self.family.text_identity(self.files, self.settings)

    def _description(self, shot: Shot) -> dict[str, str]:
        """Everything that decides the picture, beside the adapter: what the PNG says of itself."""
        settings = self.settings
        skipped = (
            settings.validation_guidance_skip_layers,
            settings.validation_guidance_skip_layers_start,
            settings.validation_guidance_skip_layers_stop,
            settings.validation_guidance_skip_scale,
        )
        return {
            "prompt": shot.prompt,
            "negative_prompt": settings.validation_negative_prompt,
            "seed": str(shot.seed),
            "size": f"{shot.width}x{shot.height}",
            "guidance": str(settings.validation_guidance),
            "steps": str(settings.validation_num_inference_steps),
            "skip_layers": str(skipped),
            "model": self.files.source,
            "precision": f"{settings.base_model_precision}, {settings.mixed_precision}",
            "text": self._text_identity,
        }


class sampling:  # noqa: N801 - a context manager, named like one
    """Put a module in eval mode inside the block, and back as it was after it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._was_training = self._module.training
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._was_training)


def check_sizes(settings: Settings, files: ModelFiles, sizes: Iterable[tuple[int, int]], key: str) -> None:
    """Raise UsageError, beginning with `key`, for a (width, height) in pixels that the model can't draw.

    Sides are multiples of the family's step, and no longer than the transformer's table of positions.
    """
    step = FAMILIES[settings.model_family].size_multiple
    positions = open_part(files, "transformer").config.get("pos_embed_max_size")
    longest = positions * step if positions else math.inf
    for width, height in sizes:
        if width % step or height % step or min(width, height) < step:
            near = (int(min(max(step, round(side / step) * step), longest)) for side in (width, height))
            message = f"{key}: {width}x{height}: sides must be multiples of {step} pixels"
            raise UsageError(message, f"write {'x'.join(map(str, near))}")
        if max(width, height) > longest:
            message = f"{key}: {width}x{height} is beyond what {files.source} knows positions for"
            raise UsageError(message, f"it draws up to {longest} pixels a side")
