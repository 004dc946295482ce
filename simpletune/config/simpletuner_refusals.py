"""What is asked of a configuration before it is converted: whose it is, and whether it can be trained here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from simpletune.config.aliases import VALUE_ALIASES
from simpletune.config.families import SD3
from simpletune.config.problems import Problem, quoted
from simpletune.config.schema import config_keys
from simpletune.config.simpletuner_conversion import Conversion, Given
from simpletune.config.simpletuner_keys import OTHER_FAMILIES
from simpletune.config.simpletuner_values import is_off

_FLAVOURS = {"3.5-large": "sd3.5-large", "3.5-medium": "sd3.5-medium", "3-medium": "sd3-medium"}
# Keys that only simpletune has: a file with one of them and none of SimpleTuner's is ours already.
_OURS_ALONE = (
    "$schema", "device", "device_memory_gb", "use_t5", "hf_endpoint", "pretrained_text_encoders_path", "use_rslora",
    "lora_target", "timestep_sampling", "timestep_mean", "validation_prompts_file",
)  # fmt: skip


def is_native(value: Mapping[str, Any]) -> bool:
    """Whether a configuration is simpletune's own rather than SimpleTuner's."""
    return "$schema" in value or (set(value) <= set(config_keys()) and any(key in value for key in _OURS_ALONE))


def refusals(conversion: Conversion, lora_type: str | None) -> list[Problem]:
    """Why a configuration can't be imported: another model, another kind of training, another adapter."""
    source, problems = conversion.source, []

    def refuse(given: Given, message: str, hint: str | None = None) -> None:
        problems.append(source.problem(given.path[len(source.inside) :], message, hint))

    for key, rule in _REFUSED.items():
        given = conversion.peek(key)
        found = rule(given.value) if given is not None else None
        if given is not None and found is not None:
            refuse(given, found, "this version trains a LoRA for sd3")
    adapter, named = conversion.peek("lora_type"), conversion.peek("lycoris_config")
    taken = lora_type is None and not conversion.native
    wanted = taken and adapter is not None and str(adapter.value).lower() == "lycoris"
    if adapter is not None and wanted and not (named is not None and isinstance(named.value, str) and named.value):
        message = '"lora_type" lycoris: there is no "lycoris_config" that says what to train'
        refuse(adapter, message, "name one, or import with --lora-type standard to train a standard LoRA instead")
    if conversion.peek("model_family") is None and not conversion.native and flavour_of(conversion) is None:
        message = 'the file has no "model_family", so what model it is for is not known'
        problems.append(source.problem((), message, 'add "model_family": "sd3" to it if it is for Stable Diffusion 3'))
    return problems


def _other_family(value: Any) -> str | None:
    name = str(value).strip().lower()
    if name == "sd3":
        return None
    known = "a family of SimpleTuner" if name in OTHER_FAMILIES else "a family that is not known here"
    return f'"model_family" {quoted(value)} is {known}, and not supported'


_REFUSED: Mapping[str, Callable[[Any], str | None]] = {
    "model_family": _other_family,
    "model_type": lambda value: (
        None if is_off(value) or str(value).lower() == "lora" else f'"model_type" {quoted(value)} is not supported'
    ),
    "controlnet": lambda value: None if is_off(value) else '"controlnet": ControlNets are not supported',
    "control": lambda value: None if is_off(value) else '"control": control training is not supported',
}


def flavour_of(c: Conversion) -> str | None:
    """The flavour that a model's location names; SimpleTuner's short names mean 3.5."""
    named = c.value("model_flavour")
    if named is not None and not is_off(named):
        return VALUE_ALIASES.get(("model_flavour", str(named).lower()), str(named))
    location = str(c.value("pretrained_model_name_or_path") or "").lower()
    for flavour in SD3.flavours.values():
        if flavour.hub_id is not None and location == flavour.hub_id:
            return flavour.name
    return next((flavour for part, flavour in _FLAVOURS.items() if part in location), None)
