"""Files and overrides become Settings, with origins, and what a run saved of them loads to the same."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpletune.config import rules_environment
from simpletune.config.check import check_config
from simpletune.config.continuing import bound_settings, changed_settings
from simpletune.config.document import Document
from simpletune.config.jsonfile import parse
from simpletune.config.load import DERIVED, load, load_for_elsewhere, recreate, resolved
from simpletune.config.schema import config_keys, defaults, entry_keys
from simpletune.config.settings import ImageSet, Settings, TextEmbeds
from simpletune.config.validate import exit_code, validate_files
from simpletune.errors import ConfigError, EnvironmentNotReady, ModelUnavailable

FIXTURE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA = [
    {"id": "a", "instance_data_dir": "pictures", "resolution": 0.25, "resolution_type": "area", "repeats": 2},
    {"id": "b", "instance_data_dir": "./pictures", "cache_dir_vae": "~/c/{id}", "text_embeds": "t"},
    {"id": "t", "dataset_type": "text_embeds", "cache_dir": "{output_dir}/text"},
    {"id": "off", "instance_data_dir": "nowhere", "disabled": True},
]


def test_defaults_follow_from_one_another(files):
    found, warnings = load(files('{"lora_rank": 8}'))
    assert warnings == []
    assert (found.lora_alpha, found.max_train_steps, found.num_train_epochs) == (8.0, 1000, None)
    assert (found.resolution, found.aspect_bucket_alignment) == (1024, 64)
    assert found.validation_resolution == ((1024, 1024),)
    assert found.pretrained_model_name_or_path == "stabilityai/stable-diffusion-3-medium-diffusers"
    assert (found.origins["lora_rank"], found.origins["seed"]) == ("config.json:1", "default")
    assert found.origins["resolution"] == "flavour sd3-medium"
    (text,) = found.text_embeds
    assert found.text_embeds_of(found.image_sets[0]) is text
    assert text.cache_dir == found.config_path.parent / "cache" / "sd3" / "text"


def test_tiny_and_epochs(files):
    found, _ = load(
        files('{"model_flavour": "tiny", "num_train_epochs": 3, "validation_resolution": "128x64, 64x128"}')
    )
    assert (found.resolution, found.aspect_bucket_alignment, found.pretrained_model_name_or_path) == (128, 16, "")
    assert (found.max_train_steps, found.num_train_epochs) == (None, 3)
    assert found.validation_resolution == ((128, 64), (64, 128))


def test_data_sets(files):
    found, _ = load(files('{"output_dir": "out"}', json.dumps(DATA)))
    here = found.config_path.parent
    first, second = found.image_sets
    assert (first.resolution, first.resolution_type, first.repeats) == (512, "pixel_area", 2)
    assert (second.resolution, second.cache_dir_vae) == (1024, Path("~/c/b").expanduser())
    assert first.instance_data_dir == second.instance_data_dir == here / "pictures"
    assert found.text_embeds == (TextEmbeds("t", True, here / "out" / "text"),)
    assert {first.text_embeds, second.text_embeds} == {"t"}


def test_overrides_are_typed_by_the_schema(files):
    overrides = ["lora_rank=4", "output_dir=5", "learning_rate=1e-5", "lora_target=[\"attn.to_q\"]", "use_ema=true",
                 "validation_prompt=a cat = a cat", "num_train_epochs=null", "optimizer_config.eps=1e-6",
                 "dataset.0.repeats=3", "revision=null"]  # fmt: skip
    found, _ = load(files('{"optimizer_config": {"weight_decay": 0}}'), overrides)
    assert (found.lora_rank, found.output_dir.name, found.learning_rate) == (4, "5", 1e-5)
    assert (found.lora_target, found.use_ema, found.revision) == (("attn.to_q",), True, None)
    assert found.validation_prompts == {"prompt": "a cat = a cat"}
    assert found.optimizer_config == {"weight_decay": 0, "eps": 1e-6}
    assert found.image_sets[0].repeats == 3
    assert found.origins["lora_rank"] == found.origins["dataset.0.repeats"] == "--set"


def test_relative_paths_of_overrides_are_meant_from_here(files, tmp_path, monkeypatch):
    path = files("{}")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    found, _ = load(path, ["output_dir=out"])
    assert found.output_dir == tmp_path / "deep" / "out"
    assert found.data_backend_config == tmp_path / "multidatabackend.json"


def test_the_environment_names_the_mirror(files, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    found, _ = load(files('{"hf_endpoint": "https://other"}'))
    assert (found.hf_endpoint, found.origins["hf_endpoint"]) == ("https://mirror", "environment HF_ENDPOINT")


def test_errors_are_raised_with_all_problems(files):
    with pytest.raises(ConfigError) as raised:
        load(files('{"seed": -1, "lora_rank": 0}'))
    assert [problem.path for problem in raised.value.problems] == ["seed", "lora_rank"]
    with pytest.raises(ModelUnavailable, match="does not exist"):
        load(files('{"pretrained_model_name_or_path": "./none"}'))
    with pytest.raises(EnvironmentNotReady, match="adamw8bit") as missing:
        load(files('{"optimizer": "adamw8bit"}'))
    assert "pip install" in missing.value.hint


def test_an_override_that_is_not_text(files):
    (problem,) = validate_files(files("{}"), ["output_dir=\udce9"])
    assert problem.message.endswith("is not UTF-8")


def test_a_folder_that_cant_be_made_says_why(files, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    (problem,) = (one for one in validate_files(files('{"output_dir": "made/output"}')) if one.path == "output_dir")
    assert (
        problem.message == f'"output_dir": "{tmp_path}/made/output" can\'t be made in "{tmp_path}": permission denied'
    )
    assert problem.hint == "let this user write there, or name another folder"


def test_local_models_become_absolute(files, tmp_path):
    found, _ = load(files('{"pretrained_model_name_or_path": "pictures"}'))
    assert found.pretrained_model_name_or_path == str(tmp_path / "pictures")
    found, _ = load(files('{"pretrained_model_name_or_path": "owner/name"}'))
    assert found.pretrained_model_name_or_path == "owner/name"


def same(one, two):
    """Equal but for where they stand, and for the folder of fetched pictures of sets that fetch none."""
    one, two = (
        replace(
            each, image_sets=tuple(s if s.streaming else replace(s, cache_dir_pictures=Path()) for s in each.image_sets)
        )
        for each in (one, two)
    )
    kept = {"config_path": Path(), "origins": {}, "data_backend_config": Path()}
    return replace(one, **kept) == replace(two, **kept)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_flavour": "tiny", "validation_prompt": "x", "validation_resolution": 64, "max_grad_norm": 0},
        {"flow_schedule_auto_shift": True, "validation_prompts_file": "prompts.json", "num_train_epochs": 2},
        {"validation_prompts_file": "prompts.json", "validation_prompt": "x", "init_lora": "model.safetensors"},
        {"pretrained_model_name_or_path": "pictures", "lora_target": ["attn.to_q"], "optimizer_config": {"eps": 1e-7}},
    ],
)
def test_what_a_run_saved_loads_to_the_same(files, tmp_path, config):
    (tmp_path / "prompts.json").write_text('{"cat": "a cat", "dog": "a dog"}', encoding="utf-8")
    found, _ = load(files(json.dumps(config), json.dumps(DATA)))
    saved = json.loads(json.dumps(resolved(found)))
    (tmp_path / "elsewhere").mkdir()
    again, _ = load(recreate(saved, tmp_path / "elsewhere"))
    assert same(found, again)
    assert saved["config"]["seed"] == {"value": 42, "origin": "default"}


ROLES = [
    {"id": "a", "instance_data_dir": "pictures", "crop": True, "crop_style": "random", "crop_variants": 3,
     "horizontal_flip": True, "mask_source": "folder", "mask_data_dir": "masks", "end_step": 600, "probability": 0.5},
    {"id": "s", "type": "s3", "s3_url": "s3://bucket/pictures", "s3_endpoint": "https://s3.example.org",
     "caption_strategy": "csv", "metadata_path": "captions.csv", "caption_column": ["a", "b"], "width_column": "w",
     "height_column": "h", "caption_filter": ["#\\w+"], "caption_shuffle_count": 2, "start_step": 5},
    {"id": "w", "type": "webdataset", "instance_data_dir": "shards", "is_regularisation_data": True,
     "regularisation_weight": 0.5},
    {"id": "h", "type": "huggingface", "dataset_name": "owner/name", "dataset_split": "test", "streaming": True,
     "caption_strategy": "huggingface", "dataset_type": "eval", "cache_dir_pictures": "fetched"},
    {"id": "l", "type": "huggingface", "dataset_name": "rows.parquet", "caption_strategy": "huggingface",
     "dataset_filter": {"artist": "monet", "style": ["a", "b"]}},
    {"id": "t", "dataset_type": "text_embeds"},
]  # fmt: skip


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(rules_environment, "is_installed", lambda _name: True)


@pytest.mark.usefixtures("everything_installed")
def test_every_kind_of_data_set_survives_a_round(files, tmp_path):
    found, warnings = load(files("{}", json.dumps(ROLES)))
    assert warnings == []
    folder, bucket, shards, hub, local = found.image_sets
    assert [one.dataset_type for one in found.image_sets] == ["image", "image", "image", "eval", "image"]
    assert (folder.mask_data_dir, folder.end_step) == (tmp_path / "masks", 600)
    assert (bucket.where, bucket.caption_column) == ("s3://bucket/pictures", ("a", "b"))
    assert (shards.where, shards.regularisation_weight) == (str(tmp_path / "shards"), 0.5)
    assert (hub.dataset_name, local.dataset_name) == ("owner/name", str(tmp_path / "rows.parquet"))
    assert hub.cache_dir_pictures == tmp_path / "fetched"
    assert found.origins["dataset.3.dataset_type"] == "multidatabackend.json:1"
    saved = json.loads(json.dumps(resolved(found)))
    (tmp_path / "elsewhere").mkdir()
    again, warnings = load(recreate(saved, tmp_path / "elsewhere"))
    assert same(found, again)
    assert warnings == []


def test_what_this_machine_lacks_changes_no_setting(files, monkeypatch):
    monkeypatch.setattr(rules_environment, "is_installed", lambda _name: False)
    bucket = {"id": "s", "type": "s3", "s3_url": "s3://bucket", "text_embeds": "gone"}
    path = files('{"optimizer": "adamw8bit"}', json.dumps([{**bucket, "text_embeds": None}]))
    found, problems = load_for_elsewhere(path)
    assert (found.optimizer, found.image_sets[0].type) == ("adamw8bit", "s3")
    assert exit_code(problems) == 3
    # The files' own mistakes are told in the same breath, and count for more.
    problems = validate_files(files("{}", json.dumps([bucket])))
    assert exit_code(problems) == 2
    assert any("s3fs" in problem.message for problem in problems)


def test_what_a_continued_run_may_change(files):
    before, _ = load(files('{"max_unreadable_share": 0.1}'))
    after, _ = load(files('{"max_unreadable_share": 0.5, "execution": "compile"}', json.dumps(DATA)))
    assert changed_settings(bound_settings(before), after) == []


def test_schemas_and_dataclasses_have_the_same_keys():
    names = {field.name for field in fields(Settings)} - set(DERIVED)
    assert set(config_keys()) == names | {"$schema", "validation_prompts_file"}
    assert set(entry_keys("image")) == {field.name for field in fields(ImageSet)} | {"disabled"}
    text = {field.name for field in fields(TextEmbeds)} | {"dataset_type", "disabled", "type"}
    assert set(entry_keys("text_embeds")) == text


def test_every_key_is_described_and_every_default_valid():
    for keys in (config_keys(), entry_keys("image"), entry_keys("text_embeds")):
        for key, schema in keys.items():
            assert schema["title"], key
            assert schema["description"].endswith("."), key
            assert "default" in schema or key in {"$schema", "id", "instance_data_dir"}, key
            numeric = {"integer", "number"} & {schema["type"]} if isinstance(schema["type"], str) else set()
            assert not numeric or {"minimum", "exclusiveMinimum"} & set(schema), key
            assert not numeric or {"maximum", "exclusiveMaximum"} & set(schema), key
    document = Document(parse(Path("x"), b"{}"), defaults(config_keys()))
    assert list(check_config(document)) == []


LEAVES = [
    None,
    True,
    -1,
    0,
    3,
    1e9,
    0.5,
    "",
    "x",
    "false",
    "12",
    [],
    [1],
    {},
    {"a": 1},
    "a/b",
    "\x00",
    "../..",
    "{id}",
    1e300,
]


@given(
    st.sampled_from(sorted(config_keys())) | st.sampled_from(["lr", "zebra", ""]),
    st.sampled_from(LEAVES),
    st.sampled_from([("instance_data_dir", "pictures"), *((key, None) for key in sorted(entry_keys("image")))]),
    st.sampled_from(LEAVES),
)  # fmt: skip
@FIXTURE
def test_any_value_anywhere_is_fine_or_a_located_problem(files, key, value, place, other):
    entry = {"id": "pics", "instance_data_dir": "pictures"}
    entry[place[0]] = place[1] or other
    path = files(json.dumps({key: value}), json.dumps([entry]))
    problems = validate_files(path)
    assert all(problem.line >= 1 for problem in problems), problems
    if not [problem for problem in problems if problem.severity == "error"]:
        load(path)


@given(st.data())
@FIXTURE
def test_any_broken_text_is_a_problem_and_no_crash(files, data):
    text = json.dumps({"seed": 1, "output_dir": "out", "lora_target": ["attn.to_q"], "optimizer_config": {"eps": 1e-8}})
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(
        st.sampled_from(["", ",", "}", "]", '"', "'", "{", "[", ":", "0", "\\", "//", "\n", "\x00", "é", "-"])
    )
    changed = text[:at] + put + text[at + cut :]
    path = files(changed)
    problems = validate_files(path)
    try:
        json.loads(changed)
    except ValueError:
        assert problems
        assert all(problem.line >= 1 for problem in problems if problem.file == "config.json")
