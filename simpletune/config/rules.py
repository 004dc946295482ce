"""What a schema can't say of config.json: rules across keys.

A rule names the keys it reads; it is left out when one of them is wrong already. To add one, write a generator here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from simpletune.config.document import PLACEHOLDER, Keys
from simpletune.config.families import matches, module_names
from simpletune.config.problems import Problem, quoted, quoted_path
from simpletune.config.suggest import close, did_you_mean
from simpletune.config.view import View
from simpletune.disk_words import explain, why_unwritable

Rule = Callable[[View], Iterator[Problem]]
_RULES: list[tuple[tuple[str, ...], Rule]] = []

_TO_16_BITS = 'set "base_model_matmul" to "auto"'

PRECISION_KEYS = (
    "base_model_precision",
    "text_encoder_1_precision",
    "text_encoder_2_precision",
    "text_encoder_3_precision",
)


def rule(*keys: str) -> Callable[[Rule], Rule]:
    """Register a rule that reads `keys` of config.json."""

    def register(function: Rule) -> Rule:
        _RULES.append((keys, function))
        return function

    return register


def config_problems(whole: View) -> Iterator[Problem]:
    for keys, function in _RULES:
        if whole.config.fine(*keys):
            yield from function(whole)


# --- keys that exclude or need one another


@rule("max_train_steps", "num_train_epochs")
def steps_or_epochs(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["max_train_steps"] is not None and config["num_train_epochs"] is not None:
        message = '"max_train_steps" and "num_train_epochs" are both set'
        yield config.error("num_train_epochs", message, "keep one of the two; the run's length follows from it")


@rule("flow_schedule_shift", "flow_schedule_auto_shift")
def shift_or_auto(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["flow_schedule_auto_shift"] and config.given("flow_schedule_shift"):
        message = '"flow_schedule_shift" and "flow_schedule_auto_shift" exclude each other'
        yield config.error("flow_schedule_shift", message, "keep the number, or let it be chosen by picture size")


@rule("lora_init_type", "base_model_precision")
def init_on_quantized_base(whole: View) -> Iterator[Problem]:
    config = whole.config
    kind, precision = config["lora_init_type"], config["base_model_precision"]
    if kind in {"pissa", "olora"} and precision != "no_change":
        message = f'"lora_init_type" {kind} needs an unquantized base, and "base_model_precision" is {precision}'
        hint = 'set "base_model_precision" to "no_change", or "lora_init_type" to "default"'
        yield config.error("lora_init_type", message, hint)


@rule("lora_init_type", "init_lora")
def init_or_continue(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["init_lora"] is not None and config.given("lora_init_type"):
        message = '"lora_init_type" and "init_lora" exclude each other: the LoRA that is continued is the start'
        yield config.error("lora_init_type", message, "keep one of the two")


@rule("execution", "device", "mixed_precision")
def graphs_can_be_made(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["execution"] != "graph":
        return
    if config["device"] in {"cpu", "mps"}:
        message = f'"execution" graph needs an NVIDIA card, and "device" is {config["device"]}'
        yield config.error("execution", message, 'set "execution" to "auto"')
    elif config["mixed_precision"] == "fp16":
        message = (
            '"execution" graph can\'t be had with "mixed_precision" fp16, whose loss scale is set outside of graphs'
        )
        yield config.error("execution", message, 'set "mixed_precision" to "bf16", or "execution" to "auto"')


@rule("base_model_matmul", "device", "mixed_precision", "execution", "lora_target")
def eight_bit_products(whole: View) -> Iterator[Problem]:
    config = whole.config
    kind, key = config["base_model_matmul"], "base_model_matmul"
    if kind not in {"int8", "fp8"}:
        return
    if config["device"] in {"cpu", "mps"}:
        yield config.error(key, f'"{key}" {kind} needs an NVIDIA card, and "device" is {config["device"]}', _TO_16_BITS)
    elif config["mixed_precision"] != "bf16":
        message = f'"{key}" {kind} needs "mixed_precision" bf16, and it is {config["mixed_precision"]}'
        yield config.error(key, message, _TO_16_BITS)
    elif config["execution"] == "eager":
        yield config.error(key, f'"{key}" {kind} needs compiled blocks, and "execution" is eager', _TO_16_BITS)
    elif config["lora_target"] == "blocks":
        message = f'"{key}" {kind} changes nothing: with "lora_target" blocks every layer it is for has a LoRA'
        yield config.warning(key, message, _TO_16_BITS)


@rule("hub_model_id")
def hub_takes_the_name(whole: View) -> Iterator[Problem]:
    named = whole.config["hub_model_id"]
    if named is not None and any(not is_hub_name(part) for part in named.split("/")):
        message = f'"hub_model_id" {quoted(named)} is no name that the hub takes'
        hint = (
            "a name has up to 96 letters, digits, '-', '_' and '.'; none with '--' or '..', or a '.' or '-' at an end"
        )
        yield whole.config.error("hub_model_id", message, hint)


@rule("lr_scheduler", "learning_rate", "lr_end")
def end_below_start(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["lr_scheduler"] == "polynomial" and config["lr_end"] >= config["learning_rate"]:
        message = f'"lr_end" {config["lr_end"]} must be below "learning_rate" {config["learning_rate"]}'
        yield config.error(
            config.first_given("lr_end", "learning_rate"), message, 'lower "lr_end", or use "lr_scheduler" constant'
        )


@rule("lr_warmup_steps", "max_train_steps", "num_train_epochs", "lr_scheduler")
def warmup_fits(whole: View) -> Iterator[Problem]:
    config, steps = whole.config, whole.run_steps
    if steps is not None and config["lr_warmup_steps"] >= steps and config["lr_scheduler"] != "constant":
        message = f'"lr_warmup_steps" is as long as the run of {steps} steps: the learning rate is never reached'
        yield config.warning("lr_warmup_steps", message, "a tenth of the run is plenty")


@rule("validation_guidance_skip_layers", "model_flavour")
def skip_layers_exist(whole: View) -> Iterator[Problem]:
    config, count = whole.config, whole.flavour.block_count
    for index, layer in enumerate(config["validation_guidance_skip_layers"] or ()):
        if layer >= count:
            message = f'"validation_guidance_skip_layers": {whole.flavour.name} has no block {layer}'
            yield config.error(
                "validation_guidance_skip_layers", message, f"its blocks are 0 to {count - 1}", item=index
            )


@rule("validation_guidance_skip_layers_start", "validation_guidance_skip_layers_stop")
def skip_layers_start_before_stop(whole: View) -> Iterator[Problem]:
    config = whole.config
    keys = "validation_guidance_skip_layers_stop", "validation_guidance_skip_layers_start"
    stop, start = (config[key] for key in keys)
    if start >= stop:
        message = f'"{keys[0]}" {stop} must be above "{keys[1]}" {start}'
        yield config.error(config.first_given(*keys), message)


@rule("optimizer", "learning_rate")
def prodigy_rate(whole: View) -> Iterator[Problem]:
    config = whole.config
    if config["optimizer"] == "prodigy" and config["learning_rate"] < 0.1:
        message = (
            f'prodigy finds the learning rate itself; "learning_rate" {config["learning_rate"]} scales what it finds'
        )
        yield config.warning(config.first_given("learning_rate", "optimizer"), message, "set learning_rate to 1.0")


# --- LoRA targets


@rule("lora_target", "model_flavour", "pretrained_model_name_or_path")
def targets_exist(whole: View) -> Iterator[Problem]:
    """Checked for published models; another checkpoint's layers are checked when it is loaded."""
    target = whole.config["lora_target"]
    if isinstance(target, str) or whole.config["pretrained_model_name_or_path"]:
        return
    names = module_names(whole.family, whole.flavour)
    inside = f"{whole.family.block_prefix}."
    suffixes = sorted({name.split(".", 2)[2] for name in names if name.startswith(inside)})
    for index, pattern in enumerate(target):
        if not any(matches(pattern, name) for name in names):
            named = pattern in whole.family.lora_targets
            near = None if named else close(pattern, suffixes)
            hint = (
                None if near else f"its layers are {', '.join(suffixes)}, in blocks named {whole.family.block_prefix}.0"
            )
            if named:
                hint = f'{quoted(pattern)} stands alone, without the brackets: "lora_target": {quoted(pattern)}'
            message = f'"lora_target": no layer of {whole.flavour.name} matches {quoted(pattern)}{did_you_mean(near)}'
            yield whole.config.error("lora_target", message, hint, item=index)


