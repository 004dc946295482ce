"""Which model, and where its weights are: the hub, a mirror of it, a folder, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simpletune import outside
from simpletune.config.families import FAMILIES, Flavour
from simpletune.config.rules import looks_like_hub_id
from simpletune.config.schema import config_keys
from simpletune.machine.forecast import Plan
from simpletune.machine.shapes import download_bytes
from simpletune.wizard.measures import gib, size
from simpletune.wizard.outlook import card, fits, plan
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import NotUnderstood, Question
from simpletune.wizard.questions.common import (
    is_file,
    is_folder,
    not_a_file,
    not_a_folder,
    refuse_token,
    some_text,
    typed_path,
    understood_by,
    unfillable,
)
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State

SECTION = "Model"
HUB, MIRROR, OTHER_ID, FOLDER, FILE = "hub", "mirror", "id", "folder", "file"
_PATH = "pretrained_model_name_or_path"
_LITTLE_MEMORY = (
    "base_model_precision", "text_encoder_1_precision", "text_encoder_2_precision", "text_encoder_3_precision",
    "mixed_precision", "gradient_checkpointing",
)  # fmt: skip
"""What suits a model of no size; what is proposed for another, before these are asked, must not reckon with it."""
_ABOUT = {
    "sd3-medium": "2 billion weights",
    "sd3.5-medium": "2.5 billion weights, better hands and text",
    "sd3.5-large": "8 billion weights, the best pictures",
    "tiny": "built in, nothing to download; trains on a processor in minutes, to try things out",
}


def model(state: State) -> Iterator[Question]:
    yield FLAVOUR
    if state.flavour.hub_id is None:
        return
    yield SOURCE
    source = state.values[SOURCE.id]
    if source == MIRROR:
        yield MIRROR_ADDRESS
    elif source == OTHER_ID:
        yield MODEL_ID
    elif source == FOLDER:
        yield MODEL_FOLDER
    elif source == FILE:
        yield MODEL_FILE
        yield ENCODERS_FOLDER


# --- the flavour


def smallest(wanted: Plan, flavour: Flavour) -> Plan:
    """The least a flavour needs: everything packed as tightly as it goes, at half its resolution."""
    edge = flavour.resolution // 2
    return replace(
        wanted,
        flavour=flavour.name,
        base_model_precision="int2-quanto",
        text_encoder_precisions=("int4-quanto",) * 3,
        train_batch_size=1,
        gradient_checkpointing=True,
        gradient_checkpointing_interval=1,
        vae_batch_size=1,
        text_encoder_batch_size=1,
        bucket=(edge, edge),
        validation_sizes=((edge, edge),),
    )


def _flavours(state: State) -> tuple[Option, ...]:
    return tuple(
        Option(flavour.name, flavour.name, _about(flavour), _too_large(state, flavour))
        for flavour in FAMILIES["sd3"].flavours.values()
    )


def _about(flavour: Flavour) -> str:
    if flavour.hub_id is None:
        return _ABOUT[flavour.name]
    return f"{_ABOUT[flavour.name]}; {size(download_bytes(flavour.name, True))} to download"


def _too_large(state: State, flavour: Flavour) -> str | None:
    device = card(state)
    if device.kind == "cpu" and flavour.hub_id is not None:
        return "a step would take minutes on a processor; it needs a GPU"
    if fits(state, smallest(plan(state), flavour)):
        return None
    assert device.usable is not None
    return f"even packed tightly it needs more than the {gib(device.usable)} that can be used here"


def _propose_flavour(state: State) -> Proposal[Any]:
    if card(state).kind == "cpu":
        return Proposal("tiny", "the only one that a processor trains in minutes; for SD3 itself a GPU is needed")
    if _too_large(state, FAMILIES["sd3"].flavours["sd3-medium"]) is None:
        return Proposal("sd3-medium", "it fits, and is the quickest to download and train")
    return Proposal("tiny", "the only one that fits")


def _write_flavour(state: State, value: str) -> None:
    if value != state.value("model_flavour"):
        of_the_toy = () if state.flavour.hub_id is not None else _LITTLE_MEMORY
        for key in (_PATH, "pretrained_text_encoders_path", "revision", *of_the_toy):
            if key not in state.base.config_sets:
                state.config.pop(key, None)  # they belong to the model that was there before
    state.config["model_flavour"] = value


def _read_flavour(state: State) -> Any:
    if "model_flavour" in state.config or state.base.exists:
        return state.value("model_flavour")
    return MISSING


FLAVOUR = Question(
    id="model",
    section=SECTION,
    row="Model",
    title="Which model do you want to fine-tune?",
    about="What you train is a small LoRA beside it; the model itself stays as it is.",
    options=_flavours,
    propose=_propose_flavour,
    read=_read_flavour,
    write=_write_flavour,
    fitted="card",
    keys=("model_flavour",),
)


# --- where it is


def _sources(state: State) -> tuple[Option, ...]:
    hub_id = state.flavour.hub_id
    assert hub_id is not None
    bytes_wanted = size(download_bytes(state.flavour.name, state.value("use_t5")))
    return (
        Option(HUB, f"Hugging Face: {hub_id.rsplit('/', 1)[-1]}", f"downloaded once, {bytes_wanted}"),
        Option(MIRROR, "the same from a mirror", "where huggingface.co can't be reached"),
        Option(OTHER_ID, "another model of the same kind on Hugging Face", "a fine-tuned one, by OWNER/NAME"),
        Option(FOLDER, "a folder in the diffusers layout", "with transformer/, vae/, text_encoder/ and so on"),
        Option(FILE, "one .safetensors file", "as for ComfyUI; the tokenizers' folder is asked next"),
    )


def _read_source(state: State) -> Any:
    value = state.config.get(_PATH)
    if value is None:
        if not state.base.exists and _PATH not in state.config and "hf_endpoint" not in state.config:
            return MISSING
        return MIRROR if state.config.get("hf_endpoint") else HUB
    path = state.resolve(value)
    if is_file(path) or value.endswith(".safetensors"):
        return FILE
    if is_folder(path) or not looks_like_hub_id(value):
        return FOLDER
    return OTHER_ID


def _write_source(state: State, value: str) -> None:
    if value in (HUB, MIRROR):
        state.config.pop(_PATH, None)
    if value != FILE:
        state.config.pop("pretrained_text_encoders_path", None)
    if value == HUB:
        state.config.pop("hf_endpoint", None)


def access_lines(state: State) -> list[str]:
    """What the hub said of the model, and what to do when it doesn't give it."""
    if state.flavour.hub_id is None or state.values.get(SOURCE.id) not in (HUB, MIRROR, OTHER_ID):
        return []
    repo = state.config.get(_PATH) or state.flavour.hub_id
    found = state.facts.access(repo, state.config.get("hf_endpoint"), state.flavour.gated)
    return [found.message, *([f"  {found.next_step}"] if found.next_step else [])]


