"""What SimpleTuner's files become, key by key."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from simpletuner_samples import CONFIGS, JUNK_CONFIGS, JUNK_SETS, QUICKSTART, QUICKSTART_DATA, SETS
from simpletuner_there import PICTURES, Result, There

from simpletune.config import simpletuner_keys as keys
from simpletune.config.aliases import CONFIG_ALIASES
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments
from simpletune.config.simpletuner import import_files
from simpletune.config.simpletuner_report import summary, text
from simpletune.config.validate import validate_files
from simpletune.errors import UsageError


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return There(tmp_path)


# --- the documented configuration


def test_the_quickstart_imports_and_validates(there):
    there.write("datasets/pseudo-camera-10k/a_wall.png", "")
    there.write("config/user_prompt_library.json", {"shortname_here": "your prompt to validate on"})
    done = there.imported({**QUICKSTART, "output_dir": str(there.root / "models")}, QUICKSTART_DATA)
    assert done.all.problems == ()
    assert done.config["model_flavour"] == "sd3.5-large"
    assert done.config["timestep_sampling"] == "uniform"
    assert done.sets[0]["resolution"] == 1024
    assert done.sets[0]["resolution_type"] == "pixel_area"
    for path, content in done.all.contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert validate_files(done.folder / "config.json") == []


def test_what_is_written_is_what_was_checked(there):
    """The problems told before writing are those that validate finds afterwards."""
    done = there.imported({"learning_rate": 1e-5, "lr_end": 1e-3, "lr_scheduler": "polynomial", "init_lora": "gone"})
    for path, content in done.all.contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert {one.message for one in done.all.problems} == {
        one.message for one in validate_files(done.folder / "config.json")
    }
    assert len(done.errors) == 2


# --- properties


def reported_once(lines, source, where):
    """Every key of the source has one line, in the order of the source."""
    told = [line.key for line in lines if line.where == where and line.key]
    return told == list(source)


@given(CONFIGS, SETS)
@settings(max_examples=50, deadline=None)
def test_valid_values_import_to_something_valid(tmp_path_factory, config, entry):
    there = There(tmp_path_factory.mktemp("st"))
    config = {"model_family": "sd3", **config}
    entry = {"id": "pics", "instance_data_dir": "pictures", **entry}
    there.write("captions.jsonl", "")
    always = {"id": "always", "instance_data_dir": "more", "caption_strategy": "filename"}
    there.write("more/two.png", "")
    done = there.imported(json.dumps(config), [entry, always])
    again = there.imported(None, None)
    assert reported_once(done.all.lines, config, "config.json")
    assert reported_once(done.all.lines, entry, "multidatabackend.json, pics")
    assert done.all.contents == again.all.contents
    assert done.all.lines == again.all.lines
    assert not [one for one in done.all.problems if "has no effect" in one.message]
    assert text(done.all.lines)
    # What is left is not about types and bounds: those would have been refused. Rules may still object.
    allowed = ("does not exist", "is not installed", "is disabled")
    assert all(one.message.endswith(allowed) for one in done.errors), done.errors


@given(JUNK_CONFIGS, JUNK_SETS)
@settings(max_examples=50, deadline=None)
def test_nothing_in_a_file_is_a_traceback(tmp_path_factory, config, sets):
    there = There(tmp_path_factory.mktemp("junk"))
    try:
        done = there.imported(config, [PICTURES, *sets])
    except UsageError:  # ConfigError too
        return
    assert reported_once(done.all.lines, ["model_family", *config], "config.json")


def _ours(schema):
    """Values of a key of ours, from its schema."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    low, high = schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum", 100)
    number = st.floats(low, min(high, low + 0.9), exclude_min="exclusiveMinimum" in schema)
    known = {
        "integer": st.integers(schema.get("minimum", 0), min(schema.get("maximum", 100), 100_000)),
        "number": number,
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return st.one_of([known[kind] for kind in kinds if kind in known] or [st.just(schema.get("default"))])


OURS = st.fixed_dictionaries(
    {"$schema": st.just("x"), "lora_target": st.sampled_from(["blocks", ["attn.to_q"]])},
    optional={
        key: _ours(schema)
        for key, schema in config_keys().items()
        if "x-path" not in schema and key not in {"$schema", "lora_target", "hf_endpoint"}
    },
)


@given(OURS)
@settings(max_examples=40, deadline=None)
def test_a_configuration_of_ours_keeps_everything(tmp_path_factory, config):
    there = There(tmp_path_factory.mktemp("ours"))
    (there.root / "config.json").write_text(json.dumps(config), encoding="utf-8")
    entry = {"id": "pics", "instance_data_dir": "pictures", "crop_style": "corner", "resolution": 1.0,
             "resolution_type": "area", "repeats": 2}  # fmt: skip
    (there.root / "multidatabackend.json").write_text(json.dumps([entry]), encoding="utf-8")
    done = Result(import_files([there.root / "config.json"], there.root / "new"), there.root / "new")
    kept = {key: value for key, value in done.config.items() if key not in {"$schema", "data_backend_config"}}
    assert kept == {key: value for key, value in config.items() if key != "$schema"}
    assert {line.action for line in done.all.lines} <= {"kept", "converted"}
    assert done.sets == [{**{key: entry[key] for key in done.sets[0]}, "instance_data_dir": "../pictures"}]
    assert set(done.sets[0]) == set(entry)


# --- single keys


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"model_flavour": "medium"}, {"model_flavour": "sd3.5-medium"}),
        ({"model_flavour": "large"}, {"model_flavour": "sd3.5-large"}),
        ({}, {"model_flavour": "sd3.5-medium"}),
        (
            {"pretrained_model_name_or_path": "stabilityai/stable-diffusion-3-medium-diffusers"},
            {"model_flavour": "sd3-medium"},
        ),
        ({"base_model_precision": "int8-torchao"}, {"base_model_precision": "int8-quanto"}),
        ({"base_model_precision": "nf4-bnb"}, {"base_model_precision": "int4-quanto"}),
        ({"base_model_precision": "fp8uz-quanto"}, {"base_model_precision": "fp8-quanto"}),
        ({"gradient_checkpointing": "false"}, {"gradient_checkpointing": False}),
        ({"use_ema": 1}, {"use_ema": True}),
        ({"learning_rate": "1e-4"}, {"learning_rate": 1e-4}),
        ({"lora_rank": 16.0}, {"lora_rank": 16}),
        ({"validation_guidance_skip_layers": "[7, 8, 9]"}, {"validation_guidance_skip_layers": [7, 8, 9]}),
        ({"checkpointing_steps": 50}, {"checkpoint_step_interval": 50}),
        ({"validation_steps": "50"}, {"validation_step_interval": 50}),
        ({"flow_use_beta_schedule": True, "flow_beta_schedule_alpha": 5},
         {"timestep_sampling": "beta", "timestep_beta_alpha": 5}),
        ({"flux_use_uniform_schedule": "true"}, {"timestep_sampling": "uniform"}),
        ({"flow_schedule_shift": 0}, {"flow_schedule_shift": 1.0}),
        ({"flow_sigmoid_scale": 0.5}, {"timestep_scale": 0.5}),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, {"lr_scheduler": "constant_with_warmup"}),
        ({"lr_scheduler": "sine"}, {"lr_scheduler": "cosine"}),
        ({"max_train_steps": 0, "num_train_epochs": 3}, {"num_train_epochs": 3}),
        ({"max_train_steps": 9, "num_train_epochs": 0}, {"max_train_steps": 9}),
        ({"max_train_steps": 9, "num_train_epochs": 3}, {"max_train_steps": 9}),
        ({"grad_clip_method": "value", "max_grad_norm": 0.1}, {"max_grad_norm": 0.1}),
        ({"optimizer": "bnb-adamw8bit-paged"}, {"optimizer": "adamw8bit",
                                                "optimizer_config": {"eps": 1e-6, "is_paged": True}}),
        ({"optimizer": "adamw_bf16"}, {"optimizer": "adamw_bf16", "optimizer_config": {"betas": [0.9, 0.999]}}),
        ({"optimizer": "torch-adamw", "optimizer_config": "eps=1e-6,amsgrad=true"},
         {"optimizer": "adamw", "optimizer_config": {"eps": 1e-6, "amsgrad": True}}),
        ({"optimizer": "torch-adamw", "optimizer_beta1": 0.8, "optimizer_beta2": 0.9},
         {"optimizer_config": {"betas": [0.8, 0.9]}}),
        ({"checkpoints_total_limit": 0}, {"checkpoints_total_limit": 100000}),
        ({"validation_resolution": 1}, {"validation_resolution": 1024}),
        ({"validation_resolution": "1000x1030"}, {"validation_resolution": "1008x1024"}),
        ({"peft_lora_target_modules": ["to_q"]}, {"lora_target": ["to_q"]}),
        ({"--seed": 1, "seed": 7}, {"seed": 7}),
    ],
)  # fmt: skip
def test_a_key_becomes(there, given, ours):
    config = there.imported(given).config
    assert {key: config.get(key) for key in ours} == ours