# --- keys without effect


_ONLY_WITH: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    ("timestep_mean", "timestep_sampling", ("logit_normal",)),
    ("timestep_scale", "timestep_sampling", ("logit_normal",)),
    ("timestep_mode_scale", "timestep_sampling", ("mode",)),
    ("timestep_beta_alpha", "timestep_sampling", ("beta",)),
    ("timestep_beta_beta", "timestep_sampling", ("beta",)),
    ("timestep_logsnr_mean", "timestep_sampling", ("style_friendly",)),
    ("timestep_logsnr_scale", "timestep_sampling", ("style_friendly",)),
    ("huber_c", "loss_type", ("huber", "smooth_l1")),
    ("lr_end", "lr_scheduler", ("polynomial",)),
    ("lr_power", "lr_scheduler", ("polynomial",)),
    ("lr_num_cycles", "lr_scheduler", ("cosine_with_restarts",)),
    ("gradient_checkpointing_interval", "gradient_checkpointing", (True,)),
    ("ema_decay", "use_ema", (True,)),
    ("ema_update_interval", "use_ema", (True,)),
    ("text_encoder_3_precision", "use_t5", (True,)),
)


@rule()
def without_effect(whole: View) -> Iterator[Problem]:
    """Values equal to the default are let pass: files that spell everything out are fine."""
    config = whole.config
    for key, other, values in _ONLY_WITH:
        if differs(config, key) and config.fine(other) and config[other] not in values:
            now = quoted(config[other]).strip('"')
            yield config.useless(key, f'while "{other}" is {now}')
    if differs(config, "lr_warmup_steps") and config.fine("lr_scheduler") and config["lr_scheduler"] == "constant":
        yield config.useless("lr_warmup_steps", 'while "lr_scheduler" is constant; use constant_with_warmup')
    if config.fine("validation_guidance_skip_layers") and config["validation_guidance_skip_layers"] is None:
        for key in ("layers_start", "layers_stop", "scale"):
            if differs(config, name := f"validation_guidance_skip_{key}"):
                yield config.useless(name, 'without "validation_guidance_skip_layers"')
    if differs(config, "quantize_via") and all(config[key] == "no_change" for key in PRECISION_KEYS):
        yield config.useless("quantize_via", "while nothing is quantized")


