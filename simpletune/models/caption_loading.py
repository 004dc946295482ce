"""Vision-language models for captions, through transformers: found, downloaded, loaded.

Any model that `AutoModelForImageTextToText` knows, from safetensors alone and without code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import EnvironmentNotReady, ModelUnavailable, OutOfMemory
from simpletune.models import hub
from simpletune.models.captioning import Describer, first_line, greedy, quiet
from simpletune.models.memory import ran_out
from simpletune.models.quantize import frozen_linear

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_UNWANTED = ("*/*", "consolidated*")
_LOCAL_WAY = "or give a folder that has it: --model FOLDER"
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
            f"--device {wanted} can't be used here: {first_line(error)}", "try --device cpu"
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
    with quiet(), _translated(folder):
        processor = load_processor(folder)
        model = _load_model(folder, chosen)
        if quantize is not None:
            quantize_language(model, _PRECISIONS[quantize], device)
        try:
            model = model.to(device).eval().requires_grad_(False)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            hint = "use --quantize int8, a smaller --model, or --device cpu"
            raise OutOfMemory(f"{folder} doesn't fit into the memory of {device}", hint) from error
    greedy(model)
    return Describer(model, processor, device, prompt, max_new_tokens)


def load_processor(folder: Path) -> Any:
    """What turns pictures and words into a model's inputs.

    AutoProcessor loads the video half of a processor too, which needs torchvision, as some versions do for the half for
    pictures. For pictures nobody misses either, so such a processor is put together of what goes through Pillow.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(_model_type(folder))
    kind = getattr(transformers, name, None) if name else None
    local = {"local_files_only": True, "trust_remote_code": False}
    if kind is None or "video_processor" not in kind.get_attributes():
        return transformers.AutoProcessor.from_pretrained(folder, **local)

    class WithoutVideo(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    loaders = {
        "image_processor": lambda: _pillow_class(folder).from_pretrained(folder, **local),
        "tokenizer": lambda: transformers.AutoTokenizer.from_pretrained(folder, **local),
    }
    parts = [loaders[part]() if part in loaders else None for part in kind.get_attributes()]
    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    return WithoutVideo.from_args_and_dict(parts, settings)


def _pillow_class(folder: Path) -> Any:
    """The class that prepares pictures for a model, in its form for Pillow where it has several."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    forms = IMAGE_PROCESSOR_MAPPING_NAMES.get(_model_type(folder))
    name = forms.get("pil") if isinstance(forms, dict) else None
    return getattr(transformers, name or "", transformers.AutoImageProcessor)


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


def _check_folder(folder: Path, name: str) -> None:
    """Raise ModelUnavailable for a folder that holds no model, or holds it as pickles."""
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{name} holds no model: it has no config.json", "check the name of the model")
    _config(folder)
    try:
        outside.check_model_files(folder)
    except (OSError, ValueError) as error:
        file = getattr(error, "filename", None) or folder  # a ValueError begins with the file's name
        raise ModelUnavailable(f"{file} can't be read: {in_words(error)}", "download the model again") from error
    if any(folder.glob("*.safetensors")):
        return
    pickled = outside.pickles_in(folder)
    message = f"{name} has no weights as .safetensors" + (f", only {pickled[0].name}" if pickled else "")
    raise ModelUnavailable(message, outside.conversion(pickled) if pickled else "choose another model")


def _config(folder: Path) -> dict[str, Any]:
    try:
        return outside.read_model_config(folder / "config.json")
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{folder / 'config.json'} can't be read: {in_words(error)}", "download it again"
        ) from error


def _model_type(folder: Path) -> str:
    return str(_config(folder).get("model_type", ""))


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
        message = f"the weights in {folder} can't be read: {first_line(error)}"
        raise ModelUnavailable(message, "the download may be incomplete: download it again") from error
    except ImportError as error:
        raise EnvironmentNotReady(
            f"this model needs a package: {first_line(error)}", "install it, or choose --model"
        ) from error
    except (ValueError, KeyError, OSError, RecursionError) as error:
        said = str(error)
        if "trust_remote_code" in said or "custom code" in said:
            message = f"the model in {folder} comes with code of its own, which is never run"
            raise ModelUnavailable(message, "choose a model that transformers itself knows") from error
        message = f"the model in {folder} can't be used for captions: {first_line(error)}"
        raise ModelUnavailable(message, "choose a model of the kind image-text-to-text, with all its files") from error
