"""What SimpleTuner's data sets beyond a folder with text files become."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simpletuner_there import PICTURES, There

from simpletune.config import rules_environment
from simpletune.config.simpletuner_report import text

BUCKET = {
    "id": "data",
    "type": "aws",
    "aws_bucket_name": "pictures",
    "aws_data_prefix": "train/",
    "aws_endpoint_url": "https://storage.example.org",
    "aws_access_key_id": "example-access-key",
    "aws_secret_access_key": "example-secret-key",
    "aws_region_name": None,
    "caption_strategy": "textfile",
}
HUB = {
    "id": "hub",
    "type": "huggingface",
    "dataset_name": "owner/name",
    "split": "train[:500]",
    "revision": "main",
    "image_column": "image",
    "caption_column": "caption",
    "caption_strategy": "huggingface",
    "metadata_backend": "huggingface",
    "cache_dir": "cache/hub",
}
TABLE = {"path": "captions.parquet", "filename_column": "id", "caption_column": "cogvlm", "width_column": "w",
         "height_column": "h", "fallback_caption_column": "tags"}  # fmt: skip


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rules_environment, "is_installed", lambda _name: True)
    return There(tmp_path)


def only(there, entry, *others, **config):
    """Our entry for one of SimpleTuner's, and everything that was imported."""
    done = there.imported(config, [entry, *others])
    assert done.errors == []
    return next(one for one in done.sets if one["id"] == entry["id"]), done


def test_a_bucket(there):
    ours, done = only(there, BUCKET)
    assert ours == {
        "id": "data",
        "type": "s3",
        "s3_url": "s3://pictures/train",
        "s3_endpoint": "https://storage.example.org",
        "caption_strategy": "textfile",
    }
    assert "example-secret-key" not in text(done.all.lines)
    assert "example-access-key" not in text(done.all.lines)
    assert "AWS_SECRET_ACCESS_KEY" in done.line("aws_secret_access_key").note


def test_a_bucket_whose_folder_has_the_older_name(there):
    entry = {key: value for key, value in BUCKET.items() if key != "aws_data_prefix"}
    ours, _ = only(there, {**entry, "instance_data_dir": "old/folder"})
    assert (ours["s3_url"], "instance_data_dir" in ours) == ("s3://pictures/old/folder", False)


def test_a_data_set_of_the_hub(there):
    ours, done = only(there, HUB)
    assert ours == {
        "id": "hub",
        "type": "huggingface",
        "dataset_name": "owner/name",
        "dataset_split": "train[:500]",
        "dataset_revision": "main",
        "image_column": "image",
        "caption_strategy": "huggingface",
        "caption_column": "caption",
    }
    assert "HF_HOME" in done.line("cache_dir").note


def test_a_data_set_of_the_hub_with_an_object_of_its_own(there):
    entry = {"id": "hub", "type": "huggingface", "dataset_name": "owner/name"}
    parts = {"caption_column": ["title", "tags"], "filter_func": {"min_width": 768}}
    ours, done = only(there, {**entry, "huggingface": parts})
    assert ours["caption_column"] == ["title", "tags"]
    assert ours["caption_strategy"] == "huggingface"  # without one there, too
    assert done.line("huggingface").note == "left out: filter_func"


def test_a_data_set_in_a_folder_keeps_its_place(there):
    there.write("sets/train.parquet", "")
    ours, _ = only(there, {**HUB, "dataset_name": "sets", "revision": None})
    assert ours["dataset_name"] == "../sets"


@pytest.mark.parametrize(
    ("name", "strategy"), [("captions.parquet", "parquet"), ("captions.jsonl", "jsonl"), ("captions.csv", "csv")]
)
def test_a_table_of_captions(there, name, strategy):
    there.write(name, "")
    entry = {
        **PICTURES,
        "caption_strategy": "parquet",
        "metadata_backend": "parquet",
        "parquet": {**TABLE, "path": name},
    }
    ours, done = only(there, entry)
    assert ours["caption_strategy"] == strategy
    assert ours["metadata_path"] == f"../{name}"
    assert {key: ours[key] for key in ours if key.endswith("_column")} == {
        "filename_column": "id",
        "caption_column": "cogvlm",
        "width_column": "w",
        "height_column": "h",
    }
    note = done.line("parquet").note
    assert "left out: fallback_caption_column" in note


