"""How a run's adapter is used: code for diffusers that samples as validation did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpletune.results.report.run import Run

_DTYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}
_EXAMPLE = "your prompt"


def diffusers_code(run: Run, adapter: Path) -> str:
    """Python that stock diffusers runs: model, precision, T5 length, steps and guidance as in the run."""
    tiny = run.value("model_flavour") == "tiny" and not run.value("pretrained_model_name_or_path")
    lines = ["import torch", "from diffusers import StableDiffusion3Pipeline", ""]
    if tiny:
        lines[2:] = ["from simpletune.config.builtin import tiny_folder", "", "model = tiny_folder()"]
    else:
        lines.append(f"model = {_literal(run.value('pretrained_model_name_or_path', ''))}")
    lines += [*_loading(run), *_sampling(run, adapter)]
    return "\n".join(lines)


def _loading(run: Run) -> list[str]:
    model = str(run.value("pretrained_model_name_or_path", ""))
    opener = "from_single_file" if model.endswith(".safetensors") else "from_pretrained"
    arguments = [f"dtype={_DTYPES.get(run.value('mixed_precision'), 'torch.float32')}"]
    if revision := run.value("revision"):
        arguments.append(f"revision={_literal(revision)}")
    if run.value("use_t5", True) is False:
        arguments += ["text_encoder_3=None", "tokenizer_3=None"]
    return [f"pipeline = StableDiffusion3Pipeline.{opener}(model, {', '.join(arguments)})"]


def _sampling(run: Run, adapter: Path) -> list[str]:
    width, height = _size(run)
    on_gpu = str(run.facts.get("device", "cuda")).startswith("cuda")
    asked: dict[str, Any] = {
        "num_inference_steps": run.value("validation_num_inference_steps", 28),
        "guidance_scale": run.value("validation_guidance", 5.0),
        "width": width,
        "height": height,
        "max_sequence_length": run.value("tokenizer_max_length", 154),
    }
    if negative := run.value("validation_negative_prompt"):
        asked = {"negative_prompt": negative, **asked}
    if layers := run.value("validation_guidance_skip_layers"):
        asked["skip_guidance_layers"] = layers
        asked["skip_layer_guidance_scale"] = run.value("validation_guidance_skip_scale", 2.8)
        asked["skip_layer_guidance_start"] = run.value("validation_guidance_skip_layers_start", 0.01)
        asked["skip_layer_guidance_stop"] = run.value("validation_guidance_skip_layers_stop", 0.2)
    prompts = run.facts.get("validation_prompts")
    prompt = next(iter(prompts.values()), _EXAMPLE) if isinstance(prompts, dict) else _EXAMPLE
    return [
        f"pipeline.load_lora_weights({_literal(str(adapter.parent))}, weight_name={_literal(adapter.name)})",
        *(['pipeline.to("cuda")'] if on_gpu else []),
        "",
        "picture = pipeline(",
        f"    {_literal(prompt)},",
        *(f"    {name}={_literal(value)}," for name, value in asked.items()),
        f'    generator=torch.Generator("cpu").manual_seed({_literal(run.value("validation_seed", 42))}),',
        ").images[0]",
        'picture.save("picture.png")',
    ]


def _size(run: Run) -> tuple[int, int]:
    first = str(run.value("validation_resolution", "")).partition(",")[0].partition("x")
    try:
        return int(first[0]), int(first[2] or first[0])
    except ValueError:
        return 1024, 1024


def _literal(value: Any) -> str:
    """A value as Python has it, text in double quotes where that needs no escape."""
    plain = isinstance(value, str) and value.isprintable() and not set('"\\') & set(value)
    return f'"{value}"' if plain else repr(value)
