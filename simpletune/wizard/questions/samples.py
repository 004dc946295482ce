"""How the result is judged on the way: sample pictures from prompts, and pictures held out to measure the loss on."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from simpletune.wizard import proposals
from simpletune.wizard.outlook import files, pictures, steps, surveys
from simpletune.wizard.prompt_proposals import propose_prompts
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question
from simpletune.wizard.questions.common import (
    read_key,
    refuse_token,
    understood_by,
    whole_number,
    within_schema,
    write_key,
)
from simpletune.wizard.questions.role import is_eval
from simpletune.wizard.questions.sample_size import VALIDATION_SIZE
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Sample pictures"
PROPOSED, OWN, NONE, KEPT = "proposed", "own", "none", "kept"
_SMALL_WORDS = frozenset({"a", "an", "and", "at", "by", "from", "in", "of", "on", "the", "to", "with"})
_KEYS = ("validation_prompt", "validation_prompts_file")
_MOST = 10  # prompts asked for
_HELD_OUT = ((200, 16), (60, 8), (20, 4))  # from so many pictures on, so many are held out


def samples(state: State) -> Iterator[Question]:
    yield PROMPTS
    if state.values[PROMPTS.id] == OWN:
        for number in range(1, _MOST + 1):
            question = _prompt(number)
            yield question
            if not state.values[question.id]:
                break
        _store(state, [text for name, text in state.values.items() if name.startswith("samples.prompt.") and text])
    if state.values[PROMPTS.id] != NONE:
        yield VALIDATION_SIZE
        yield INTERVAL
    yield HELD_OUT


def _proposed(state: State) -> list[Proposal[str]]:
    triggers = [entry.get("instance_prompt") for entry in state.images]
    trigger = next((one for one in triggers if one), None)
    strategies = [str(entry.get("caption_strategy", "textfile")) for entry in state.images]
    return list(propose_prompts(surveys(state), trigger, strategies))


def _options(state: State) -> tuple[Option, ...]:
    three = "; ".join(f"{proposal.value} ({proposal.reason})" for proposal in _proposed(state))
    options = [
        Option(PROPOSED, "these three", three),
        Option(OWN, "prompts of your own", "asked next, one by one"),
        Option(NONE, "none", "no sample pictures: the loss is all there is to go by"),
    ]
    if has_prompts(state):
        options.insert(0, Option(KEPT, "those in the file", _in_file(state)))
    return tuple(options)


def has_prompts(state: State) -> bool:
    config = state.base.config
    return config.get("validation_prompt") is not None or config.get("validation_prompts_file") is not None


def _in_file(state: State) -> str:
    config = state.base.config
    single = [config["validation_prompt"]] if config.get("validation_prompt") else []
    return "; ".join([*single, *state.base.prompts.values()])


def _read(state: State) -> Any:
    if has_prompts(state):
        return KEPT
    return NONE if state.base.exists else MISSING


def _write(state: State, value: str) -> None:
    if value == PROPOSED:
        _store(state, [proposal.value for proposal in _proposed(state)])
    elif value == NONE:
        _store(state, [])


def _store(state: State, prompts: list[str]) -> None:
    """One prompt stands in config.json, several in a file beside it, which names their pictures; where the files at the
    start had them, they stay."""
    single, named = (state.base.config.get(key) for key in _KEYS)
    for key in _KEYS:
        state.config.pop(key, None)
    state.prompts = None
    both = single is not None and named is not None
    alone = prompts[:1] if both or (named is None and len(prompts) == 1) else []
    if alone:
        state.config["validation_prompt"] = alone[0]
    if listed := prompts[len(alone) :]:
        state.config["validation_prompts_file"] = named or state.base.prompts_name
        state.prompts = dict(zip(names_of(listed, state.base.prompts), listed, strict=True))


def names_of(prompts: list[str], before: Mapping[str, str] | None = None) -> list[str]:
    """A short file name for each prompt's pictures: the one it had `before`, else its first words, each name once."""
    known = {prompt: name for name, prompt in (before or {}).items()}
    taken = {known[prompt] for prompt in prompts if prompt in known}
    names: list[str] = []
    for prompt in prompts:
        name = known.pop(prompt, None) or _free(_stem(prompt), taken)
        taken.add(name)
        names.append(name)
    return names


