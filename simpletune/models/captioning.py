"""Vision-language models that say in words what a picture shows, through transformers: found, loaded, asked.

Any model that `AutoModelForImageTextToText` knows, from safetensors alone and without code of its own: those with a
chat template are asked the prompt, those without one (BLIP, GIT) caption by themselves, going on from the prompt if
one is given. Decoding is greedy: the same pictures in the same batches on the same machine give the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from simpletune.errors import EnvironmentNotReady, ModelUnavailable, OutOfMemory, UsageError
from simpletune.models import hub
from simpletune.models.quantize import frozen_linear

if TYPE_CHECKING:
    from simpletune.progress import Reporter

PROMPT = (
    "Describe this picture in one to three sentences for somebody who can't see it: the subject, what it does, its "
    "surroundings, colours, light, and the style or medium. Name only what can be seen."
)
LARGEST_AREA = 768 * 768
"""Pixels. More detail than a caption has words for; a few hundred tokens of a model that takes any size."""

_SMALLEST_EDGE, _LARGEST_ASPECT = 56, 20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_UNWANTED = ("*/*", "consolidated*")
_LOCAL_WAY = "or name a folder with the model with --model"
_PRECISIONS = {"int8": "int8-quanto", "int4": "int4-quanto"}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def find_model(name: str, revision: str | None, reporter: Reporter | None, endpoint: str | None = None) -> Path:
    """The folder of a model: the one that is named, or a hub model's, downloaded if it isn't here.

    Raises ModelUnavailable, with what to do, when it is gated, unknown, out of reach, incomplete or pickled.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_file() or name.startswith((".", "/", "~")) or name.count("/") != 1:
            message = f"--model is {name!r}: neither a folder nor a hub name"
            raise ModelUnavailable(message, "a hub name is OWNER/NAME")
        asked = hub.Asked(
            name, revision, endpoint, False, "--model", "--revision", "name a mirror with HF_ENDPOINT", _LOCAL_WAY
        )
        path = hub.fetch(asked, _WANTED, reporter, _UNWANTED)
    _check_folder(path, name)
    return path


def choose_device(wanted: str) -> torch.device:
    """The device of "auto" (the best there is), "cuda", "cuda:1", "mps" or "cpu". Raises EnvironmentNotReady."""
    if wanted == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EnvironmentNotReady(
            f"--device {wanted} can't be used here: {_line(error)}", "try --device cpu"
        ) from error
    return device


def choose_dtype(wanted: str, device: torch.device, parameters: int, free_bytes: int) -> torch.dtype:
    """The dtype of "auto": bf16 on a GPU that has it, fp16 on an older one; on a processor fp32 where that fits."""
    if wanted != "auto":
        return _DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "mps":
        return torch.bfloat16
    return torch.float32 if 4 * parameters < 0.7 * free_bytes else torch.bfloat16


@dataclass(frozen=True)
class Answer:
    """What a model said of a picture; `cut` when it was stopped before it was done."""

    text: str
    cut: bool