def differs(config: Keys, key: str) -> bool:
    """Whether a key is given with another value than its default."""
    return config.given(key) and config[key] != config.schema[key].get("default")


# --- paths


@rule("model_flavour", "pretrained_model_name_or_path", "pretrained_text_encoders_path")
def model_is_there(whole: View) -> Iterator[Problem]:
    config = whole.config
    key = "pretrained_model_name_or_path"
    named = config[key]
    if not named:
        return
    path = config.resolve(key, named)
    if path.suffix.lower() in {".ckpt", ".pt", ".pth", ".bin", ".gguf"}:
        message = f'"{key}": {path.suffix} files are not read'
        yield config.error(key, message, "use a .safetensors file, a folder in diffusers layout, or a hub id")
    elif not looks_like_hub_id(named) and not exists(path):
        message = f'"{key}": {quoted_path(path)} does not exist'
        yield config.error(key, message, _model_hint(whole), kind="model")
    elif path.is_file() and config["pretrained_text_encoders_path"] is None:
        message = f'"{key}" is a single file, which holds no tokenizers'
        hint = 'name a folder that has them with "pretrained_text_encoders_path"'
        yield config.error(key, message, hint, kind="model")


def _model_hint(whole: View) -> str:
    if whole.flavour.hub_id is None:
        return f'remove it: "{whole.flavour.name}" is built in; or give a folder or a .safetensors file'
    return f'give a folder, a .safetensors file, or a hub id such as "{whole.flavour.hub_id}"'


