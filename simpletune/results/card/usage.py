"""How to use the adapter, step by step: a program that makes the card's first picture, as validation made it."""

from __future__ import annotations

from simpletune.results.card.facts import Facts
from simpletune.results.card.gallery import Shown
from simpletune.results.card.text import literal, number, quoted
from simpletune.results.run_folder import ADAPTER_FILE

HERE = "."
INSTALL = 'pip install torch "diffusers>=0.42" transformers accelerate peft sentencepiece'
_DTYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "no": "torch.float32"}
_LONG = 300  # characters of a prompt that is rather not the example


def program(facts: Facts, pictures: tuple[Shown, ...], adapter: str) -> str:
    """Python that loads the base with the adapter (a folder or a name on the hub) and saves one picture."""
    return f"{_loading(facts, adapter)}\n\n{_drawing(facts, pictures)}"


def _loading(facts: Facts, adapter: str) -> str:
    imports = ["import torch", "from diffusers import StableDiffusion3Pipeline"]
    base = facts.base
    if base.built_in is not None:
        imports += ["", "from simpletune.config.builtin import tiny_folder"]
    lines = [*imports, "", f"base = {_base_place(facts)}"]
    lines += [f"adapter = {quoted(adapter)}" + ("  # the folder that holds this card" if adapter == HERE else "")]
    arguments = ["base"]
    if base.commit is not None:
        arguments.append(f"revision={quoted(base.commit)}")
    arguments.append(f"dtype={_DTYPES.get(facts.value('mixed_precision', 'bf16'), 'torch.bfloat16')}")
    if not facts.value("use_t5", True):
        arguments += ["text_encoder_3=None", "tokenizer_3=None"]
    joined = "".join(f"    {argument},\n" for argument in arguments)
    lines += [f"pipeline = StableDiffusion3Pipeline.from_pretrained(\n{joined})"]
    lines += [f'pipeline.load_lora_weights(adapter, weight_name="{ADAPTER_FILE}")']
    lines += ['pipeline.to("cuda" if torch.cuda.is_available() else "cpu")']
    return "\n".join(lines)


def _base_place(facts: Facts) -> str:
    base = facts.base
    if base.built_in is not None:
        return "tiny_folder()"
    if base.hub_id is None:
        return '"path/to/the/base"  # it was trained on a local model'
    return quoted(base.hub_id) + ("  # it was trained on a local copy or version of this" if base.is_copy else "")


def _drawing(facts: Facts, pictures: tuple[Shown, ...]) -> str:
    prompt, negative, seed, width, height = _example(facts, pictures)
    arguments = {
        "prompt": literal(prompt, 4),
        "negative_prompt": literal(negative, 4) if negative else None,
        "width": str(width),
        "height": str(height),
        "num_inference_steps": str(facts.value("validation_num_inference_steps", 28)),
        "guidance_scale": number(facts.value("validation_guidance", 5.0)),
        "max_sequence_length": str(facts.value("tokenizer_max_length", 154)),
        **_skipped_layers(facts),
        "generator": f'torch.Generator("cpu").manual_seed({seed})',
    }
    lines = "".join(f"    {name}={value},\n" for name, value in arguments.items() if value is not None)
    return f'picture = pipeline(\n{lines}).images[0]\npicture.save("picture.png")'


def _example(facts: Facts, pictures: tuple[Shown, ...]) -> tuple[str, str, int, int, int]:
    """Prompt, negative prompt, seed and size: those of a picture on the card, else what validation would take."""
    if pictures:
        one = next((picture for picture in pictures if len(picture.prompt) <= _LONG), pictures[0])
        return one.prompt, one.negative, one.seed, one.width, one.height
    side = int(facts.value("resolution", facts.base.flavour.resolution))
    prompt = next((text for text in facts.prompts.values()), facts.trigger or "a picture")
    negative, seed = str(facts.value("validation_negative_prompt", "")), int(facts.value("validation_seed", 42))
    return prompt, negative, seed, side, side


def _skipped_layers(facts: Facts) -> dict[str, str]:
    layers = facts.value("validation_guidance_skip_layers")
    if not layers:
        return {}
    return {
        "skip_guidance_layers": repr(list(layers)),
        "skip_layer_guidance_scale": number(facts.value("validation_guidance_skip_scale", 2.8)),
        "skip_layer_guidance_start": number(facts.value("validation_guidance_skip_layers_start", 0.01)),
        "skip_layer_guidance_stop": number(facts.value("validation_guidance_skip_layers_stop", 0.2)),
    }
