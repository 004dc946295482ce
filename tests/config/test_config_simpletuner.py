"""What SimpleTuner's files become, key by key."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from simpletuner_samples import CONFIGS, JUNK_CONFIGS, JUNK_SETS, QUICKSTART, QUICKSTART_DATA, SETS

from simpletune.config import simpletuner_keys as keys
from simpletune.config.aliases import CONFIG_ALIASES
from simpletune.config.schema import config_keys, entry_keys, optimizer_arguments
from simpletune.config.simpletuner import import_files
from simpletune.config.simpletuner_report import summary, text
from simpletune.config.validate import validate_files
from simpletune.errors import ConfigError, UsageError

PICTURES = {"id": "pics", "type": "local", "instance_data_dir": "pictures", "cache_dir_vae": "cache/vae"}
TOKEN = "hf_" + "a" * 30


class There:
    """A folder as SimpleTuner has it: config/ with both files, and a folder of pictures."""

    def __init__(self, root):
        self.root = root
        (root / "config").mkdir(exist_ok=True)
        (root / "pictures").mkdir(exist_ok=True)
        (root / "pictures" / "one.png").write_bytes(b"")

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def imported(self, config=None, data=(PICTURES,), output="ours", **options):
        """Import; the result with our config, our data sets and the lines by key at hand."""
        if config is not None:
            config = config if isinstance(config, str) else json.dumps({"model_family": "sd3", **config})
            self.write("config/config.json", config)
        if data is not None:
            self.write("config/multidatabackend.json", data if isinstance(data, str) else list(data))
        return Result(import_files([self.root], self.root / output, **options), self.root / output)


class Result:
    def __init__(self, result, folder):
        self.all, self.folder = result, folder
        self.config = json.loads(result.contents[folder / "config.json"])
        self.sets = json.loads(result.contents[folder / "multidatabackend.json"])
        self.errors = [problem for problem in result.problems if problem.severity == "error"]

    def line(self, key, where=""):
        found = [one for one in self.all.lines if one.key.lstrip("-") == key and where in one.where]
        assert len(found) == 1, (key, found)
        return found[0]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return There(tmp_path)


def messages(error):
    return "\n".join(f"{one.file}:{one.line}:{one.column} {one.message} {one.hint}" for one in error.value.problems)


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
    done = there.imported(json.dumps(config), [entry])
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
        ({"push_to_hub": True}, "push_to_hub", "upload"),
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


# --- data sets


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"resolution": 0.5, "resolution_type": "area"}, {"resolution": 768, "resolution_type": "pixel_area"}),
        ({"resolution": 1.0, "resolution_type": "area"}, {"resolution": 1024}),
        ({"resolution": 0.75, "resolution_type": "area"}, {"resolution": 896}),
        ({"resolution": 512, "resolution_type": "pixel"}, {"resolution": 512, "resolution_type": "pixel"}),
        ({"minimum_image_size": 0.25, "resolution_type": "area", "resolution": 1}, {"minimum_image_size": 500}),
        ({"minimum_image_size": 768}, {"minimum_image_size": 768}),
        ({"minimum_image_size": 0}, {"minimum_image_size": None}),
        ({"crop": "False"}, {"crop": False}),
        ({"crop": True}, {"crop_style": "random"}),
        ({"crop": True, "crop_style": "centre"}, {"crop_style": "center"}),
        ({"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [{"aspect": 1, "weight": 1.0}, 2.0]},
         {"crop_aspect": "closest", "crop_aspect_buckets": [1, 2]}),
        ({}, {"caption_strategy": "filename"}),
        ({"caption_strategy": "instance_prompt", "instance_prompt": "a cat"}, {"caption_strategy": "instanceprompt"}),
        ({"repeats": "9"}, {"repeats": 9}),
        ({"disable": True}, {"disabled": True}),
        ({"cache_dir_vae": "pictures/cache"}, {"cache_dir_vae": None}),
        ({"id": "a/b\\c"}, {"id": "a-b-c"}),
    ],
)  # fmt: skip
def test_a_data_set_becomes(there, given, ours):
    [entry] = there.imported({}, [{**PICTURES, **given}]).sets
    assert {key: entry.get(key) for key in ours} == ours


def test_defaults_of_the_configuration_go_into_its_data_sets(there):
    config = {"resolution_type": "area", "resolution": 0.25, "caption_strategy": "textfile", "minimum_image_size": 0.25}
    sets = there.imported(
        config, [PICTURES, {**PICTURES, "id": "own", "cache_dir_vae": "c", "caption_strategy": "filename"}]
    ).sets
    assert [entry["resolution"] for entry in sets] == [512, 512]
    assert [entry["caption_strategy"] for entry in sets] == ["textfile", "filename"]
    assert [entry["minimum_image_size"] for entry in sets] == [500, 500]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dataset_type": "video"}, "pictures"),
        ({"dataset_type": "conditioning"}, "no part"),
        ({"dataset_type": "image_embeds"}, "cache_dir_vae"),
        ({"type": "aws", "aws_secret_access_key": "s3cret"}, "folder"),
        ({"type": "huggingface", "dataset_name": "x/y"}, "folder"),
    ],
)
def test_entries_that_are_no_folder_of_pictures_are_left_out(there, given, reason):
    done = there.imported({}, [PICTURES, {"id": "other", **given}])
    assert [entry["id"] for entry in done.sets] == ["pics"]
    [line] = [line for line in done.all.lines if "other" in line.where]
    assert reason in line.note
    assert "s3cret" not in text(done.all.lines)


def test_text_caches(there):
    entries = [
        {**PICTURES, "text_embeds": "t/1"},
        {"id": "t/1", "dataset_type": "text_embeds", "type": "aws", "aws_bucket_name": "b", "cache_dir": "cache/vae"},
        {"id": "t2", "dataset_type": "text_embeds", "default": True, "cache_dir": ""},
    ]
    done = there.imported({}, entries)
    assert done.sets[0]["text_embeds"] == done.sets[1]["id"] == "t-1"
    assert done.sets[1]["cache_dir"] == "../cache/vae/{id}"
    assert done.sets[2] == {"id": "t2", "dataset_type": "text_embeds", "default": True}
    assert done.errors == []


# --- paths


def test_paths_mean_the_same_place(there):
    config = {"output_dir": "output/models", "init_lora": "gone/lora.safetensors"}
    inside = there.imported(config, output="deep/ours")
    assert inside.config["output_dir"] == "../../output/models"
    assert inside.sets[0]["instance_data_dir"] == "../../pictures"
    assert inside.line("init_lora").note == "which does not exist"
    outside = there.imported(config, output=there.root.parent / "elsewhere")
    assert outside.config["output_dir"] == str(there.root / "output" / "models")
    assert outside.sets[0]["instance_data_dir"] == str(there.root / "pictures")


def test_the_root_can_be_said(there):
    other = there.root / "other root"
    (other / "pictures").mkdir(parents=True)
    done = there.imported({}, root=other, output=there.root.parent / "elsewhere")
    assert done.sets[0]["instance_data_dir"] == str(other / "pictures")
    assert done.all.root == other


def test_the_root_is_what_holds_config(there):
    there.write(
        "config/mine/config.json", {"model_family": "sd3", "data_backend_config": "config/multidatabackend.json"}
    )
    there.write("config/multidatabackend.json", [PICTURES])
    done = import_files([there.root / "config" / "mine"], there.root / "ours")
    assert done.root == there.root
    assert done.sources[1] == there.root / "config" / "multidatabackend.json"


def test_templates_and_variables_in_paths(there, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(there.root / "pictures"))
    monkeypatch.setenv("SECRET_ROOT", TOKEN)
    entry = {**PICTURES, "instance_data_dir": "{env:DATA_ROOT}", "cache_dir_vae": "{output_dir}/cache/{id}"}
    secret = {**PICTURES, "id": "secret", "instance_data_dir": "{env:SECRET_ROOT}/x", "cache_dir_vae": "c/{id}"}
    done = there.imported({"output_dir": "out/{model_family}"}, [entry, secret])
    assert done.sets[0]["instance_data_dir"] == str(there.root / "pictures")
    assert done.sets[0]["cache_dir_vae"] == "{output_dir}/cache/{id}"
    assert done.config["output_dir"] == "../out/{model_family}"
    assert TOKEN not in str(done.all.contents)


def test_a_folder_with_checkpoints_of_simpletuner_is_not_trained_into(there):
    (there.root / "output" / "checkpoint-500").mkdir(parents=True)
    assert there.imported({"output_dir": "output"}).config["output_dir"] == "../output-simpletune"


def test_a_local_model_and_a_hub_id(there):
    (there.root / "models" / "mine").mkdir(parents=True)
    local = there.imported({"pretrained_model_name_or_path": "models/mine"}).config
    assert local["pretrained_model_name_or_path"] == "../models/mine"
    hub = there.imported({"pretrained_model_name_or_path": "me/stable-diffusion-3.5-large-mine"}).config
    assert hub["pretrained_model_name_or_path"] == "me/stable-diffusion-3.5-large-mine"
    assert hub["model_flavour"] == "sd3.5-large"


# --- prompts


def test_prompts_come_along_under_plain_names(there):
    there.write(
        "config/prompts.json", {"a/b": "one 🐈", "a-b": "two", "prompt": "three", "bad": 5, "obj": {"prompt": "x"}}
    )
    done = there.imported({"user_prompt_library": "config/prompts.json", "validation_prompt": "main"})
    prompts = json.loads(done.all.contents[done.folder / "validation_prompts.json"])
    assert prompts == {"a-b": "one 🐈", "a-b-2": "two", "prompt-2": "three", "obj": "x"}
    assert done.line("bad", "prompts.json").action == "dropped"
    assert done.config["validation_prompts_file"] == "validation_prompts.json"
    assert done.errors == []


def test_all_three_files_can_be_named(there):
    config = there.write("one/mine.json", {"model_family": "sd3", "data_backend_config": "config/gone.json"})
    data = there.write("two/sets.json", [{**PICTURES, "instance_data_dir": str(there.root / "pictures")}])
    prompts = there.write("three/some.json", {"cat": "a cat"})
    done = Result(import_files([prompts, data, config], there.root / "ours"), there.root / "ours")
    assert done.all.sources == (config, data, prompts)
    assert json.loads(done.all.contents[done.folder / "validation_prompts.json"]) == {"cat": "a cat"}
    assert done.errors == []


def test_a_missing_prompt_library_is_told(there):
    done = there.imported({"user_prompt_library": "config/gone.json"})
    assert "there is no file" in done.line("user_prompt_library").note
    assert "validation_prompts_file" not in done.config


# --- other forms of the files


def test_the_wrapper_of_the_web_interface(there):
    config = {"_metadata": {"name": "x"}, "config": {"--model_family": "sd3", "--lora_rank": "a lot"}}
    data = {"_metadata": {"name": "x"}, "datasets": [{**PICTURES, "crop": "maybe"}]}
    with pytest.raises(ConfigError) as error:
        there.imported(json.dumps(config, indent=1), json.dumps(data, indent=1))
    assert "config.json:7:18 " in messages(error)
    assert "multidatabackend.json:11:12 " in messages(error)
    config["config"]["--lora_rank"], data["datasets"][0]["crop"] = 8, "true"
    assert there.imported(json.dumps(config), json.dumps(data)).config["lora_rank"] == 8


def test_toml(there):
    pytest.importorskip("tomllib")
    there.write("config/multidatabackend.json", [PICTURES])
    there.write("config/config.toml", 'model_family = "sd3"\n"--lora_rank" = 8\nuse_ema = true\n')
    done = Result(import_files([there.root], there.root / "ours"), there.root / "ours")
    assert (done.config["lora_rank"], done.config["use_ema"]) == (8, True)
    there.write("config/config.toml", 'model_family = "sd3"\nlora_rank = -1\n')
    with pytest.raises(ConfigError) as error:
        import_files([there.root], there.root / "ours")
    assert "config.toml:2:1 " in messages(error)
    there.write("config/config.toml", 'model_family = "sd3"\nlearning_rate = nan\nseed = 1979-05-27\n')
    with pytest.raises(ConfigError) as error:
        import_files([there.root], there.root / "ours")
    assert [one.line for one in error.value.problems] == [2, 3]


def test_the_old_variables(there):
    env = """# config.env