SOURCE = Question(
    id="model.source",
    section=SECTION,
    row="Where it is",
    title="Where is the model?",
    about="SD3 is behind a licence: accept it on the model's page, then log in with `hf auth login`.",
    options=_sources,
    propose=lambda _state: Proposal(HUB, "the original; an interrupted download goes on where it stopped"),
    read=_read_source,
    write=_write_source,
    keys=(_PATH, "hf_endpoint", "pretrained_text_encoders_path"),
    after=lambda state: access_lines(state) if state.values.get("model.source") == HUB else [],
)


def _address(text: str) -> str:
    import re

    refuse_token(text)
    if not re.fullmatch(config_keys()["hf_endpoint"]["pattern"], text.strip()):
        raise NotUnderstood("an address begins with https:// or http://")
    return text.strip()


MIRROR_ADDRESS = Question(
    id="model.mirror",
    section=SECTION,
    row="Mirror",
    title="Which mirror?",
    about="Its address, such as https://hub.example.org. The environment variable HF_ENDPOINT wins over it.",
    parse=_address,
    object=understood_by(_address),
    propose=lambda _state: Proposal(MISSING, ""),
    read=lambda state: state.config.get("hf_endpoint") or MISSING,
    write=lambda state, value: state.config.__setitem__("hf_endpoint", value),
    keys=("hf_endpoint",),
    after=access_lines,
)