@pytest.mark.parametrize(
    ("given", "gone", "reason"),
    [
        ({"seed": -1}, "seed", "every run can be repeated"),
        ({"num_eval_images": 4}, "num_eval_images", "there it counts"),
        ({"resume_from_checkpoint": "checkpoint-500"}, "resume_from_checkpoint", "init_lora"),
        ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 3}, "flow_schedule_shift", "takes its place"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 500}, "lr_warmup_steps", "length of a wave"),
        ({"ema_decay": 0.9}, "ema_decay", 'no effect while "use_ema" is false'),
        ({"validation_disable": True, "validation_prompt": "a cat"}, "validation_prompt", "turns sample pictures off"),
        ({"push_checkpoints_to_hub": True}, "push_checkpoints_to_hub", "checkpoints stay here"),
        ({"checkpoint_step_interval": 7, "checkpointing_steps": 9}, "checkpointing_steps", "is set already"),
        ({"caption_dropout_probability": None}, "caption_dropout_probability", "not set"),
    ],
)
def test_a_key_is_dropped_with_a_reason(there, given, gone, reason):
    done = there.imported(given)
    assert gone not in done.config
    line = done.line(gone)
    assert (line.action, line.value) == ("dropped", None)
    assert reason in line.note


def test_defaults_there_are_written_down(there):
    done = there.imported({"optimizer": "torch-adamw", "learning_rate": 1e-4, "lr_scheduler": "polynomial"})
    added = {
        line.ours: line.value for line in done.all.lines if line.action == "default there" and "json" in line.where
    }
    assert added["lora_dropout"] == 0.1
    assert added["lora_target"] == "attention-image"
    assert added["base_model_precision"] == added["text_encoder_3_precision"] == "no_change"
    assert (added["lr_end"], added["lr_power"]) == (4e-7, 0.8)
    assert added["num_train_epochs"] == 1
    assert {key: done.config[key] for key in added if key in done.config} == {
        key: value for key, value in added.items() if key in done.config
    }


