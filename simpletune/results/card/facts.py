"""What a card says of a run: read from the run's folder alone, so that a card can be made long after the run.

Nothing here loads a tensor or asks the hub.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from simpletune import outside
from simpletune.config.families import FAMILIES, Flavour
from simpletune.config.rules import looks_like_hub_id
from simpletune.disk_words import in_words
from simpletune.errors import UsageError
from simpletune.evaluate.results import Evaluation
from simpletune.evaluate.results import load as load_evaluation
from simpletune.machine.hub_access import cached_file
from simpletune.results.report.run import Run, State, read
from simpletune.results.run_folder import ADAPTER_FILE, RUN_FILE

_WRITTEN_AGAIN = "`simpletune train` with the run's config.json writes it again from the last checkpoint"


@dataclass(frozen=True)
class Base:
    """The model that an adapter is for.

    hub_id: its name on the hub; None for the built-in model, and where only a local one is known. commit: the version
    that was used, None if unknown. is_copy: a local copy was trained on, and `hub_id` is the flavour's. own_card: the
    model card that lies beside its files, if it does.
    """

    flavour: Flavour
    hub_id: str | None
    commit: str | None
    built_in: str | None
    is_copy: bool
    own_card: Path | None

    @property
    def name(self) -> str:
        return self.hub_id or self.built_in or f"a local {self.flavour.name} model"


@dataclass(frozen=True)
class AdapterFile:
    """The final adapter: its file, the steps it has, and what its header says of its tensors."""

    path: Path
    steps: int | None
    kind: str  # LoRA | DoRA | LoHa | LoKr, or several
    rank: int
    layers: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class Facts:
    """All that a card is made of. `averaged`: there is an adapter of the averaged weights too, in ema/."""

    run: Run
    base: Base
    adapter: AdapterFile
    averaged: bool
    prompts: Mapping[str, str]  # name -> prompt, of the validation
    evaluation: Evaluation | None

    def value(self, key: str, otherwise: Any = None) -> Any:
        """A setting of the run."""
        return self.run.value(key, otherwise)

    @property
    def trigger(self) -> str | None:
        """The instance prompt that captions began with, or were."""
        for one in self.run.data_sets:
            values = {key: setting.value for key, setting in one.items()}
            used = values.get("prepend_instance_prompt") or values.get("only_instance_prompt")
            if (used or values.get("caption_strategy") == "instanceprompt") and values.get("instance_prompt"):
                return str(values["instance_prompt"])
        return None


def gather_facts(folder: Path) -> Facts:
    """What there is to say of the finished run in `folder`.

    Raises UsageError when it holds no run, one that isn't finished or doesn't say what it was, or an adapter that can't
    be read or was cut short.
    """
    run = read(folder)
    if run.state is not State.FINISHED:
        what = "is still going on" if run.state is State.GOING else "has not done all its steps"
        hint = (
            "wait until it is finished" if run.state is State.GOING else "`simpletune train` goes on where it stopped"
        )
        raise UsageError(f"the run in {folder} {what}: it has no final adapter to show", hint)
    if not run.config:
        raise UsageError(
            f"{folder / RUN_FILE}, which says what model the adapter is for, is missing or can't be read",
            "restore it, or train the run again in another folder",
        )
    prompts = run.facts.get("validation_prompts")
    return Facts(
        run=run,
        base=_base(run),
        adapter=_adapter(run.folder / ADAPTER_FILE),
        averaged=(run.folder / "ema" / ADAPTER_FILE).is_file(),
        prompts={str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, Mapping) else {},
        evaluation=load_evaluation(run.folder),
    )


def _base(run: Run) -> Base:
    family = FAMILIES[run.value("model_family", "sd3")]
    flavour = family.flavours[run.value("model_flavour", "sd3-medium")]
    model = run.facts.get("model")
    found: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
    named, commit = run.value("pretrained_model_name_or_path"), found.get("commit") or run.value("revision")
    if named is None and flavour.hub_id is None:
        return Base(flavour, None, None, str(found.get("source") or flavour.name), False, None)
    if named is None or (looks_like_hub_id(named) and not Path(named).is_absolute()):
        hub_id = str(named or flavour.hub_id)
        return Base(flavour, hub_id, commit, None, False, cached_file(hub_id, "README.md", commit))
    beside = Path(named) / "README.md"
    return Base(flavour, flavour.hub_id, None, None, True, beside if beside.is_file() else None)


def _adapter(path: Path) -> AdapterFile:
    """Raises UsageError when there is no such file, it is none of safetensors, or it was cut short."""
    try:
        outside.check_tensors(path)
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise UsageError(f"there is no adapter {path}", _WRITTEN_AGAIN) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{path} can't be read as a LoRA: {in_words(error)}", _WRITTEN_AGAIN) from error
    ranks = {shape[0] for name, shape in shapes.items() if ".lora_A." in name}
    try:
        steps = outside.parse_json(header.get("simpletune", "{}")).get("steps")
    except (ValueError, AttributeError):
        steps = None
    return AdapterFile(
        path=path,
        steps=steps if isinstance(steps, int) else None,
        kind=_kind(shapes),
        rank=max(ranks, default=0),
        layers=len({_layer(name) for name in shapes}),
        parameters=sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(".alpha")),
        size_bytes=size,
    )


def _kind(names: Iterable[str]) -> str:
    """What a file of tensors with these names is called."""
    known = {"hada_w": "LoHa", "lokr_w": "LoKr", "lora_magnitude_vector": "DoRA", "lora_": "LoRA"}
    found = {next((kind for part, kind in known.items() if part in name), None) for name in names}
    if "DoRA" in found:
        found.discard("LoRA")
    return " and ".join(sorted(kind for kind in found if kind)) or "LoRA"


def _layer(name: str) -> str:
    """The layer that a tensor belongs to."""
    before, _, _ = name.partition(".lora_")
    return before if before != name else name.rpartition(".")[0]