def _hub_id(text: str) -> str:
    clean = some_text(text)
    if not looks_like_hub_id(clean):
        raise NotUnderstood(f'"{clean}" is not a hub name: those are OWNER/NAME')
    return clean


MODEL_ID = Question(
    id="model.id",
    section=SECTION,
    row="Its name",
    title="Which one?",
    about="OWNER/NAME as in its address on the hub. It must be in the diffusers layout and of the kind chosen above.",
    parse=_hub_id,
    object=understood_by(_hub_id),
    propose=lambda _state: Proposal(MISSING, ""),
    read=lambda state: state.config.get(_PATH) or MISSING,
    write=lambda state, value: state.config.__setitem__(_PATH, value),
    keys=(_PATH,),
    after=access_lines,
)


# --- a folder or a file


def _folder_objection(state: State, value: str) -> str | None:
    path = state.resolve(value)
    if wrong := not_a_folder(path):
        return wrong
    config = path / "transformer" / "config.json"
    try:
        described = outside.read_json(config)
        found = (described["num_layers"], tuple(described.get("dual_attention_layers") or ()))
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} is no model in the diffusers layout: {config.relative_to(path)} is missing or unreadable"
    flavour = state.flavour
    if found == (flavour.block_count, flavour.dual_attention_blocks):
        return None
    others = FAMILIES["sd3"].flavours.values()
    fitting = next((one.name for one in others if found == (one.block_count, one.dual_attention_blocks)), None)
    return f"that is no {flavour.name}" + (f" but {fitting}: go back and choose that" if fitting else "")


def _file_objection(state: State, value: str) -> str | None:
    path = state.resolve(value)
    if wrong := not_a_file(path):
        return wrong
    return None if path.suffix == ".safetensors" else f"{path.name} is no .safetensors file"


def _encoders_objection(state: State, value: str) -> str | None:
    path = state.resolve(value)
    if wrong := not_a_folder(path) or unfillable(state.stored(path)):
        return wrong
    missing = [name for name in ("tokenizer", "tokenizer_2") if not is_folder(path / name)]
    return f"{path} lacks {' and '.join(missing)}" if missing else None


def _path_question(question_id: str, row: str, title: str, about: str, key: str, kind: str, objection: Any) -> Question:
    def read(state: State) -> Any:
        return str(state.resolve(state.config[key])) if state.config.get(key) else MISSING

    def write(state: State, value: str) -> None:
        state.config[key] = state.stored(state.resolve(value))

    return Question(
        id=question_id,
        section=SECTION,
        row=row,
        title=title,
        about=about,
        path=kind,
        parse=typed_path,
        object=objection,
        propose=lambda _state: Proposal(MISSING, ""),
        read=read,
        write=write,
        keys=(key,),
    )


MODEL_FOLDER = _path_question(
    "model.folder", "Its folder", "Which folder?", "The one that holds model_index.json, transformer/, vae/ and so on.",
    _PATH, "folder", _folder_objection,
)  # fmt: skip
MODEL_FILE = _path_question(
    "model.file", "Its file", "Which file?", "A .safetensors file with the transformer and the VAE in it.",
    _PATH, "file", _file_objection,
)  # fmt: skip
ENCODERS_FOLDER = _path_question(
    "model.encoders", "Text encoders", "Which folder holds the tokenizers and text encoders?",
    "A single file has no tokenizers: name a folder with tokenizer/, tokenizer_2/ and so on, in the diffusers layout.",
    "pretrained_text_encoders_path", "folder", _encoders_objection,
)  # fmt: skip
