"""Python that uses a run's adapter with stock diffusers and samples as validation did: for the report and the card.

A LyCORIS adapter, which diffusers doesn't read, is put into the weights by the LyCORIS library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpletune.config.rules import looks_like_hub_id
from simpletune.redact import redact
from simpletune.results.report.run import Run
from simpletune.results.run_folder import ADAPTER_FILE

_DTYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "no": "torch.float32"}
_LITERAL_WIDTH = 88  # characters
_EDGE = 1024  # pixels; of runs whose run.json has lost the size of their pictures


@dataclass(frozen=True)
class BaseFiles:
    """Where the program takes the base from.

    place: a hub id or a path; None for the built-in model. revision: the version on the hub. remark: a comment behind
    it.
    """

    place: str | None
    revision: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class AdapterSource:
    """Where the program takes the adapter from: a folder or a name on the hub, and a comment behind it."""

    place: str
    remark: str = ""


@dataclass(frozen=True)
class Example:
    """The picture that the program makes; width and height in pixels."""

    prompt: str
    negative: str
    seed: int
    width: int
    height: int


def program(run: Run, base: BaseFiles, adapter: AdapterSource, example: Example) -> str:
    """Python that loads the base with the adapter and saves one picture: precision, T5 length, steps and guidance are
    the run's."""
    return f"{_loading(run, base, adapter)}\n\n{_drawing(run, example)}"


def usual_example(run: Run, prompt: str) -> Example:
    """What validation draws first; `prompt` where the run has none."""
    prompts = run.facts.get("validation_prompts")
    first = next(iter(prompts.values()), prompt) if isinstance(prompts, dict) else prompt
    negative, seed = str(run.value("validation_negative_prompt", "")), int(run.value("validation_seed", 42))
    return Example(str(first), negative, seed, *_size(run))


def without_secrets(text: str) -> str:
    """`text` without tokens and without half surrogates, which no file can hold."""
    return redact(text).encode("utf-8", "replace").decode("utf-8")


def _loading(run: Run, base: BaseFiles, adapter: AdapterSource) -> str:
    lycoris = is_lycoris(run)
    on_hub = lycoris and looks_like_hub_id(adapter.place) and not Path(adapter.place).exists()
    lines = ["import torch", "from diffusers import StableDiffusion3Pipeline"]
    lines += ["from huggingface_hub import hf_hub_download"] * on_hub
    lines += ["from lycoris import create_lycoris_from_weights"] * lycoris
    lines.append("")
    if base.place is None:
        lines += ["from simpletune.config.builtin import tiny_folder", ""]
    place = "tiny_folder()" if base.place is None else _quoted(base.place)
    lines += [_assigned("base", place, base.remark), _assigned("adapter", _quoted(adapter.place), adapter.remark)]
    arguments = ["base"]
    if base.revision is not None:
        arguments.append(f"revision={_quoted(base.revision)}")
    arguments.append(f"dtype={_DTYPES.get(run.value('mixed_precision', 'bf16'), 'torch.float32')}")
    if not run.value("use_t5", True):
        arguments += ["text_encoder_3=None", "tokenizer_3=None"]
    joined = "".join(f"    {argument},\n" for argument in arguments)
    single_file = base.place is not None and base.place.endswith(".safetensors")
    opener = "from_single_file" if single_file else "from_pretrained"
    lines += [f"pipeline = StableDiffusion3Pipeline.{opener}(\n{joined})"]
    lines += _lycoris(on_hub) if lycoris else [f'pipeline.load_lora_weights(adapter, weight_name="{ADAPTER_FILE}")']
    lines += ['pipeline.to("cuda" if torch.cuda.is_available() else "cpu")']
    return "\n".join(lines)


def is_lycoris(run: Run) -> bool:
    """Whether a run trained what its LyCORIS config says."""
    return bool(run.value("lora_type", "standard") == "lycoris")


def _lycoris(on_hub: bool) -> list[str]:
    file = f'hf_hub_download(adapter, "{ADAPTER_FILE}")' if on_hub else f'f"{{adapter}}/{ADAPTER_FILE}"'
    return [
        f"weights = {file}",
        "lycoris, _ = create_lycoris_from_weights(1.0, weights, pipeline.transformer)",
        "lycoris.merge_to()",
    ]


def _assigned(name: str, value: str, remark: str) -> str:
    return f"{name} = {value}" + (f"  # {remark}" if remark else "")


def _drawing(run: Run, example: Example) -> str:
    arguments = {
        "prompt": _literal(example.prompt, 4),
        "negative_prompt": _literal(example.negative, 4) if example.negative else None,
        "width": str(example.width),
        "height": str(example.height),
        "num_inference_steps": str(run.value("validation_num_inference_steps", 28)),
        "guidance_scale": _number(run.value("validation_guidance", 5.0)),
        "max_sequence_length": str(run.value("tokenizer_max_length", 154)),
        **_skipped_layers(run),
        "generator": f'torch.Generator("cpu").manual_seed({example.seed})',
    }
    lines = "".join(f"    {name}={value},\n" for name, value in arguments.items() if value is not None)
    return f'picture = pipeline(\n{lines}).images[0]\npicture.save("picture.png")'


def _skipped_layers(run: Run) -> dict[str, str]:
    layers = run.value("validation_guidance_skip_layers")
    if not layers:
        return {}
    return {
        "skip_guidance_layers": repr(list(layers)),
        "skip_layer_guidance_scale": _number(run.value("validation_guidance_skip_scale", 2.8)),
        "skip_layer_guidance_start": _number(run.value("validation_guidance_skip_layers_start", 0.01)),
        "skip_layer_guidance_stop": _number(run.value("validation_guidance_skip_layers_stop", 0.2)),
    }


def _size(run: Run) -> tuple[int, int]:
    """The first size of validation, (width, height) in pixels."""
    width, _, height = str(run.value("validation_resolution", "")).partition(",")[0].partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        return _EDGE, _EDGE


def _number(value: float) -> str:
    return f"{value:.6g}"


def _literal(text: str, indent: int) -> str:
    """`text` as a Python expression; a long one in several lines, of which the later ones are indented."""
    text = without_secrets(text)
    if len(text) <= _LITERAL_WIDTH:
        return _quoted(text)
    inner, outer = " " * (indent + 4), " " * indent
    pieces = [text[start : start + _LITERAL_WIDTH] for start in range(0, len(text), _LITERAL_WIDTH)]
    return "(\n" + "".join(f"{inner}{_quoted(piece)}\n" for piece in pieces) + f"{outer})"


def _quoted(text: str) -> str:
    """`text` as Python writes it, in double quotes where they need no escape."""
    return '"' + repr("'" + text)[2:] if '"' not in text else repr(text)
