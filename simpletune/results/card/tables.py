"""The tables of a card: how the adapter was trained, on what, how it was looked at, with which versions.

Of the pictures only figures are told: no name, no caption, no folder, and data sets go by number.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from simpletune import files
from simpletune.results.card.facts import Facts
from simpletune.results.card.text import counted, number, plain, table
from simpletune.results.charts import duration
from simpletune.results.diffusers_code import is_lycoris
from simpletune.results.report.run import Picture

_MOST_BUCKETS = 8
_CAPTIONS = {
    "textfile": "text files beside the pictures",
    "filename": "the files' names",
    "instanceprompt": "the instance prompt alone",
    "csv": "a table",
    "jsonl": "a table",
    "parquet": "a table",
    "huggingface": "a column of the data set",
}
_PLACES = {"local": "a folder", "webdataset": "tar shards", "s3": "a bucket", "huggingface": "a data set of the hub"}


def training(facts: Facts) -> str:
    rows = [
        ("Steps", f"{facts.adapter.steps:,}" if facts.adapter.steps is not None else "unknown"),
        ("Batch size", _batch(facts)),
        ("Learning rate", _rate(facts)),
        ("Optimizer", _optimizer(facts)),
        ("Gradient norm, at most", number(facts.value("max_grad_norm", 1.0))),
        ("Precision", _precision(facts)),
        ("Noise levels", _noise(facts)),
        ("Loss", _loss(facts)),
        ("Captions left out", f"{100 * facts.value('caption_dropout_probability', 0.0):g}% of the time"),
        ("Tokens of a caption read by T5", _tokens(facts)),
        ("Averaged weights", _averaged(facts)),
        ("Seed", str(facts.value("seed", "unknown"))),
        ("Trained on", _device(facts)),
    ]
    return table(("setting", "value"), rows)


def lora(facts: Facts) -> str:
    target = facts.value("lora_target", "attention")
    adapter = facts.adapter
    if is_lycoris(facts.run):
        return _lycoris(facts)
    rows = [
        ("Kind", adapter.kind),
        ("Rank", str(facts.value("lora_rank", adapter.rank))),
        ("Alpha", number(facts.value("lora_alpha", adapter.rank))),
        ("Scale", "by the square root of the rank (rsLoRA)" if facts.value("use_rslora") else "alpha / rank"),
        ("Dropout", number(facts.value("lora_dropout", 0.0))),
        ("Started from", _start(facts)),
        ("Trained layers", f"{plain(target if isinstance(target, str) else ', '.join(target))}: {adapter.layers}"),
        ("Trained parameters", f"{adapter.parameters:,}"),
        ("File", f"`{adapter.path.name}`, {_bytes(adapter.size_bytes)}, diffusers layout, the scale is folded in"),
        ("SHA-256", f"`{files.sha256(adapter.path)}`"),
    ]
    return table(("setting", "value"), rows)


def _lycoris(facts: Facts) -> str:
    """What a LyCORIS config says: the algorithms and sizes, and where they differ."""
    adapter, config = facts.adapter, facts.value("lycoris_config") or {}
    preset = config.get("apply_preset") or {}
    targets = [*preset.get("target_module", []), *preset.get("target_name", [])]
    differing = {**preset.get("module_algo_map", {}), **preset.get("name_algo_map", {})}
    trained = dict.fromkeys(map(str, [*targets, *differing]))
    rows = [
        ("Kind", f"{adapter.kind} (LyCORIS)"),
        ("Algorithm", plain(str(config.get("algo", "lora")))),
        ("Rank", str(config.get("linear_dim", 4))),
        ("Alpha", number(config.get("linear_alpha", 1))),
        ("Factor", str(config.get("factor", -1))),
        ("Multiplier", number(config.get("multiplier", 1.0))),
        ("Trained layers", f"{plain(', '.join(trained) or 'all')}: {adapter.layers}"),
        *(
            (f"Of {plain(name)}", plain(", ".join(f"{key} {value}" for key, value in entry.items())))
            for name, entry in differing.items()
        ),
        ("Trained parameters", f"{adapter.parameters:,}"),
        ("File", f"`{adapter.path.name}`, {_bytes(adapter.size_bytes)}, LyCORIS layout, the scale is folded in"),
        ("SHA-256", f"`{files.sha256(adapter.path)}`"),
    ]
    return table(("setting", "value"), rows)


def data(facts: Facts) -> str:
    """The data sets, then what shapes the pictures were trained in, then their captions."""
    run = facts.run
    numbers = {str(one["id"].value): index for index, one in enumerate(run.data_sets, start=1) if "id" in one}
    trained, held_out = Counter(p.data_set for p in run.trained), Counter(p.data_set for p in run.held_out)
    rows = [
        (
            str(numbers.get(name, "?")),
            str(role.get("role", "training")),
            f"{trained[name]:,}",
            f"{held_out[name]:,}",
            _of_set(run.data_sets, name),
            f"{1 + int(role.get('repeats') or 0)}",
        )
        for name, role in run.roles.items()
    ]
    head = ("set", "role", "trained on", "held out", "pictures and captions from", "seen an epoch")
    return "\n\n".join([table(head, rows), *_shapes(run.trained), *_captions(run.trained)])


def validation(facts: Facts) -> str:
    layers = facts.value("validation_guidance_skip_layers")
    sizes = str(facts.value("validation_resolution", "")).replace(",", ", ")
    negative = facts.value("validation_negative_prompt", "")
    rows = [
        ("Prompts", f"{len(facts.prompts):,}"),
        ("Pictures of each", str(facts.value("num_validation_images", 1))),
        ("Sizes", plain(sizes) or "the training resolution"),
        ("Sampling steps", str(facts.value("validation_num_inference_steps", "unknown"))),
        ("Guidance", number(facts.value("validation_guidance", 0.0))),
        ("Negative prompt", plain(str(negative)) if negative else "none"),
        ("Skip-layer guidance", f"layers {', '.join(map(str, layers))}" if layers else "none"),
        ("First seed", str(facts.value("validation_seed", "unknown"))),
        ("Every", counted(int(facts.value("validation_step_interval", 0)), "step")),
    ]
    return table(("setting", "value"), rows)


def versions(facts: Facts) -> str:
    base = facts.base
    commit = f", commit {base.commit}" if base.commit is not None else ""
    rows = [("base model", plain(base.name) + plain(commit))]
    found = facts.run.facts.get("versions")
    rows += [(plain(str(name)), plain(str(value))) for name, value in (found or {}).items()]
    return table(("what", "version"), rows)


def _batch(facts: Facts) -> str:
    batch, accumulated = facts.value("train_batch_size", 1), facts.value("gradient_accumulation_steps", 1)
    return f"{batch} x {accumulated} accumulated" if accumulated > 1 else str(batch)


def _rate(facts: Facts) -> str:
    warmup = facts.value("lr_warmup_steps", 0)
    after = f", after a warm-up of {counted(warmup, 'step')}" if warmup else ""
    return f"{number(facts.value('learning_rate', 0.0))}, {plain(str(facts.value('lr_scheduler', 'constant')))}{after}"


def _optimizer(facts: Facts) -> str:
    arguments = facts.value("optimizer_config", {})
    given = ", ".join(f"{name} {value}" for name, value in arguments.items())
    return plain(f"{facts.value('optimizer', 'adamw')} ({given})" if given else str(facts.value("optimizer", "adamw")))


def _precision(facts: Facts) -> str:
    base, computed = facts.value("base_model_precision", "no_change"), facts.value("mixed_precision", "bf16")
    text = "32 bits" if computed == "no" else computed
    return f"base {'unquantized' if base == 'no_change' else plain(base)}, computed in {text}"


def _noise(facts: Facts) -> str:
    kind = facts.value("timestep_sampling", "logit_normal")
    shift = facts.value("flow_schedule_shift")
    of_kind = {
        "logit_normal": ("timestep_mean", "timestep_scale"),
        "mode": ("timestep_mode_scale",),
        "beta": ("timestep_beta_alpha", "timestep_beta_beta"),
        "style_friendly": ("timestep_logsnr_mean", "timestep_logsnr_scale"),
    }.get(kind, ())
    values = ", ".join(number(facts.value(key, 0.0)) for key in of_kind)
    shifted = f"shift {number(shift)}" if shift is not None else "shifted by the picture's size"
    return f"{plain(kind)}{f' ({values})' if values else ''}, {shifted}"


def _loss(facts: Facts) -> str:
    kind = facts.value("loss_type", "l2")
    return "velocity, " + (plain(kind) if kind == "l2" else f"{plain(kind)} ({number(facts.value('huber_c', 0.1))})")


def _tokens(facts: Facts) -> str:
    if not facts.value("use_t5", True):
        return "trained without T5"
    return str(facts.value("tokenizer_max_length", "unknown"))


def _averaged(facts: Facts) -> str:
    return f"in `ema/`, decay {number(facts.value('ema_decay', 0.0))}" if facts.averaged else "none"


def _device(facts: Facts) -> str:
    device, seconds = plain(str(facts.run.facts.get("device") or "unknown")), facts.run.seconds_in_steps
    return f"{device}, {duration(seconds)} of steps" if seconds else device


def _start(facts: Facts) -> str:
    return "another LoRA" if facts.value("init_lora") else plain(str(facts.value("lora_init_type", "default")))


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _of_set(data_sets: tuple[Mapping[str, Any], ...], name: str) -> str:
    """Where pictures and captions of a set come from, in words that name no place."""
    found = next((one for one in data_sets if "id" in one and one["id"].value == name), {})
    values = {key: setting.value for key, setting in found.items()}
    place = _PLACES.get(str(values.get("type")), "elsewhere")
    captions = _CAPTIONS.get(str(values.get("caption_strategy")), "elsewhere")
    prepended = ", after the instance prompt" if values.get("prepend_instance_prompt") else ""
    if values.get("only_instance_prompt"):
        captions, prepended = _CAPTIONS["instanceprompt"], ""
    return f"{place}; {captions}{prepended}"


def _shapes(pictures: tuple[Picture, ...]) -> list[str]:
    buckets = Counter(picture.bucket for picture in pictures).most_common()
    if not buckets:
        return []
    rows = [(f"{width} x {height}", f"{count:,}") for (width, height), count in buckets[:_MOST_BUCKETS]]
    if len(buckets) > _MOST_BUCKETS:
        rest = buckets[_MOST_BUCKETS:]
        rows.append((counted(len(rest), "other shape"), f"{sum(count for _, count in rest):,}"))
    return [table(("trained in", "pictures"), rows)]


def _captions(pictures: tuple[Picture, ...]) -> list[str]:
    captions = [caption for picture in pictures for caption in picture.captions]
    if not captions:
        return []
    words = statistics.median(len(caption.split()) for caption in captions)
    different = len(set(captions))
    return [
        f"{counted(len(captions), 'caption')}, {different:,} of them different, "
        f"{counted(round(words), 'word')} in the median."
    ]
