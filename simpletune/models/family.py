"""What a model family provides. SD3 (`models/sd3.py`) is the first; another family is one more module like it.

The phases of a run ask for one part each and drop it before the next: text encoders, then the VAE, then the
transformer. Shapes: B batch, C latent channels, H and W latent height and width, P pixels' sides, L text tokens,
D text features, E pooled features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from simpletune.config.settings import Settings
    from simpletune.machine.execution import Way
    from simpletune.progress import Reporter


class UnsupportedModel(Exception):
    """Why a model can't be computed in a faster way than through its own modules, as a clause for people."""


Progress = Callable[[int, int], None]
"""Called with (done, total) while something loads; units are the caller's (bytes, layers)."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's parts are on this machine, resolved (downloaded if need be) before anything loads.

    `source` is what the person named, `commit` the hub's commit or None. `layout` is "folder" (diffusers) or
    "single" (one .safetensors in the original layout, `root` is that file).
    """

    source: str
    root: Path
    layout: str
    commit: str | None
    text_encoders_root: Path | None


@dataclass(frozen=True)
class TextEncoding:
    """What the transformer is told about B captions.

    prompt_embeds: (B, L, D); pooled_prompt_embeds: (B, E). Both on the encoders' device, in the compute dtype.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


class TextEncoders(Protocol):
    """All of a family's text encoders, quantized as configured: loaded, or loading themselves in turn."""

    def encode(self, captions: Sequence[str]) -> TextEncoding: ...

    def encode_batches(self, batches: Sequence[Sequence[str]]) -> Iterator[TextEncoding]:
        """What `encode` gives of each batch, in order, to the same bits, computed as it is asked for or before.

        Encoders that don't fit the device together load once for many batches here, and once for each in `encode`.
        """
        ...


class LatentCoder(Protocol):
    """A VAE, loaded.

    `tile`: the side, in latents, of the tiles that pictures are decoded in because memory ran out; None: in one piece.
    """

    tile: int | None

    def encode(self, pixels: np.ndarray[Any, Any], keys: Sequence[str]) -> Tensor:
        """uint8 (B, P, P', 3) RGB -> latents (B, C, H, W), shifted and scaled as the transformer expects them.

        The latent is sampled from the VAE's posterior with noise derived from each picture's cache key, so that
        encoding again gives the same latent.
        """
        ...

    def decode(self, latents: Tensor) -> np.ndarray[Any, Any]:
        """Latents (B, C, H, W) -> uint8 (B, P, P', 3)."""
        ...


@dataclass(frozen=True)
class SamplingRequest:
    """B pictures of one size, in pixels, that are sampled together: each as if it were alone, up to rounding."""

    encoding: TextEncoding  # of B prompts
    negative: TextEncoding  # B = 1
    width: int
    height: int
    seeds: tuple[int, ...]  # B
    steps: int
    guidance: float
    skip_layers: tuple[int, ...] | None
    skip_layers_start: float
    skip_layers_stop: float
    skip_layers_scale: float


class Sampler(Protocol):
    """Makes pictures of a transformer as it was when the sampler was made: with its adapter on, or off.

    Weights that are changed in place since are seen.
    """

    def latents(self, request: SamplingRequest, between: Callable[[], None] = ...) -> Tensor:
        """(B, C, H, W), what `LatentCoder.decode` takes. Raises what the device says where memory runs out.

        between: called before each step; what it raises ends the sampling.
        """
        ...

    def release(self) -> None:
        """Give back the memory that is held only to be faster with the next pictures."""
        ...


class Family(Protocol):
    """The operations a trainer needs from a model family; all tensors stay on `device`."""

    name: str
    latent_channels: int
    vae_scale_factor: int  # pixels per latent element

    def locate(self, settings: Settings, reporter: Reporter | None = None) -> ModelFiles:
        """Find or download every file the run needs. Raises ModelUnavailable (exit 3) with what to do.

        A download shows its size and rate through `reporter`, and goes on where an interrupted one stopped.
        """
        ...

    def text_identity(self, files: ModelFiles, settings: Settings) -> str:
        """Hex digest of everything but the caption that determines a text encoding, read without loading a model."""
        ...

    def vae_identity(self, files: ModelFiles, settings: Settings) -> str:
        """Hex digest of everything but the pixels that determines a latent, dtype included."""
        ...

    def load_text_encoders(
        self, files: ModelFiles, settings: Settings, device: torch.device, reporter: Reporter | None = None
    ) -> TextEncoders:
        """The encoders, as many at once as the device has memory for now; `reporter` is told when it isn't all."""
        ...

    def pack_text(self, encoding: TextEncoding) -> dict[str, Tensor]:
        """One caption's encoding (B = 1, on the CPU) as the tensors to keep in a cache, without what can be recomputed.

        `text_identity` changes when these do.
        """
        ...

    def unpack_text(self, packed: Mapping[str, Tensor]) -> TextEncoding:
        """What `pack_text` was given, bit for bit; on the CPU. Raises KeyError when these aren't its tensors."""
        ...

    def load_vae(self, files: ModelFiles, settings: Settings, device: torch.device) -> LatentCoder: ...

    def load_transformer(
        self, files: ModelFiles, settings: Settings, device: torch.device, reporter: Reporter | None = None
    ) -> nn.Module:
        """The frozen transformer, streamed from disk layer by layer and quantized as configured; eval mode, no LoRA."""
        ...

    def image_tokens(self, width: int, height: int) -> int:
        """Transformer tokens of a picture of that many pixels."""
        ...

    def predict(self, transformer: nn.Module, noisy_latents: Tensor, sigma: Tensor, text: TextEncoding) -> Tensor:
        """The velocity (B, C, H, W) at `sigma` (B,), in the transformer's compute dtype."""
        ...

    def check_compiled(self, targets: Sequence[str], settings: Settings) -> None:
        """Raise UnsupportedModel, before anything is loaded, where `compiled_predict` will for LoRAs on `targets`."""
        ...

    def compiled_predict(
        self, transformer: nn.Module, settings: Settings, *, compiled: bool = True
    ) -> Callable[[Tensor, Tensor, TextEncoding], Tensor]:
        """`predict` of this transformer with its LoRA, in compiled code; it compiles at the first call for a shape.

        With `compiled` off the same by ordinary calls. Where weights or activations are offloaded, only this gives
        gradients, `predict` doesn't.

        Raises UnsupportedModel for what only the modules themselves can compute.
        """
        ...

    def sampler(
        self, files: ModelFiles, transformer: nn.Module, device: torch.device, way: Way, say: Callable[[str], None]
    ) -> Sampler:
        """Where `way` can't be had for this transformer the next best is taken; `say` is told of what fails."""
        ...

    def save_lora(self, folder: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> Path:
        """Write `pytorch_lora_weights.safetensors` in the family's diffusers keys."""
        ...