class Describer:
    """A loaded model with its processor, asked for one description a picture."""

    def __init__(
        self, model: nn.Module, processor: Any, device: torch.device, prompt: str | None, max_new_tokens: int
    ) -> None:
        """`prompt`: what to ask or, for a model without a chat template, how its answers begin; None: the default."""
        self.model, self.processor, self.device = model, processor, device
        self.max_new_tokens = max_new_tokens
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"  # what is generated follows what is right-most
        self._chats = bool(getattr(processor, "chat_template", None))
        self._beginning = "" if self._chats else " ".join((prompt or "").split())
        self._text = self._asked(prompt or PROMPT) if self._chats else self._beginning or None
        self._dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self._ends = _end_tokens(model)

    def prepare(self, pictures: Sequence[Image.Image]) -> Any:
        """The model's inputs for RGB pictures, on the host. The processor raises what it likes when it refuses them."""
        images = [fitted(picture) for picture in pictures]
        given: dict[str, Any] = {"images": [[image] for image in images] if self._chats else images}
        if self._text is not None:
            given |= {"text": [self._text] * len(images), "padding": True}
        return self.processor(**given, return_tensors="pt")

    @torch.inference_mode()
    def describe(self, pictures: Sequence[Image.Image]) -> list[Answer]:
        """What the model says of each picture.

        Raises OutOfMemory when they don't fit at once, UsageError when the model needs to be asked in another way.
        """
        try:
            with _quiet():
                return self._describe(pictures)
        except RuntimeError as error:
            if not _is_memory(error):
                raise
            problem = _line(error)
        raise OutOfMemory(problem)  # out of the handler, which keeps the failed batch's tensors alive

    def _describe(self, pictures: Sequence[Image.Image]) -> list[Answer]:
        try:
            inputs = self.prepare(pictures).to(self.device, dtype=self._dtype)
        except (ValueError, TypeError, KeyError) as error:
            message = f"the model doesn't take pictures this way: {_line(error)}"
            raise UsageError(message, "it may need a --prompt of a certain form: see the model's page") from error
        made = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens)
        if self._chats and not self.model.config.is_encoder_decoder:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [Answer(self._own(text), not self._ended(row)) for text, row in zip(texts, made.tolist(), strict=True)]

    def _asked(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _own(self, text: str) -> str:
        """An answer that goes on from a beginning, with that in the letters it was given in."""
        text, begun = text.strip(), self._beginning
        return begun + text[len(begun) :] if begun and text.lower().startswith(begun.lower()) else text

    def _ended(self, row: list[int]) -> bool:
        return any(token in self._ends for token in row[1:]) or len(row) < self.max_new_tokens


def load_describer(
    folder: Path,
    device: torch.device,
    dtype: str = "auto",
    *,
    prompt: str | None = None,
    max_new_tokens: int = 120,
    quantize: str | None = None,
    free_bytes: int = 1 << 62,
) -> Describer:
    """The model in `folder`, ready to be asked; `quantize`: "int8" or "int4" for its language layers.

    free_bytes: the host's memory that nothing else uses, for the choice of the dtype on a processor. Raises
    ModelUnavailable when it isn't one that can caption or is incomplete, OutOfMemory when it doesn't fit.
    """
    chosen = choose_dtype(dtype, device, _parameters(folder), free_bytes)
    with _quiet(), _translated(folder):
        processor = load_processor(folder)
        model = _load_model(folder, chosen)
        if quantize is not None:
            quantize_language(model, _PRECISIONS[quantize], device)
        try:
            model = model.to(device).eval().requires_grad_(False)
        except RuntimeError as error:
            if not _is_memory(error):
                raise
            hint = "use --quantize int8, a smaller --model, or --device cpu"
            raise OutOfMemory(f"{folder} doesn't fit into the memory of {device}", hint) from error
    greedy(model)
    return Describer(model, processor, device, prompt, max_new_tokens)


def load_processor(folder: Path) -> Any:
    """What turns pictures and words into a model's inputs.

    AutoProcessor loads the video half of a processor too, which needs torchvision; for pictures nobody misses it, so
    such a processor is put together without.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(_config(folder).get("model_type", ""))
    kind = getattr(transformers, name, None) if name else None
    local = {"local_files_only": True, "trust_remote_code": False}
    if kind is None or "video_processor" not in kind.get_attributes():
        return transformers.AutoProcessor.from_pretrained(folder, **local)

    class WithoutVideo(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    loaders = {
        "image_processor": lambda: transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local),
        "tokenizer": lambda: transformers.AutoTokenizer.from_pretrained(folder, **local),
    }
    parts = [loaders[part]() if part in loaders else None for part in kind.get_attributes()]
    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    return WithoutVideo.from_args_and_dict(parts, settings)


def quantize_language(model: nn.Module, precision: str, device: torch.device) -> int:
    """Keep the weights of the language layers in 8 or 4 bits; how many layers that are.

    The vision layers, which are few and see best as they are, stay; so does the output layer, which is often the
    embedding at once. They are quantized on `device`, one at a time.
    """
    output = getattr(model, "get_output_embeddings", lambda: None)()
    chosen = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not output and not _sees(name)
    ]
    for name, layer in chosen:
        weight = layer.weight.data.to(device)
        frozen = frozen_linear(weight, layer.bias, precision, weight.dtype, name=name, key="--quantize")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, frozen.to(device))
    return len(chosen)


def fitted(picture: Image.Image) -> Image.Image:
    """An RGB picture in a size that every model takes: at most LARGEST_AREA pixels, no sliver and no speck."""
    width, height = picture.size
    across, down = min(width, _LARGEST_ASPECT * height), min(height, _LARGEST_ASPECT * width)
    left, top = (width - across) // 2, (height - down) // 2
    scale = min(1.0, (LARGEST_AREA / (across * down)) ** 0.5)
    scale = max(scale, _SMALLEST_EDGE / min(across, down))
    size = round(across * scale), round(down * scale)
    box = (left, top, left + across, top + down)
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def _sees(name: str) -> bool:
    return any(
        part in ("vision_model", "visual", "vision_tower", "image_encoder", "vision") for part in name.split(".")
    )


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    model, found = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        first = ", ".join(sorted(found["missing_keys"])[:3])
        raise ModelUnavailable(f"{folder} lacks weights: {first}", "it may be incomplete: download it again")
    return model


def greedy(model: Any) -> None:
    """Take the likeliest word each time, whatever the model's own settings draw."""
    settings = model.generation_config
    settings.do_sample, settings.num_beams = False, 1
    settings.temperature = settings.top_p = settings.top_k = None
    settings.max_length = None


def _end_tokens(model: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def _check_folder(folder: Path, name: str) -> None:
    """Raise ModelUnavailable for a folder that holds no model, or holds it as pickles."""
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{name} holds no model: it has no config.json", "check the name of the model")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    message = f"{name} has no weights as .safetensors" + (f", only {pickled[0]}" if pickled else "")
    raise ModelUnavailable(message, "weights in other formats can run code when they are read: choose another model")


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder / 'config.json'} can't be read: {error}", "download it again") from error
    return found if isinstance(found, dict) else {}


def _parameters(folder: Path) -> int:
    """About how many numbers the model has: its files, which nearly always hold two bytes each."""
    stored = str(_config(folder).get("dtype") or _config(folder).get("torch_dtype") or "")
    width = 4 if stored == "float32" else 2
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) // width


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """What transformers raises about a model, as what it means for a person."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        message = f"the weights in {folder} can't be read: {_line(error)}"
        raise ModelUnavailable(message, "the download may be incomplete: download it again") from error
    except ImportError as error:
        raise EnvironmentNotReady(
            f"this model needs a package: {_line(error)}", "install it, or choose --model"
        ) from error
    except (ValueError, KeyError, OSError) as error:
        said = str(error)
        if "trust_remote_code" in said or "custom code" in said:
            message = f"the model in {folder} comes with code of its own, which is never run"
            raise ModelUnavailable(message, "choose a model that transformers itself knows") from error
        message = f"the model in {folder} can't be used for captions: {_line(error)}"
        raise ModelUnavailable(message, "choose a model of the kind image-text-to-text, with all its files") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and remarks."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _is_memory(error: RuntimeError) -> bool:
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
