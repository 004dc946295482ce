"""SimpleTuner's config.json -> ours: the keys whose meaning, unit or default isn't simply ours."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from simpletune.config.aliases import VALUE_ALIASES
from simpletune.config.problems import shown
from simpletune.config.rules import PRECISION_KEYS, exists, looks_like_hub_id
from simpletune.config.schema import optimizer_arguments
from simpletune.config.simpletuner_conversion import Conversion, Given
from simpletune.config.simpletuner_keys import (
    DEFAULTS_THERE,
    FOR_DATA_SETS,
    OPTIMIZERS,
    PRECISIONS,
    VALUES,
    Optimizer,
)
from simpletune.config.simpletuner_refusals import flavour_of
from simpletune.config.simpletuner_values import number, truth

_SCHEDULE_FREE = "adamw_schedulefree"


_OF_A_STANDARD_LORA = (
    "lora_rank", "lora_alpha", "lora_dropout", "lora_init_type", "lora_target", "peft_lora_target_modules", "use_dora",
    "use_rslora",
)  # fmt: skip
_LIMITS = ("minimum_image_size", "maximum_image_size", "target_downsample_size")
_WORDS = {
    "learning_rate": "far too low for most LoRAs: the examples there say 1e-4",
    "max_grad_norm": "of all values together; there each is clipped",
    "lora_target": "the image side of attention is what is trained there",
}


# --- the rules, in the order they are applied


def convert_config(conversion: Conversion, lora_type: str | None) -> dict[str, tuple[Any, Given]]:
    """Treat every key; returns those that are defaults for all data sets, with the key of the source that set them."""
    for_sets: dict[str, tuple[Any, Given]] = {}
    if not conversion.native:
        _model(conversion)
        _adapter(conversion, lora_type)
        _optimizer(conversion)
        _schedule(conversion)
        _flow(conversion)
        _length(conversion)
        _clipping(conversion)
        _precisions(conversion)
        _numbers(conversion)
        _validation(conversion)
        _trackers(conversion)
        for_sets = _for_data_sets(conversion)
    conversion.finish()
    if not conversion.native:
        _defaults(conversion)
    return for_sets


def _model(c: Conversion) -> None:
    guessed = flavour_of(c)
    for given in c.taken("model_family"):
        c.put(given, "model_family", "sd3")
    for given in c.taken("model_flavour"):
        value = str(given.value)
        c.put(given, "model_flavour", VALUE_ALIASES.get(("model_flavour", value.lower()), value))
    if "model_flavour" not in c.out:
        note = "as its location says" if guessed else "see that it is the right one"
        c.default("model_flavour", guessed or "sd3.5-medium", note)
    for given in c.taken("pretrained_model_name_or_path"):
        text = str(given.value)
        if looks_like_hub_id(text) and not exists(c.paths.place(text)):
            c.put(given, given.key, text)
        else:
            path, missing = c.paths.rewritten(text)
            c.put(given, given.key, path, missing)


def _adapter(c: Conversion, lora_type: str | None) -> None:
    for given in c.taken("lora_type"):
        lycoris = str(given.value).lower() == "lycoris" and lora_type is not None
        kind = str(given.value).lower()
        c.put(given, "lora_type", lora_type if lycoris else kind, "--lora-type says so" if lycoris else None)
    if c.out.get("lora_type", "standard") != "lycoris":
        for given in c.taken("lycoris_config"):
            c.drop(given, "it is for lora_type lycoris")
    else:
        for given in c.taken(*_OF_A_STANDARD_LORA):
            c.drop(given, "lora_type is lycoris, and lycoris_config says it")
    for given in c.taken("resume_from_checkpoint"):
        if given.value in ("latest", "none"):
            c.put(given, given.key, given.value)
        else:
            c.drop(given, "checkpoints of SimpleTuner can't be continued; init_lora starts from the LoRA in one")
    for given in c.taken("output_dir"):
        if _holds_checkpoints(c.paths.place(str(given.value))):
            folder = f"{str(given.value).rstrip('/')}-simpletune"
            c.put(given, given.key, folder, "the one named holds checkpoints of SimpleTuner", converted=True)
        else:
            c.put(given, given.key, given.value)
    continued = c.value("init_lora")
    for given in c.taken("lora_init_type") if continued is not None else ():
        c.drop(given, "the LoRA of init_lora is the start")


def _holds_checkpoints(folder: Path) -> bool:
    """Whether a run of SimpleTuner wrote there; ours leave a run.json."""
    try:
        return any(folder.glob("checkpoint-*")) and not (folder / "run.json").exists()
    except (OSError, ValueError):
        return False


def _optimizer(c: Conversion) -> None:
    given = next(c.taken("optimizer"), None)
    name = str(given.value) if given is not None else str(DEFAULTS_THERE["optimizer"])
    if name.startswith(_SCHEDULE_FREE):
        for schedule in c.taken("lr_scheduler"):
            c.put(schedule, "lr_scheduler", "constant_with_warmup", "the optimizer had a schedule of its own")
    theirs = OPTIMIZERS.get(name.lower(), Optimizer(name))
    if given is not None:
        c.put(given, "optimizer", theirs.ours, theirs.note)
    else:
        c.default("optimizer", theirs.ours)
    _optimizer_arguments(c, theirs)


def _optimizer_arguments(c: Conversion, theirs: Optimizer) -> None:
    try:
        known = optimizer_arguments(theirs.ours)
    except KeyError:
        return  # the optimizer itself will be said to be unknown
    differing = {
        key: value for key, value in theirs.arguments.items() if key in known and known[key].get("default") != value
    }
    config = next(c.taken("optimizer_config"), None)
    stated = _arguments(config.value) if config is not None else {}
    first, second = (next(c.taken(key), None) for key in ("optimizer_beta1", "optimizer_beta2"))
    betas = {"betas": [number(first.value), number(second.value)]} if first and second and "betas" in known else {}
    if isinstance(stated, dict):
        arguments = {**differing, **betas, **{key: value for key, value in stated.items() if key in known}}
    for one in (first, second):
        if one is not None and betas:
            c.move(one, "optimizer_config", betas, "one of the two betas")
        elif one is not None:
            c.drop(one, "SimpleTuner wants both betas" if not (first and second) else f"{theirs.ours} has no betas")
    if config is not None and not isinstance(stated, dict):
        c.put(config, "optimizer_config", config.value)
    elif config is not None:
        lost = [key for key in stated if key not in known]
        note = f"{theirs.ours} has no {', '.join(lost)}" if lost else None
        c.put(config, "optimizer_config", arguments, note, converted=True)
    elif betas:
        c.out["optimizer_config"] = arguments
    elif differing:
        c.default("optimizer_config", differing)


def _arguments(value: Any) -> Any:
    """`a=1,b=true` as an object; anything else as it is."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        return value
    found = {key.strip(): _scalar(text.strip()) for key, _, text in pairs}
    return {key: argument for key, argument in found.items() if argument is not None}