def test_a_table_beside_the_pictures(there):
    there.write("pictures/captions.parquet", "")
    ours, _ = only(there, {**PICTURES, "caption_strategy": "parquet", "parquet": TABLE})
    assert ours["metadata_path"] == "../pictures/captions.parquet"


def test_a_table_of_sizes_alone(there):
    there.write("captions.parquet", "")
    ours, _ = only(there, {**PICTURES, "caption_strategy": "textfile", "parquet": TABLE})
    assert (ours["caption_strategy"], ours["width_column"]) == ("textfile", "w")
    assert "caption_column" not in ours


@pytest.mark.parametrize("table", [None, {}, {"path": ""}, "captions.parquet"])
def test_captions_of_a_table_that_isnt_named(there, table):
    ours, done = only(there, {**PICTURES, "caption_strategy": "parquet", "parquet": table})
    assert ours["caption_strategy"] == "textfile"
    assert "names the table" in done.line("caption_strategy").note


def test_a_table_goes_with_the_strategy_of_the_configuration(there):
    there.write("captions.parquet", "")
    ours, _ = only(there, {**PICTURES, "parquet": TABLE}, caption_strategy="parquet")
    assert (ours["caption_strategy"], ours["caption_column"]) == ("parquet", "cogvlm")


def test_shuffled_captions(there):
    shuffle = {"enable": True, "count": 3, "seed": 1, "split_on": "period", "position_start": 2}
    ours, _ = only(there, {**PICTURES, "caption_shuffle": shuffle})
    assert (ours["caption_shuffle_count"], ours["caption_shuffle_keep"], ours["caption_separator"]) == (4, 2, ".")
    ours, _ = only(there, {**PICTURES, "caption_shuffle": {"enable": True, "include_original": False}})
    assert (ours["caption_shuffle_count"], ours["caption_shuffle_keep"]) == (1, 0)
    ours, _ = only(there, {**PICTURES, "caption_shuffle": {"enable": "false", "count": 3}})
    assert "caption_shuffle_count" not in ours


@pytest.mark.parametrize("form", ["list", "text file", "JSON file"])
def test_what_a_text_cache_removes_goes_into_its_data_sets(there, form):
    items = ["arafed ", "this .* has a", "s/this/that/", "broken("]
    there.write("filter.txt", "\n".join(items))
    there.write("filter.json", items)
    given = {"list": items, "text file": "filter.txt", "JSON file": "filter.json"}[form]
    cache = {"id": "text", "dataset_type": "text_embeds", "default": True, "caption_filter_list": given}
    other = {**cache, "id": "other", "default": False, "cache_dir": "c", "caption_filter_list": "gone.txt"}
    ours, done = only(there, PICTURES, cache, {**HUB, "text_embeds": "other"}, other)
    assert ours["caption_filter"] == ["arafed ", "this .* has a"]
    assert "caption_filter" not in done.sets[2]
    assert "2 left out" in done.line("caption_filter_list", "text").note
    assert "no such file" in done.line("caption_filter_list", "other").note


def test_what_a_set_is_for(there):
    regular = {"id": "r", "instance_data_dir": "more", "is_regularization_data": True, "probability": 0.5,
               "start_step": 1, "end_step": 500}  # fmt: skip
    there.write("more/two.png", "")
    held = {"id": "e", "instance_data_dir": "held", "dataset_type": "eval"}
    there.write("held/three.png", "")
    _, done = only(there, {**PICTURES, "probability": 1.0}, regular, held)
    first, second, third = done.sets
    assert "probability" not in first
    assert (second["is_regularisation_data"], second["probability"], second["end_step"]) == (True, 0.5, 500)
    assert "start_step" not in second  # 1 is the first step there
    assert "regularisation_weight" in done.line("is_regularization_data").note
    assert "share of its pictures" in done.line("probability", "r").note
    assert third["dataset_type"] == "eval"


def test_what_has_no_counterpart_says_what_to_do(there):
    _, done = only(there, {**PICTURES, "start_epoch": 2, "conditioning_data": "m", "vae_cache_clear_each_epoch": True})
    assert "start_step" in done.line("start_epoch").note
    assert "mask_data_dir" in done.line("conditioning_data").note
    assert "crop_variants" in done.line("vae_cache_clear_each_epoch").note


def test_a_password_in_an_address_is_not_copied(there):
    ours, done = only(there, {**BUCKET, "aws_endpoint_url": "https://me:sesame@storage.example.org"})
    assert "s3_endpoint" not in ours
    assert "sesame" not in str(done.all)
