"""Taking pictures: what each shot is, what its file says of itself, and sampling those that aren't there yet.

The trainer's validation and `simpletune generate` both work here, so that the same prompt, seed and weights are the
same picture in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from simpletune import __version__
from simpletune.config.families import FAMILIES
from simpletune.errors import UsageError
from simpletune.machine.execution import Known, Way
from simpletune.machine.sampling import passes, sampling_way
from simpletune.machine.toolchain import gap
from simpletune.models.family import Family, LatentCoder, ModelFiles, Sampler, SamplingRequest, TextEncoding
from simpletune.models.memory import ran_out, release
from simpletune.models.pace import Pace
from simpletune.models.parts import open_part
from simpletune.results.pictures import read_description, save_picture

if TYPE_CHECKING:
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
"""The PNG entry of a picture that was decoded in tiles. Nobody plans that."""

_NOTED = frozenset({DECODED, "software", "model_commit", "text_encoders"})
"""PNG entries that have no say in whether a picture is done: nobody plans them, or others say the same exactly."""


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
        return found is not None and _deciding(found) == _deciding(self.about)


def _deciding(about: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in about.items() if name not in _NOTED}


TOGETHER = {"cuda": 4}
"""Pictures that are sampled together, by device; elsewhere one by one. Four take less memory than decoding one does."""

DEVELOPED = 20.0
"""Seconds of sampling after which pictures are decoded, where CUDA graphs have to make room for that."""


@dataclass
class _Learned:
    """What one call of `take` leaves to the next. tile: as `LatentCoder.tile`; together: pictures there is room for."""

    tile: int | None = None
    together: int | None = None


@dataclass(frozen=True)
class Studio:
    """What decides pictures, apart from prompt, seed, size and weights. Nothing is loaded to have one.

    Pictures of one size are sampled together, each as if it were alone, up to rounding; fewer where memory runs out.
    Where it runs out while a picture is decoded, it and all later ones are decoded in tiles, which can be seen in them
    a little. What was sampled is kept.
    """

    settings: Settings  # the validation_* keys say how it samples
    family: Family
    files: ModelFiles
    device: torch.device
    _learned: _Learned = field(default_factory=_Learned, init=False, repr=False, compare=False)

    def plan(self, folder: Path, shots: Sequence[Shot], about: Mapping[str, str]) -> list[Planned]:
        """Every shot with its place in `folder`; `about` says which adapter it is taken with."""
        return [Planned(shot, folder / shot.file_name, {**self._description(shot), **about}) for shot in shots]

    def _request(self, shots: Sequence[Shot], encodings: Mapping[str, TextEncoding]) -> SamplingRequest:
        """Of shots that are of one size."""
        settings, texts = self.settings, [self._here(encodings[shot.prompt]) for shot in shots]
        return SamplingRequest(
            encoding=TextEncoding(
                torch.cat([text.prompt_embeds for text in texts]),
                torch.cat([text.pooled_prompt_embeds for text in texts]),
            ),
            negative=self._here(encodings[settings.validation_negative_prompt]),
            width=shots[0].width,
            height=shots[0].height,
            seeds=tuple(shot.seed for shot in shots),
            steps=settings.validation_num_inference_steps,
            guidance=settings.validation_guidance,
            skip_layers=settings.validation_guidance_skip_layers,
            skip_layers_start=settings.validation_guidance_skip_layers_start,
            skip_layers_stop=settings.validation_guidance_skip_layers_stop,
            skip_layers_scale=settings.validation_guidance_skip_scale,
        )

    def take(
        self,
        todo: Sequence[Planned],
        transformer: nn.Module,
        encodings: Mapping[str, TextEncoding],
        phase: Phase,
        tell: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
        expected: int = 0,
        vae: LatentCoder | None = None,
    ) -> None:
        """Sample and save them size by size, each file whole or not at all. `check` is called before each denoising
        step and each decoding, and what it raises ends the work.

        encodings: by prompt, B = 1, on any device; the negative prompt's is among them. `tell` takes a line for people
        when something goes another way than it was meant to. expected: pictures in all, with those of other calls, if
        they are more than these; with enough of them compiling pays off. vae: where it is loaded already.
        """
        vae = vae or self.family.load_vae(self.files, self.settings, self.device)
        vae.tile = self._learned.tile
        way = way_of(self.settings, self.device, transformer, max(expected, len(todo)))
        with sampling(transformer):
            sampler = self.family.sampler(self.files, transformer, self.device, way, tell)
            try:
                for sampled in self._sampled(todo, sampler, encodings, check, DEVELOPED if way.captured else 0.0):
                    for planned, latents in sampled:
                        check()
                        self._develop(planned, latents, vae, tell)
                        phase.advance()
            finally:
                sampler.release()

    def _sampled(
        self,
        todo: Sequence[Planned],
        sampler: Sampler,
        encodings: Mapping[str, TextEncoding],
        check: Callable[[], None],
        seconds: float,
    ) -> Iterator[list[tuple[Planned, Tensor]]]:
        """Pictures and their latents (1, C, H, W), as many at once as are sampled in so many `seconds`.

        Graphs make room before they are handed out: decoding takes more memory than sampling, and beside it the two
        would take more than the estimate says.
        """
        done: list[tuple[Planned, Tensor]] = []
        began = monotonic()
        for of_one_size in _by_size(todo):
            while of_one_size:
                latents = self._latents([planned.shot for planned in of_one_size], sampler, encodings, check)
                done += zip(of_one_size, latents.split(1), strict=False)
                of_one_size = of_one_size[len(latents) :]
                if monotonic() - began >= seconds:
                    sampler.release()
                    yield done
                    done, began = [], monotonic()
        if done:
            sampler.release()
            yield done

    def _latents(
        self,
        shots: Sequence[Shot],
        sampler: Sampler,
        encodings: Mapping[str, TextEncoding],
        check: Callable[[], None],
    ) -> Tensor:
        """Of as many of these as go together."""
        pace = Pace(self.device)

        def between() -> None:
            pace.keep()
            check()

        together = min(len(shots), self._learned.together or TOGETHER.get(self.device.type, 1))
        while True:
            try:
                return sampler.latents(self._request(shots[:together], encodings), between)
            except RuntimeError as error:
                if together == 1 or not ran_out(error):
                    raise
            sampler.release()
            release(self.device)
            together = self._learned.together = together // 2

    def _develop(self, planned: Planned, latents: Tensor, vae: LatentCoder, tell: Callable[[str], None]) -> None:
        planned.path.parent.mkdir(parents=True, exist_ok=True)
        pixels = vae.decode(latents)[0]
        save_picture(planned.path, pixels, {**planned.about, **self._notes, **self._decoding(vae, planned.shot, tell)})

    def _decoding(self, vae: LatentCoder, shot: Shot, tell: Callable[[str], None]) -> dict[str, str]:
        """What the PNG says of how the picture was decoded; people are told when that has changed."""
        if vae.tile is None:
            return {}
        side = vae.tile * self.family.vae_scale_factor
        if vae.tile != self._learned.tile:
            tell(
                f"out of memory while decoding a picture: from now on in tiles of {side} pixels, which can differ a "
                "little in tone and show their seams; smaller pictures avoid it"
            )
            self._learned.tile = vae.tile
        return {DECODED: f"in tiles of {side} pixels"} if max(shot.width, shot.height) > side else {}

    def _here(self, encoding: TextEncoding) -> TextEncoding:
        return TextEncoding(encoding.prompt_embeds.to(self.device), encoding.pooled_prompt_embeds.to(self.device))

    @cached_property
    def _notes(self) -> dict[str, str]:
        """What people will want to know of a picture beside what decides it."""
        settings, commit = self.settings, self.files.commit
        precisions = (
            settings.text_encoder_1_precision,
            settings.text_encoder_2_precision,
            settings.text_encoder_3_precision,
        )
        torch_and_diffusers = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "diffusers"))
        return {
            "software": f"simpletune {__version__}, {torch_and_diffusers}, on {self.device.type}",
            "text_encoders": f"{', '.join(precisions)}; {settings.tokenizer_max_length} tokens",
            **({"model_commit": commit} if commit else {}),
        }

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


def _by_size(todo: Sequence[Planned]) -> list[list[Planned]]:
    groups: dict[tuple[int, int], list[Planned]] = {}
    for planned in todo:
        groups.setdefault((planned.shot.width, planned.shot.height), []).append(planned)
    return list(groups.values())


def way_of(settings: Settings, device: torch.device, transformer: nn.Module, pictures: int) -> Way:
    """How so many pictures are sampled on this machine."""
    known = Known(
        device.type,
        torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        gap(device.type) is None,
        settings.mixed_precision,
        settings.base_model_precision,
        as_modules=False,
        blocks=len(getattr(transformer, "transformer_blocks", ())),
        passes=passes(pictures, settings.validation_num_inference_steps, settings.validation_guidance),
    )
    return sampling_way(settings.execution, known)


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
