"""The schemas themselves: valid, closed, and read the same by both drafts that editors use."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from simpletune.config.schema import config_keys, load_schema

SAMPLES = st.dictionaries(
    st.sampled_from([*config_keys(), "zebra"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 2000),
        st.floats(-1, 2),
        st.sampled_from(["auto", "lion", "adamw", "1x1"]),
        st.fixed_dictionaries({}, optional={"eps": st.floats(0, 1), "d": st.integers(0, 3)}),
        st.lists(st.integers(0, 2)),
    ),
    max_size=4,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["a", "/", 1])},
        optional={
            "dataset_type": st.sampled_from(["image", "eval", "text_embeds", "x"]),
            "type": st.sampled_from(["local", "s3", "huggingface", "webdataset", "aws", 3]),
            "s3_url": st.sampled_from(["s3://bucket", "bucket", None]),
            "caption_column": st.sampled_from(["a", ["a", "b"], [], None, 1]),
            "instance_data_dir": st.just("p"),
            "repeats": st.integers(-1, 3),
            "cache_dir": st.just("c"),
        },
    ),
    max_size=3,
)


@pytest.mark.parametrize("name", ["config", "multidatabackend"])
def test_valid_in_both_drafts(name):
    for draft in (Draft7Validator, Draft202012Validator):
        draft.check_schema(load_schema(name))


@given(SAMPLES, ENTRIES)
@settings(max_examples=60, deadline=None)
def test_both_drafts_agree(config, entries):
    for name, value in (("config", config), ("multidatabackend", entries)):
        verdicts = {draft(load_schema(name)).is_valid(value) for draft in (Draft7Validator, Draft202012Validator)}
        assert len(verdicts) == 1


@pytest.mark.parametrize("name", ["config", "multidatabackend"])
def test_no_keyword_whose_meaning_differs(name):
    def keywords(value):
        if isinstance(value, dict):
            if "$ref" in value:
                assert set(value) == {"$ref"}  # draft-07 ignores what stands beside it
            for key, inner in value.items():
                yield key
                yield from keywords(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keywords(inner)

    found = set(keywords(json.loads(json.dumps(load_schema(name)))))
    assert not found & {
        "prefixItems",
        "unevaluatedProperties",
        "dependentRequired",
        "dependencies",
        "additionalItems",
        "contains",
    }
