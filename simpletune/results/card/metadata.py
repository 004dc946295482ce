"""The metadata of a card: what the hub lists, filters and draws its page by."""

from __future__ import annotations

from typing import Any

from simpletune.config.families import Licence
from simpletune.results.card.facts import Facts
from simpletune.results.card.gallery import Shown
from simpletune.results.diffusers_code import without_secrets

UNKNOWN = "unknown"
"""The hub's own word for a licence that nobody gave."""


class Quoted(str):
    """Text that stands in double quotes, where every character is itself or escaped: otherwise some line ends would
    come back as others, and some words as numbers where another version of YAML is spoken."""


def whole(text: str) -> Quoted:
    return Quoted(without_secrets(text))


def metadata(facts: Facts, pictures: tuple[Shown, ...], licence: Licence | None) -> dict[str, Any]:
    """The metadata as YAML has it, in the order it is written in; nothing stands there empty."""
    base = facts.base
    values = {
        "license": licence.identifier if licence is not None else UNKNOWN,
        "license_name": licence.name if licence is not None else None,
        "license_link": licence.link if licence is not None else None,
        "base_model": base.hub_id,
        "base_model_relation": "adapter" if base.hub_id is not None else None,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": _tags(facts, pictures),
        "instance_prompt": whole(facts.trigger) if facts.trigger is not None else None,
        "widget": [_widget(picture) for picture in pictures] or _widget_texts(facts),
    }
    return {key: value for key, value in values.items() if value not in (None, [])}


def as_yaml(values: dict[str, Any]) -> str:
    """The metadata as the hub's own library writes it, with text from outside in double quotes."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import ModelCardData

    yaml.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
    ordered: str = ModelCardData(**values).to_yaml(original_order=list(values))
    return ordered


def _tags(facts: Facts, pictures: tuple[Shown, ...]) -> list[str]:
    version = "stable-diffusion-3.5" if "3.5" in facts.base.flavour.name else "stable-diffusion-3"
    layout = ["template:diffusion-lora"] if pictures else []  # the page begins with the gallery then
    return ["text-to-image", "diffusers", "lora", *layout, version, "simpletune"]


def _widget(picture: Shown) -> dict[str, Any]:
    made = {"parameters": {"negative_prompt": whole(picture.negative)}} if picture.negative else {}
    return {"text": whole(picture.prompt), **made, "output": {"url": picture.tuned}}


def _widget_texts(facts: Facts) -> list[dict[str, Any]]:
    return [{"text": whole(prompt)} for prompt in facts.prompts.values()]