def looks_like_hub_id(text: str) -> bool:
    """Whether a model's name is meant for the hub: owner/name, of the characters the hub allows."""
    owner, slash, name = text.partition("/")
    plain = all(part and not part.startswith((".", "~")) and _plain(part) for part in (owner, name))
    return bool(slash) and plain and not name.endswith(".safetensors")


def is_hub_name(part: str) -> bool:
    """Whether the hub takes it for the name of an owner or of a repository."""
    fits = 0 < len(part) <= 96 and part[0] not in "-." and part[-1] not in "-." and _plain(part)
    return fits and "--" not in part and ".." not in part and not part.endswith(".git")


def _plain(text: str) -> bool:
    return text.isascii() and all(character.isalnum() or character in "-_." for character in text)


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@rule()
def named_paths_exist(whole: View) -> Iterator[Problem]:
    config = whole.config
    for key in config.path_keys():
        if not config.fine(key):
            continue
        yield from path_problems(config, key)
    if config.fine("resume_from_checkpoint") and config["resume_from_checkpoint"] not in {"latest", "none"}:
        path = config.resolve("resume_from_checkpoint", config["resume_from_checkpoint"])
        if not exists(path):
            message = f'"resume_from_checkpoint": {quoted_path(path)} does not exist'
            yield config.error("resume_from_checkpoint", message, "give latest, none, or the path of a checkpoint")


def path_problems(keys: Keys, key: str) -> Iterator[Problem]:
    """What is wrong with a key that names a file or folder."""
    unknown = [name for name in PLACEHOLDER.findall(keys[key]) if name not in keys.placeholders]
    if unknown or (key == "output_dir" and "{output_dir}" in keys[key]):
        known = ", ".join(f"{{{name}}}" for name in keys.placeholders if key != "output_dir" or name != "output_dir")
        yield keys.error(key, f'"{key}": {{{(unknown or ["output_dir"])[0]}}} can\'t be filled in', f"there is {known}")
        return
    path = keys.path(key)
    kind = keys.schema[key]["x-path"]
    assert path is not None
    if path in keys.document.planned:
        return
    try:
        found, hint = _cant_be_made(path) if kind == "new folder" else (_look(path, kind), _path_hint(keys, key, path))
    except (OSError, ValueError) as error:
        found, hint = f"can't be read: {getattr(error, 'strerror', None) or error}", None
    if found:
        yield keys.error(key, f'"{key}": {quoted_path(path)} {found}', hint)


def _cant_be_made(path: Path) -> tuple[str | None, str | None]:
    """Why a folder that will be made if need be can't be, and what to do about it."""
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    if not parent.is_dir():
        return "can't be made into a folder: " + ("it is a file" if parent == path else f"{parent} is a file"), None
    if os.access(parent, os.W_OK | os.X_OK):
        return None, None
    why, remedy = explain(OSError(why_unwritable(parent), ""))
    where = "written to" if parent == path else f"made in {quoted_path(parent)}"
    return f"can't be {where}: {why}", f"{remedy}, or name another folder"


def _look(path: Path, kind: str) -> str | None:
    """What is wrong with `path` as a "file", a "folder", or either."""
    if not path.exists():
        return "does not exist"
    if kind == "folder" and not path.is_dir():
        return "is a file, not a folder"
    if kind == "file" and not path.is_file():
        return "is a folder, not a file"
    return None if os.access(path, os.R_OK) else "can't be read: no permission"


def _path_hint(keys: Keys, key: str, path: Path) -> str | None:
    if exists(path):
        return None
    if Path(keys[key]).is_absolute():
        return None
    return f"relative paths are meant from {keys.base(key)}"
