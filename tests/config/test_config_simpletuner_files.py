"""SimpleTuner's data sets, paths and prompts, the forms its files come in, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simpletuner_there import PICTURES, TOKEN, Result, There, messages

from simpletune.config.simpletuner import import_files
from simpletune.config.simpletuner_report import text
from simpletune.errors import ConfigError, UsageError


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return There(tmp_path)


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
        ({"dataset_type": "conditioning"}, "mask_data_dir"),
        ({"dataset_type": "distillation_cache"}, "no part"),
        ({"dataset_type": "image_embeds"}, "cache_dir_vae"),
        ({"type": "aws", "aws_secret_access_key": "s3cret"}, "aws_bucket_name"),
        ({"type": "huggingface", "dataset_name": ""}, "dataset_name"),
        ({"type": "csv", "csv_file": "list.csv"}, "download the pictures"),
        ({"type": "webshart", "source": "shards"}, '"type": "webdataset"'),
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
    assert done.line("lycoris_config").action == "dropped"


LOKR = {
    "bypass_mode": True,
    "algo": "lokr",
    "multiplier": 1.0,
    "full_matrix": True,
    "linear_dim": 10000,
    "linear_alpha": 1,
    "factor": 12,
    "apply_preset": {
        "target_module": ["Attention", "FeedForward"],
        "module_algo_map": {"Attention": {"factor": 12}, "FeedForward": {"factor": 6}},
    },
}
LYCORIS = {"lora_type": "lycoris", "lycoris_config": "config/l.json", "model_flavour": "medium"}


def test_a_lycoris_is_imported_with_its_file_and_can_be_trained(there):
    there.write("config/l.json", LOKR)
    for_peft = {"lora_rank": 16, "lora_alpha": 8, "lora_dropout": 0.1, "init_lokr_norm": 1e-3, "use_dora": True}
    done = there.imported({**LYCORIS, **for_peft})
    assert done.errors == []
    assert done.config["lycoris_config"] == "lycoris_config.json"
    assert json.loads(done.all.contents[done.folder / "lycoris_config.json"]) == LOKR
    assert not {key for key in done.config if key.startswith(("lora_", "use_dora", "init_"))} - {"lora_type"}
    assert [done.line(key).action for key in for_peft] == ["dropped"] * len(for_peft)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algo": "boft"}, "isn't computed here"),
        ({"dropout": 0.1}, "dropout"),
        ({"apply_preset": "attn-mlp"}, "not a preset's name"),
        ({"apply_preset": {"target_module": ["Atention"]}}, 'did you mean "Attention"'),
    ],
)
def test_what_is_wrong_in_a_lycoris_config_is_told_when_it_is_imported(there, change, said):
    there.write("config/l.json", {**LOKR, **change})
    try:
        found = [problem.message for problem in there.imported(LYCORIS).errors]
    except ConfigError as error:
        found = [problem.message for problem in error.problems]
    assert len(found) == 1
    assert said in found[0]


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
