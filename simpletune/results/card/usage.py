"""How to use the adapter, step by step: a program that makes the card's first picture, as validation made it."""

from __future__ import annotations

from simpletune.results.card.facts import Base, Facts
from simpletune.results.card.gallery import Shown
from simpletune.results.diffusers_code import AdapterSource, BaseFiles, Example, usual_example
from simpletune.results.diffusers_code import program as diffusers_program

HERE = "."
INSTALL = 'pip install torch "diffusers>=0.42.1" transformers accelerate peft sentencepiece'
INSTALL_LYCORIS = f"{INSTALL} lycoris-lora"
_LONG = 300  # characters of a prompt that is rather not the example


def program(facts: Facts, pictures: tuple[Shown, ...], adapter: str) -> str:
    """Python that loads the base with the adapter (a folder or a name on the hub) and saves one picture."""
    source = AdapterSource(adapter, "the folder that holds this card" if adapter == HERE else "")
    return diffusers_program(facts.run, _base_files(facts.base), source, _example(facts, pictures))


def _base_files(base: Base) -> BaseFiles:
    """No path of this machine: a card is read by others."""
    if base.built_in is not None:
        return BaseFiles(None)
    if base.hub_id is None:
        return BaseFiles("path/to/the/base", base.commit, "it was trained on a local model")
    return BaseFiles(base.hub_id, base.commit, "it was trained on a local copy or version of this" * base.is_copy)


def _example(facts: Facts, pictures: tuple[Shown, ...]) -> Example:
    """That of a picture on the card, else what validation would take."""
    if pictures:
        one = next((picture for picture in pictures if len(picture.prompt) <= _LONG), pictures[0])
        return Example(one.prompt, one.negative, one.seed, one.width, one.height)
    return usual_example(facts.run, facts.trigger or "a picture")