def _stem(prompt: str) -> str:
    words = [word for word in re.findall(r"[a-z0-9]+", prompt.lower()) if word not in _SMALL_WORDS]
    stem = "-".join(words[:4])[:40] or "prompt-1"
    return f"{stem}-1" if stem == "prompt" else stem  # that is the name of the key validation_prompt


def _free(stem: str, taken: Container[str]) -> str:
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 100))) if name not in taken)


PROMPTS = Question(
    id="samples.prompts",
    section=SECTION,
    row="Prompts",
    title="Which sample pictures are made on the way?",
    about="The same prompts with the base and with your LoRA, side by side: what it learned, and what it spoiled.",
    options=_options,
    propose=lambda _state: Proposal(PROPOSED, "two like your captions, and a subject outside them"),
    read=_read,
    write=_write,
    figures=True,
    keys=_KEYS,
)


def _prompt(number: int) -> Question:
    def parse(text: str) -> str:
        clean = text.strip()
        if number == 1 and not clean:
            raise NotUnderstood("at least one prompt is needed here; go back to have none")
        if clean:
            refuse_token(clean)
        return clean

    def read(state: State) -> Any:
        kept = list(state.base.prompts.values())
        single = state.base.config.get("validation_prompt")
        kept = [single, *kept] if single else kept
        return kept[number - 1] if number <= len(kept) else MISSING

    return Question(
        id=f"samples.prompt.{number}",
        section=SECTION,
        row=f"Prompt {number}",
        title=f"Prompt {number}",
        about="What the picture should show." if number == 1 else "One more, or nothing to go on.",
        parse=parse,
        object=understood_by(parse),
        propose=lambda _state: Proposal(MISSING if number == 1 else "", ""),
        read=read,
        write=lambda _state, _value: None,
        show=lambda value: value or "no further one",
    )


def _propose_interval(state: State) -> Proposal[int]:
    return proposals.propose_validation_interval(steps(state))


def _intervals(state: State) -> tuple[Option, ...]:
    value = _propose_interval(state).value
    return tuple(
        Option(count, f"every {count:,} steps") for count in dict.fromkeys((max(1, value // 2), value, value * 2))
    )


INTERVAL = Question(
    id="samples.interval",
    section=SECTION,
    row="How often",
    title="How often are sample pictures made?",
    about="Each time takes about as long as a few dozen steps.",
    options=_intervals,
    other="another interval",
    parse=whole_number("validation_step_interval"),
    object=within_schema("validation_step_interval"),
    propose=_propose_interval,
    read=read_key("validation_step_interval"),
    write=write_key("validation_step_interval"),
    show=lambda value: f"every {value:,} steps",
    fine=True,
    figures=True,
    fitted="model",
    keys=("validation_step_interval",),
)


def _propose_held_out(state: State) -> Proposal[int]:
    if any(is_eval(state, index) for index in range(len(state.images))):
        return Proposal(0, "there are pictures only to measure on")
    count = pictures(state)
    held = next((held for least, held in _HELD_OUT if count >= least), 0)
    why = (
        "a loss on pictures it never saw tells learning from learning by heart" if held else "too few to do without any"
    )
    return Proposal(held, why)


HELD_OUT = Question(
    id="samples.held_out",
    section=SECTION,
    row="Held out",
    title="How many pictures are held out, to measure the loss on?",
    about="They are chosen by seed and never trained on.",
    options=lambda state: tuple(
        Option(count, str(count) if count else "none", disabled=_object_held_out(state, count))
        for count in (0, 2, 4, 8, 16)
    ),
    other="another number",
    parse=whole_number("num_eval_images"),
    object=lambda state, value: _object_held_out(state, value),
    propose=_propose_held_out,
    read=read_key("num_eval_images"),
    write=write_key("num_eval_images", leave_default=True),
    fine=True,
    keys=("num_eval_images",),
)


def _object_held_out(state: State, value: Any) -> str | None:
    wrong = within_schema("num_eval_images")(state, value)
    count = files(state)
    if wrong is None and value and value >= count > 0:
        return f"{value} of {count} pictures would leave none to train on"
    return wrong
