"""The text of a card, section by section, as Markdown."""

from __future__ import annotations

from simpletune.config.families import Licence
from simpletune.results.card import tables
from simpletune.results.card.facts import Facts
from simpletune.results.card.gallery import Shown
from simpletune.results.card.licence import credit_of, notice_of
from simpletune.results.card.naming import name_of
from simpletune.results.card.scores import scores
from simpletune.results.card.text import counted, plain, table
from simpletune.results.card.usage import HERE, INSTALL, INSTALL_LYCORIS, program
from simpletune.results.diffusers_code import is_lycoris

_HUB = "https://huggingface.co"


def body(facts: Facts, pictures: tuple[Shown, ...], licence: Licence | None, adapter: str) -> str:
    """Everything below the metadata; `adapter` is where the program takes the adapter from."""
    sections = [
        ("", _head(facts, pictures, adapter)),
        ("Base beside fine-tuned", _pairs(pictures)),
        ("How to use it", _usage(facts, pictures, adapter)),
        ("How good it is", scores(facts)),
        ("Training", tables.training(facts)),
        ("LoRA", tables.lora(facts)),
        ("Data", tables.data(facts)),
        ("Sample pictures", tables.validation(facts) if facts.prompts else ""),
        ("Versions", tables.versions(facts)),
        ("Licence", _licence(facts, licence)),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections if text)


def _head(facts: Facts, pictures: tuple[Shown, ...], adapter: str) -> str:
    name = name_of(facts.run.folder) if adapter == HERE else adapter.rpartition("/")[2]
    steps = f" in {counted(facts.adapter.steps, 'step')}" if facts.adapter.steps is not None else ""
    on = counted(len(facts.run.trained), "picture")
    lines = [
        f"# {plain(name)}",
        f"A {facts.adapter.kind} for {_base(facts)}, trained on {on}{steps} with simpletune.",
    ]
    if facts.trigger is not None:
        lines.append(f"**Trigger words**: {plain(facts.trigger)}")
    if pictures:
        lines.append("<Gallery />")
    return "\n\n".join(lines)


def _base(facts: Facts) -> str:
    base = facts.base
    if base.hub_id is not None:
        link = f"[{plain(base.hub_id)}]({_HUB}/{base.hub_id})"
        return f"a local copy or version of {link}" if base.is_copy else link
    return f"simpletune's built-in model {plain(base.name)}" if base.built_in is not None else plain(base.name)


def _pairs(pictures: tuple[Shown, ...]) -> str:
    """Both pictures of each prompt side by side, below it: in a column of its own, a long one would leave no room."""
    if not pictures:
        return ""
    pairs = [f"> {plain(one.prompt) or '(an empty prompt)'}\n\n{_pair(one)}" for one in pictures]
    return "\n\n".join(["The same seeds, without and with the LoRA.", *pairs])


def _pair(one: Shown) -> str:
    base = f"![the base's picture]({one.base})" if one.base is not None else "–"
    return table(("base", "with this LoRA"), [(base, f"![with this LoRA]({one.tuned})")])


def _usage(facts: Facts, pictures: tuple[Shown, ...], adapter: str) -> str:
    steps = [f"Install the libraries:\n\n```sh\n{_install(facts)}\n```"]
    if facts.base.flavour.gated and facts.base.hub_id is not None:
        page = f"{_HUB}/{facts.base.hub_id}"
        steps.append(f"Accept the base's licence at [{page}]({page}), and log in:\n\n```sh\nhf auth login\n```")
    shows = "makes the first picture above anew" if pictures else "makes a picture"
    steps.append(
        f"This {shows}, with the settings that validation had:\n\n```python\n{program(facts, pictures, adapter)}\n```"
    )
    numbered = [f"**{index}.** {step}" for index, step in enumerate(steps, start=1)]
    return "\n\n".join([*numbered, _hints(facts)])


def _install(facts: Facts) -> str:
    needed = INSTALL_LYCORIS if is_lycoris(facts.run) else INSTALL
    return f"{needed} simpletune" if facts.base.built_in is not None else needed


def _hints(facts: Facts) -> str:
    lines = [
        f"- `max_sequence_length={facts.value('tokenizer_max_length', 154)}` is how many tokens of a caption T5 read "
        "in training: leave it so.",
        "- It works weaker or stronger with another number than 1.0 for `create_lycoris_from_weights`; ComfyUI reads "
        "the file as it is."
        if is_lycoris(facts.run)
        else "- The LoRA works weaker or stronger with `pipeline.set_adapters(pipeline.get_active_adapters(), 0.7)` "
        "before a picture.",
    ]
    if facts.base.built_in is None:
        lines.append("- Short of memory: `pipeline.enable_model_cpu_offload()` in place of `pipeline.to(...)`.")
    if facts.averaged:
        where = "are the file in `ema/`" if is_lycoris(facts.run) else '`subfolder="ema"` in `load_lora_weights`'
        lines.append(f"- The averaged weights{':' * (not is_lycoris(facts.run))} {where}.")
    return "\n".join(lines)


def _licence(facts: Facts, licence: Licence | None) -> str:
    if licence is None:
        return (
            f"**No licence is given for the base, {plain(facts.base.name)}**, and none was chosen for this LoRA. "
            "Ask the base's authors before you use or share either."
        )
    named = plain(licence.name or licence.identifier)
    linked = f"[{named}]({licence.link})" if licence.link is not None else named
    lines = [f"The base is under {linked}; this LoRA is shared under the same."]
    lines += [f"{plain(sentence)}." for sentence in (credit_of(licence), notice_of(licence)) if sentence]
    return "\n\n".join(lines)
