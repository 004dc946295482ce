"""Tokens are kept out of whatever is shown, and ordinary text is left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.redact import looks_like_token, redact

# Put together here so that no scanner takes this file for a leak.
TOKENS = [
    "hf_" + "aB3" * 11,
    "api_org_" + "aB3" * 11,
    "ghp_" + "aB3" * 12,
    "gho_" + "aB3" * 12,
    "sk-" + "aB3_-" * 8,
    "wandb_v1_" + "aB3" * 10,
    "AKIA" + "ABCD1234" * 2,
]
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "around", ["{}", "token={}", '"{}"', "https://user:{}@host/path", "a {} b {}", "{}\n", "key_{}", "-{}."]
)
def test_tokens_are_found_wherever_they_stand(token, around):
    text = around.format(token, token)
    assert looks_like_token(text)
    assert token not in redact(text)
    assert redact(text) == around.format("[redacted]", "[redacted]")


def test_a_password_in_an_address_is_found():
    assert redact("https://me:s3cret@host:9000/a@b") == "https://me:[redacted]@host:9000/a@b"
    assert redact("s3://bucket/a:b@c") == "s3://bucket/a:b@c"


@pytest.mark.parametrize("token", [TOKENS[0], TOKENS[1], TOKENS[2], TOKENS[6]])
def test_a_token_inside_a_longer_name_is_found(token):
    assert redact(f"my_{token}_old.json") == "my_[redacted]_old.json"


@pytest.mark.parametrize("name", VARIABLES)
def test_the_environments_secrets_are_redacted_whatever_their_shape(monkeypatch, name):
    monkeypatch.setenv(name, "a canary without any shape")
    assert redact("Error: a canary without any shape was refused") == "Error: [redacted] was refused"


@pytest.mark.parametrize("value", ["", "a", "true"])
def test_a_trivial_environment_value_does_not_eat_the_text(monkeypatch, value):
    monkeypatch.setenv("HF_TOKEN", value)
    assert redact("a true story") == "a true story"


@pytest.mark.parametrize(
    "text", ["", "hf_short", "half_of_it", "a style of sk-etching", "risk-averse_decision-making_in_large-scale_models",
             "/data/hf_home/hub", "AKIA", "0123456789abcdef" * 4]
)  # fmt: skip
def test_ordinary_text_stays(text):
    assert not looks_like_token(text)
    assert redact(text) == text


def test_a_secret_is_known_from_the_moment_it_is_set_until_it_is_gone(monkeypatch):
    said = "first-secret-value second-secret-value"
    assert redact(said) == said
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "first-secret-value")
    assert redact(said) == "[redacted] second-secret-value"
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "second-secret-value")  # as many variables as before
    assert redact(said) == "first-secret-value [redacted]"
    monkeypatch.delenv("SOME_SERVICE_TOKEN")
    assert redact(said) == said
    monkeypatch.setattr("os.environ", {"SOME_SERVICE_TOKEN": "first-secret-value"})  # no dictionary inside
    assert redact(said) == "[redacted] second-secret-value"


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=100))
def test_redacting_twice_changes_nothing_more(text):
    once = redact(f"{text} {TOKENS[0]} {text}")
    assert TOKENS[0] not in once
    assert redact(once) == once