def _scalar(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return None if text.lower() == "none" else number(text)


def _schedule(c: Conversion) -> None:
    warmup = number(c.value("lr_warmup_steps"))
    rises = isinstance(warmup, int) and warmup > 0
    given = next(c.taken("lr_scheduler"), None)
    if given is None:
        return
    name = str(given.value).strip().lower()
    value, note = VALUES.get(("lr_scheduler", name), (given.value, None))
    if name == "constant" and rises:
        value, note = "constant_with_warmup", "so that the warm-up takes place, as there"
    c.put(given, "lr_scheduler", value, note)
    if str(value).startswith("cosine") and rises:
        for steps in c.taken("lr_warmup_steps"):
            c.drop(steps, f"with {name} it is the length of a wave there; here the curve spans the run")


def _flow(c: Conversion) -> None:
    for prefix in ("flow", "flux"):
        for name, sampling in (("uniform", "uniform"), ("beta", "beta")):
            for given in c.taken(f"{prefix}_use_{name}_schedule"):
                if truth(given.value) is not True:
                    c.drop(given, "off there, as here")
                else:
                    c.put(given, "timestep_sampling", sampling, converted=True)
        automatic = truth(c.value(f"{prefix}_schedule_auto_shift")) is True
        for given in c.taken(f"{prefix}_schedule_auto_shift"):
            note = "by a curve of its own there, by SD3's rule here" if automatic else None
            c.put(given, "flow_schedule_auto_shift", given.value, note)
        for given in c.taken(f"{prefix}_schedule_shift"):
            if c.out.get("flow_schedule_auto_shift") is True:
                c.drop(given, "the automatic shift takes its place, there as here")
            elif number(given.value) == 0:
                c.put(given, "flow_schedule_shift", 1.0, "0 turns it off there, 1 here", converted=True)
            else:
                c.put(given, "flow_schedule_shift", number(given.value))


def _length(c: Conversion) -> None:
    steps, epochs = (number(c.value(key)) for key in ("max_train_steps", "num_train_epochs"))
    none_given = c.value("max_train_steps") is None and c.value("num_train_epochs") is None
    for given in c.taken("max_train_steps"):
        if steps == 0:
            c.drop(given, "0 is not set: the other of the two says it")
        else:
            c.put(given, given.key, given.value)
    for given in c.taken("num_train_epochs"):
        if epochs == 0:
            c.drop(given, "0 is not set: the other of the two says it")
        elif "max_train_steps" in c.out:
            c.drop(given, "max_train_steps is given, and one of the two is enough")
        else:
            c.put(given, given.key, given.value)
    if none_given:
        c.default("num_train_epochs", 1)


def _clipping(c: Conversion) -> None:
    method = c.value("grad_clip_method")
    by_norm = method == "norm"
    for given in c.taken("grad_clip_method"):
        note = "here as there" if by_norm else "there each value is clipped, here the norm of all together"
        c.move(given, "max_grad_norm", None, note)
    for given in c.taken("max_grad_norm"):
        c.put(given, given.key, given.value, None if by_norm else "of all values together; there each was clipped")


def _precisions(c: Conversion) -> None:
    for given in c.taken(*PRECISION_KEYS):
        value, note = PRECISIONS.get(str(given.value).lower(), (given.value, None))
        c.put(given, given.key, value, note)


def _numbers(c: Conversion) -> None:
    """Numbers that mean something special there: 0 for none, -1 for random."""
    for given in c.taken("seed", "validation_seed"):
        value = number(given.value)
        if isinstance(value, int) and value <= (0 if given.key == "seed" else -1):
            c.drop(given, "another one at every start there; here every run can be repeated")
        else:
            c.put(given, given.key, given.value)
    for given in c.taken("checkpoints_total_limit", "checkpointing_limit"):
        if number(given.value) == 0:
            c.put(given, "checkpoints_total_limit", 100000, "0 keeps all there", converted=True)
        else:
            c.put(given, "checkpoints_total_limit", given.value)
    for given in c.taken("tokenizer_max_length"):
        value = number(given.value)
        if isinstance(value, int) and not 32 <= value <= 512:
            c.put(given, given.key, min(max(value, 32), 512), "T5 reads 32 to 512 tokens here")
        else:
            c.put(given, given.key, given.value)
    intervals = (
        "checkpoint_step_interval", "checkpointing_steps", "validation_step_interval", "validation_steps",
        "gradient_checkpointing_interval", "ema_update_interval",
    )  # fmt: skip
    for key in intervals:
        if number(c.value(key)) == 0:
            for given in c.taken(key):
                c.drop(given, "0 is not set")


def _validation(c: Conversion) -> None:
    disabled = truth(c.value("validation_disable")) is True
    for given in c.taken("validation_disable"):
        if disabled:
            c.move(given, None, None, "no prompts are taken over, so no sample pictures are made")
        else:
            c.drop(given, "off there, as here")
    for given in c.taken("validation_prompt", "user_prompt_library") if disabled else ():
        c.drop(given, "validation_disable turns sample pictures off")
    for given in c.taken("validation_resolution"):
        value = _sizes(given.value)
        note = None if value == given.value else "in pixels, in steps of 16"
        c.put(given, given.key, value, None if str(value) == str(given.value) else note)


def _trackers(c: Conversion) -> None:
    """report_to is a text there: "none", "all", or names between commas."""
    known: list[str] = c.schema["report_to"]["items"]["enum"]
    for given in c.taken("report_to"):
        words = str(given.value).lower().split(",") if isinstance(given.value, str) else given.value
        names = [str(word).strip() for word in words] if isinstance(words, list) else []
        wanted = known if "all" in names else [name for name in known if name in names]
        others = [name for name in names if name not in (*known, "all", "none", "")]
        if not wanted:
            c.drop(given, f"there is no {shown(', '.join(others))} here" if others else "none there, as here")
        else:
            note = f"there is no {shown(', '.join(others))} here" if others else None
            c.put(given, "report_to", wanted, note, converted=True)
    for given in c.taken("tracker_project_name"):
        name = re.sub(r"[^A-Za-z0-9_. -]+", "-", str(given.value)).lstrip("_. -")[:128]
        if name:
            c.put(given, given.key, name)
        else:
            c.drop(given, "a project's name has letters or digits")
    for given in c.taken("tracker_run_name"):
        c.put(given, given.key, str(given.value)[:128])


def _sizes(value: Any) -> Any:
    """validation_resolution in pixels with sides that are multiples of 16; values below 128 are megapixels there."""
    single = number(value)
    if isinstance(single, int | float) and not isinstance(single, bool):
        if single < 128:
            single = 1024 if int(single) <= 1 else int(single) * 1000
        return _stepped(single)
    if not isinstance(value, str) or not re.fullmatch(r"\s*\d+\s*x\s*\d+\s*(,\s*\d+\s*x\s*\d+\s*)*", value):
        return value
    pairs = ([int(side) for side in part.split("x")] for part in value.split(","))
    return ",".join("x".join(str(_stepped(side)) for side in pair) for pair in pairs)


def _stepped(side: float) -> int:
    return max(16, 16 * math.floor(side / 16 + 0.5))


def _for_data_sets(c: Conversion) -> dict[str, tuple[Any, Given]]:
    found: dict[str, tuple[Any, Given]] = {}
    in_area = str(c.value("resolution_type")) == "area"
    for given in c.taken(*FOR_DATA_SETS, *(("resolution",) if in_area else ())):
        if given.key in _LIMITS and number(given.value) == 0:
            c.drop(given, "0 is no limit")
            continue
        found[given.key] = given.value, given
        c.move(given, given.key, given.value, "in every data set that has none of its own")
    for given in c.taken("resolution"):
        value = number(given.value)
        c.put(given, given.key, round(value) if isinstance(value, float) and value >= 16 else given.value)
    return found


def _defaults(c: Conversion) -> None:
    lycoris = c.out.get("lora_type") == "lycoris"
    for key, value in DEFAULTS_THERE.items():
        if key in c.out or (lycoris and key in _OF_A_STANDARD_LORA):
            continue
        rate = c.out.get("learning_rate")
        if key == "lr_end" and isinstance(rate, int | float) and rate <= value:
            continue  # as there, a curve must go down
        if key == "learning_rate" and c.out.get("optimizer") == "prodigy":
            value = 1.0
        c.default(key, value, _WORDS.get(key))
