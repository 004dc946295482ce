"""Stable Diffusion 3: what `models/family.py` asks of a family."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from simpletune import files as file_tools
from simpletune.config import architecture
from simpletune.config.settings import Settings
from simpletune.machine.model_folder import clip_tokens
from simpletune.models import eight_bit
from simpletune.models.family import ModelFiles, Progress, TextEncoding
from simpletune.models.latents import SD3LatentCoder, vae_dtype
from simpletune.models.load import compute_dtype, stream_into
from simpletune.models.locate import locate
from simpletune.models.parts import Part, digest, folder_identity, open_part, part_folder, read_config, weights_for
from simpletune.models.quantize import all_but
from simpletune.models.recompute import KeptInputs
from simpletune.models.runtime import free_memory
from simpletune.models.sd3_forward import SD3Forward, attention_bytes, check_loras
from simpletune.models.sd3_offload import offload_while_loading
from simpletune.models.sd3_sampling import SD3Sampler
from simpletune.models.streaming import StreamedT5
from simpletune.models.text import SD3TextEncoders, load_tokenizer, pack, unpack
from simpletune.models.text_in_turn import TextEncodersInTurn, load_encoders

if TYPE_CHECKING:
    from simpletune.machine.execution import Way
    from simpletune.models.offload import Offload
    from simpletune.progress import Reporter

LORA_FILE = "pytorch_lora_weights.safetensors"

QUANTIZED = all_but(*architecture.FULL_PRECISION)


class SD3:
    """SD3 and SD3.5, and the built-in tiny model of the same architecture."""

    name = "sd3"
    latent_channels = 16
    vae_scale_factor = 8
    _patch = 2

    def locate(self, settings: Settings, reporter: Reporter | None = None) -> ModelFiles:
        return locate(settings, reporter)

    def text_identity(self, files: ModelFiles, settings: Settings) -> str:
        precisions = _text_precisions(settings)
        encoders = {name: open_part(files, name).identity() | {"precision": precisions[name]} for name in precisions}
        tokenizers = {name: folder_identity(part_folder(files, name)) for name in _tokenizers(settings)}
        length = _clip_tokens(files)
        return digest(
            {
                "kind": "sd3 text, packed",
                "encoders": encoders,
                "tokenizers": tokenizers,
                "width": _text_width(files),
                "t5_tokens": settings.tokenizer_max_length,
                "dtype": str(compute_dtype(settings)),
                # Left out at 77, which was every model's: caches of earlier versions go on being used.
                **({} if length == 77 else {"clip_tokens": length}),
            }
        )

    def vae_identity(self, files: ModelFiles, settings: Settings) -> str:
        return digest(
            {"kind": "sd3 latent", "vae": open_part(files, "vae").identity(), "dtype": str(vae_dtype(settings))}
        )

    def load_text_encoders(
        self, files: ModelFiles, settings: Settings, device: torch.device, reporter: Reporter | None = None
    ) -> SD3TextEncoders | TextEncodersInTurn:
        precisions, dtype = _text_precisions(settings), compute_dtype(settings)
        lengths = _clip_tokens(files), settings.tokenizer_max_length
        frame = SD3TextEncoders((), None, *lengths, _text_width(files), device, dtype)

        def how(name: str) -> dict[str, Any]:
            key = f"text_encoder_{architecture.ENCODER_PARTS.index(name) + 1}_precision"
            via = settings.quantize_via
            return {"device": device, "dtype": dtype, "precision": precisions[name], "quantize_via": via, "key": key}

        def load(numbers: Sequence[int]) -> list[tuple[Any, nn.Module]]:
            names = [architecture.ENCODER_PARTS[number] for number in numbers]
            return [(_tokenizer(files, name), _load(open_part(files, name), reporter, **how(name))) for name in names]

        def stream() -> StreamedT5:
            part = open_part(files, "text_encoder_3")
            empty = part.empty_module()
            source = weights_for(part, empty)

            def fill(module: nn.Module, progress: Progress) -> None:
                stream_into(module, source, progress=progress, **how(part.name))

            return StreamedT5(_tokenizer(files, part.name), empty, fill, device, dtype)

        return load_encoders(frame, load, stream, settings, reporter)

    def pack_text(self, encoding: TextEncoding) -> dict[str, Tensor]:
        return pack(encoding)

    def unpack_text(self, packed: Mapping[str, Tensor]) -> TextEncoding:
        return unpack(packed)

    def load_vae(self, files: ModelFiles, settings: Settings, device: torch.device) -> SD3LatentCoder:
        dtype = vae_dtype(settings)
        return SD3LatentCoder(_load(open_part(files, "vae"), None, device=device, dtype=dtype), device, dtype)

    def load_transformer(
        self, files: ModelFiles, settings: Settings, device: torch.device, reporter: Reporter | None = None
    ) -> nn.Module:
        part = open_part(files, "transformer")
        offload, moves = offload_while_loading(settings.base_model_offload, int(part.config["num_layers"]), device)
        transformer: nn.Module = _load(
            part,
            reporter,
            device=device,
            dtype=compute_dtype(settings),
            precision=settings.base_model_precision,
            quantize=QUANTIZED,
            quantize_via=settings.quantize_via,
            key="base_model_precision",
            taken=moves,
        )
        if offload is not None:
            offload.attach(transformer)
            _say_offloaded(offload, reporter)
        return transformer

    def image_tokens(self, width: int, height: int) -> int:
        edge = self.vae_scale_factor * self._patch
        return (width // edge) * (height // edge)

    def predict(self, transformer: nn.Module, noisy_latents: Tensor, sigma: Tensor, text: TextEncoding) -> Tensor:
        dtype = text.prompt_embeds.dtype
        velocity_BCHW: Tensor = transformer(
            hidden_states=noisy_latents.to(dtype),
            timestep=1000 * sigma.float(),  # bfloat16 would merge half of the thousand steps
            encoder_hidden_states=text.prompt_embeds,
            pooled_projections=text.pooled_prompt_embeds,
            return_dict=False,
        )[0]
        return velocity_BCHW

    def check_compiled(self, targets: Sequence[str], settings: Settings) -> None:
        check_loras(targets, drops=settings.lora_dropout > 0)

    def compiled_predict(
        self, transformer: nn.Module, settings: Settings, *, compiled: bool = True
    ) -> Callable[[Tensor, Tensor, TextEncoding], Tensor]:
        interval = settings.gradient_checkpointing_interval if settings.gradient_checkpointing else None
        forward = SD3Forward(
            transformer,
            interval,
            compiled=compiled,
            keep_attention=_has_room_for_attention(self, transformer, settings),
            matmul=settings.base_model_matmul if compiled and settings.base_model_matmul in eight_bit.KINDS else None,
            inputs=KeptInputs(_device_of(transformer)) if settings.activation_offload else None,
        )

        def predict(noisy_latents: Tensor, sigma: Tensor, text: TextEncoding) -> Tensor:
            embeds, pooled = text.prompt_embeds, text.pooled_prompt_embeds
            return forward(noisy_latents.to(embeds.dtype), 1000 * sigma.float(), embeds, pooled)

        return predict

    def sampler(
        self, files: ModelFiles, transformer: nn.Module, device: torch.device, way: Way, say: Callable[[str], None]
    ) -> SD3Sampler:
        return SD3Sampler(transformer, _scheduler(files), device, way, say)

    def save_lora(self, folder: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> Path:
        """`state` is in diffusers keys already (`adapters.final_state`), on the CPU and contiguous."""
        path = folder / LORA_FILE
        file_tools.write_with(path, lambda temporary: save_file(state, temporary, {"format": "pt", **metadata}))
        return path


def _has_room_for_attention(family: SD3, transformer: nn.Module, settings: Settings) -> bool:
    """Whether attention's results may be kept where the rest is recomputed: it saves a tenth of the time of a step.

    Yes, while they take a quarter at most of the memory that is left beside the model. The values are the same.
    """
    device = _device_of(transformer)
    if device.type != "cuda":
        return True
    tokens = family.image_tokens(settings.resolution, settings.resolution)
    needed = attention_bytes(transformer, settings.train_batch_size, tokens)
    return needed <= free_memory(settings, device) / 4


def _device_of(transformer: nn.Module) -> torch.device:
    """Where it computes: the embedding of its input is never in host memory."""
    return next(transformer.parameters()).device


def _say_offloaded(offload: Offload, reporter: Reporter | None) -> None:
    if reporter is None or offload.device.type != "cuda":
        return
    line = f"{len(offload.numbers)} blocks keep their weights in host memory: {offload.host_bytes / 2**30:.1f} GiB"
    reporter.note(line if offload.is_pinned else f"{line}, which the system doesn't let be pinned: copies are slow")


def _load(part: Part, reporter: Reporter | None, **how: Any) -> Any:
    module = part.empty_module()
    with _shown(reporter, f"loading {part.name}", part) as progress:
        stream_into(module, weights_for(part, module), progress=progress, **how)
    return module


@contextlib.contextmanager
def _shown(reporter: Reporter | None, title: str, part: Part) -> Iterator[Progress | None]:
    """A phase of the reporter as the (done, total) callback that streaming tells its bytes."""
    if reporter is None:
        yield None
        return
    total = None if part.original else part.stored.total_bytes  # a single file holds other parts besides
    with reporter.phase(title, total, "B") as phase:
        before = 0

        def advance(done: int, _total: int) -> None:
            nonlocal before
            phase.advance(done - before)
            before = done

        yield advance


def _text_precisions(settings: Settings) -> dict[str, str]:
    """Precision of each text encoder the run uses."""
    precisions = {
        "text_encoder": settings.text_encoder_1_precision,
        "text_encoder_2": settings.text_encoder_2_precision,
        "text_encoder_3": settings.text_encoder_3_precision,
    }
    if not settings.use_t5:
        del precisions["text_encoder_3"]
    return precisions


def _tokenizers(settings: Settings) -> tuple[str, ...]:
    return architecture.TOKENIZER_PARTS if settings.use_t5 else architecture.TOKENIZER_PARTS[:2]


def _tokenizer(files: ModelFiles, encoder: str) -> Any:
    return load_tokenizer(part_folder(files, encoder.replace("text_encoder", "tokenizer")))


def _clip_tokens(files: ModelFiles) -> int:
    """How many tokens both CLIPs read; as in stock diffusers the first one's tokenizer decides for both."""
    configs = [open_part(files, name).config for name in architecture.ENCODER_PARTS[:2]]
    positions = min(config.get("max_position_embeddings", 77) for config in configs)  # 77: transformers' own default
    return clip_tokens(part_folder(files, "tokenizer"), positions)


def _text_width(files: ModelFiles) -> int:
    """D: the width of the text states the transformer takes."""
    return int(open_part(files, "transformer").config["joint_attention_dim"])


def _scheduler(files: ModelFiles) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    if files.layout == "single":
        config = architecture.component_config("sd3-medium", "scheduler")
    else:
        config = read_config(files.root / "scheduler" / "scheduler_config.json")
    return FlowMatchEulerDiscreteScheduler.from_config(config)