export MODEL_TYPE='lora'
export STABLE_DIFFUSION_3=true
export FLUX=false
export MODEL_NAME="stabilityai/stable-diffusion-3-medium-diffusers"   # a comment
export RESOLUTION=1024
export VALIDATION_RESOLUTION=$RESOLUTION
export DATALOADER_CONFIG="config/multidatabackend.json"
export MAX_NUM_STEPS=300
export NUM_EPOCHS=0
export LR_SCHEDULE="polynomial"
export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto"
export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --lora_rank 32 --use_ema"
export WANDB_API_KEY=verysecretvalue
"""
    there.write("config/config.env", env)
    there.write("config/multidatabackend.json", [PICTURES])
    done = Result(import_files([there.root], there.root / "ours"), there.root / "ours")
    wanted = {"model_flavour": "sd3-medium", "validation_resolution": 1024, "max_train_steps": 300, "lora_rank": 32,
              "base_model_precision": "int8-quanto", "use_ema": True, "lr_scheduler": "polynomial"}  # fmt: skip
    assert {key: done.config[key] for key in wanted} == wanted
    assert "verysecretvalue" not in text(done.all.lines) + str(done.all.contents)


def test_comments_and_trailing_commas_are_warnings(there):
    config = '\ufeff{\n  // mine 🐈\n  "model_family": "sd3",\n  "lora_rank": 8,\n}\n'
    done = there.imported(config, '[{"id": "p", "instance_data_dir": "pictures",}]')
    assert done.config["lora_rank"] == 8
    places = [(one.line, one.column, one.severity) for one in done.all.problems if "config" in one.file]
    assert places == [(2, 3, "warning"), (4, 17, "warning"), (1, 45, "warning")]


# --- refusals


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_family": "flux"}, '"flux" is a family of SimpleTuner'),
        ({"--model_family": "a_family_of_2031"}, '"a_family_of_2031" is a family that is not known here'),
        ({"model_type": "full"}, '"model_type" "full"'),
        ({"controlnet": True}, "ControlNets"),
        ({"lora_type": "LyCORIS"}, "--lora-type standard"),
        ({"model_family": None}, "not supported"),
    ],
)
def test_other_kinds_of_training_are_refused_by_name(there, given, said):
    with pytest.raises(ConfigError) as error:
        there.imported(json.dumps({"model_family": "sd3", **given} if "--model_family" not in given else given))
    assert said in messages(error)
    assert error.value.problems[0].line == 1


def test_a_file_that_does_not_say_what_model_it_is_for(there):
    with pytest.raises(ConfigError) as error:
        there.imported('{"lora_rank": 8}')
    assert 'has no "model_family"' in messages(error)


def test_lycoris_becomes_standard_only_on_request(there):
    done = there.imported({"lora_type": "lycoris", "lycoris_config": "config/l.json"}, lora_type="standard")
    assert done.config["lora_type"] == "standard"
    assert done.line("lora_type").note == "--lora-type says so"


def test_placeholders_have_their_exact_place(there):
    data = (
        '[\n  {\n    "id": "x",\n    "instance_data_dir": "pictures",\n    "crop_style": "random|center|corner"\n  }\n]'
    )
    with pytest.raises(ConfigError) as error:
        there.imported('{\n  "model_family": "sd3",\n  "model_flavour": "sd3.5-medium|sd3.5-large"\n}', data)
    assert "config.json:3:20 " in messages(error)
    assert "multidatabackend.json:5:19 " in messages(error)
    assert "choose one of center, random, corner" in messages(error)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["config/multidatabackend.json"], "is no configuration"),
        (["config/config.json", "other/config.json"], "are two configurations"),
        (["pictures"], "there is no config.json"),
    ],
)
def test_what_is_named_must_be_a_configuration(there, paths, said):
    there.write("config/config.json", {"model_family": "sd3"})
    there.write("other/config.json", {"model_family": "sd3"})
    there.write("config/multidatabackend.json", [PICTURES])
    with pytest.raises(UsageError, match=said):
        import_files([there.root / path for path in paths], there.root / "ours")


def test_a_missing_data_file_says_how_to_name_it(there):
    with pytest.raises(UsageError, match=r"gone\.json.* does not exist") as error:
        there.imported({"data_backend_config": "config/gone.json"}, None)
    assert "--root" in error.value.hint


# --- secrets


def test_tokens_are_neither_copied_nor_shown(there):
    config = {"validation_prompt": f"a {TOKEN}", "hub_token": TOKEN, TOKEN: 1, "webhook_config": {"url": TOKEN},
              "optimizer_config": f"eps={TOKEN}"}  # fmt: skip
    done = there.imported(config, [{**PICTURES, "instance_prompt": TOKEN, "aws_session_token": TOKEN}])
    shown = text(done.all.lines) + json.dumps([line.as_json() for line in done.all.lines])
    assert TOKEN not in shown + str(done.all.contents) + str(done.all.problems)
    assert "access token" in done.line("validation_prompt").note


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