def test_defaults_without_effect_are_not_written(there):
    config = there.imported({"lr_scheduler": "constant"}).config
    assert not {"lr_end", "lr_power"} & set(config)


def test_unknown_keys_are_listed(there):
    done = there.imported({"a_key_of_tomorrow": {"x": 1}})
    assert done.line("a_key_of_tomorrow").action == "unknown"
    assert "1 unknown" in summary(done.all.lines)


# --- the tables


def test_the_tables_fit_ours():
    assert set(keys.RENAMED.values()) <= set(config_keys())
    assert all(CONFIG_ALIASES[name] == ours for name, ours in keys.RENAMED.items())
    assert set(keys.DEFAULTS_THERE) <= set(config_keys())
    assert set(keys.SET_DEFAULTS_THERE) <= set(entry_keys("image"))
    assert {one.ours for one in keys.OPTIMIZERS.values()} <= set(config_keys()["optimizer"]["enum"])
    for one in keys.OPTIMIZERS.values():
        assert set(one.arguments) <= {*optimizer_arguments(one.ours), "eps", "weight_decay"}
    assert {value for value, _ in keys.PRECISIONS.values()} <= set(config_keys()["base_model_precision"]["enum"])


def test_a_key_that_ours_has_is_not_dropped_by_mistake():
    """A key that enters the schema must leave the table of what is dropped, but for those that mean something else."""
    ours = set(config_keys()) | {"num_eval_images", "aspect_bucket_alignment"}
    assert set(keys.DROPPED) & ours == {"num_eval_images", "aspect_bucket_alignment"}
    assert not {key for key in config_keys() if key.startswith(tuple(keys.PREFIXES)) and key not in keys.DROPPED}
    assert not set(keys.DATA_DROPPED) & (set(entry_keys("image")) | set(entry_keys("text_embeds")))


# --- the document

DOCUMENT = Path(__file__).parents[2] / "docs" / "coming-from-simpletuner.md"


def rows_below(heading):
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in section.split("\n") if "`" in row[:4]]


def test_the_document_lists_every_renamed_key():
    merged = {
        "grad_clip_method": "max_grad_norm",
        **dict.fromkeys(("optimizer_beta1", "optimizer_beta2"), "optimizer_config"),
    }
    schedules = {
        f"{prefix}_use_{kind}_schedule": "timestep_sampling"
        for prefix in ("flow", "flux")
        for kind in ("beta", "uniform")
    }
    rows = sorted((f"`{name}`", f"`{ours}`") for name, ours in {**keys.RENAMED, **merged, **schedules}.items())
    rows += [(f"`{name}` (data sets)", f"`{ours}`") for name, ours in keys.DATA_RENAMED.items()]
    assert rows_below("Keys with another name") == rows


def test_the_document_lists_every_default_that_is_written_down():
    rows = [
        (f"`{key}`", f"`{json.dumps(value)}`") for key, value in {**keys.DEFAULTS_THERE, "num_train_epochs": 1}.items()
    ]
    rows += [(f"`{key}` (data sets)", f"`{json.dumps(value)}`") for key, value in keys.SET_DEFAULTS_THERE.items()]
    assert rows_below("Defaults that are written down") == rows


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("none", None),
        ("all", ["tensorboard", "wandb", "trackio"]),
        ("wandb, tensorboard", ["tensorboard", "wandb"]),
        ("comet_ml", None),
        ("wandb,comet_ml", ["wandb"]),
    ],
)
def test_trackers_are_a_list_here(there, theirs, ours):
    done = there.imported({"model_family": "sd3", "report_to": theirs, "tracker_project_name": "a/b c"})
    assert done.config.get("report_to") == ours
    assert done.config["tracker_project_name"] == "a-b c"
    said = next(line for line in done.all.lines if line.key == "report_to")
    assert ("there is no comet_ml here" in str(said.note)) == ("comet_ml" in theirs)
