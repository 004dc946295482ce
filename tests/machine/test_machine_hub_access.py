"""Whether the hub gives a model: asked of a real server on the loopback interface."""

import os
import subprocess
import sys
import threading
import time

import pytest
from hub_server import COMMIT, PARTS, make_model, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.machine import hub_access
from simpletune.machine.hub_access import host_of
from simpletune.machine.model_folder import lacking_parts

REPO = "owner/model"
TOKEN = "hf_" + "Q" * 30


def check_access(*arguments, timeout=30, **keys):
    """With more time for an answer than a person is made to wait: other work may run beside the tests."""
    return hub_access.check_access(*arguments, timeout=timeout, **keys)


@pytest.fixture
def hub(tmp_path):
    with serve(make_model(tmp_path / "served")) as server:
        yield server


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """No login, no cache and no mirror but those a test makes; the hub may be asked."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_open_model_is_given(hub):
    access = check_access(REPO, hub.endpoint, gated=False)
    assert (access.reachable, access.available, access.licence, access.has_token) == (True, True, "not needed", False)
    assert (access.cached, access.next_step, access.endpoint) == (False, None, hub.endpoint)
    assert [path.split("/")[-1] for path in hub.asked] == ["model_index.json"]
    assert hub.served == []  # only its head was asked for


def test_a_licence_that_was_accepted(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)  # a login goes to no other mirror
    hub.accepted = {TOKEN}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    access = check_access(REPO, hub.endpoint, gated=True)
    assert (access.available, access.licence, access.has_token, access.next_step) == (True, "accepted", True, None)


def test_a_licence_without_a_login(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    hub.accepted = set()
    access = check_access(REPO, hub.endpoint, gated=True)
    assert (access.reachable, access.available, access.licence, access.has_token) == (True, False, "needed", False)
    assert f"https://huggingface.co/{REPO}" in access.next_step
    assert "hf auth login" in access.next_step


def test_a_licence_that_was_not_accepted_names_its_page_and_no_login(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    hub.accepted = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    access = check_access(REPO, hub.endpoint, gated=True)
    assert (access.licence, access.has_token) == ("needed", True)
    assert f"https://huggingface.co/{REPO}" in access.next_step
    assert "hf auth login" not in access.next_step
    assert TOKEN not in repr(access)


def test_a_licence_nobody_knew_of(hub):
    hub.accepted = set()
    assert check_access(REPO, hub.endpoint, gated=False).licence == "needed"


@pytest.mark.parametrize(
    ("status", "code", "said", "message", "step"),
    [
        (403, "GatedRepo", "Your request to access model owner/model is awaiting a review", "not yet answered", "wait"),
        (401, "", "Invalid credentials in Authorization header", "doesn't accept the token", "hf auth login"),
        (403, "", "Please enable access to public gated repositories", "may not read", "token's settings"),
        (503, "", "maintenance", "503 maintenance", "later"),
        (429, "", "", "429", "later"),
    ],
)
def test_refusals(hub, monkeypatch, status, code, said, message, step):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.refusal, hub.refusal_message = (status, code), said
    access = check_access(REPO, hub.endpoint, gated=False)
    assert (access.reachable, access.available) == (True, False)
    assert message in access.message
    assert step in access.next_step
    assert TOKEN not in repr(access)


def test_a_token_in_what_the_server_says_is_not_repeated(hub):
    hub.refusal, hub.refusal_message = (500, ""), f"token {TOKEN} is odd"
    assert TOKEN not in repr(check_access(REPO, hub.endpoint, gated=False))


@pytest.mark.parametrize(
    ("repo", "revision", "gated", "message"),
    [
        ("owner/other", None, False, "no model owner/other"),
        ("owner/other", None, True, "behind a licence"),
        ("owner/model", "no-branch", False, "no such revision"),
        ("/some/path/model", None, False, "no name of a model"),
    ],
)
def test_what_the_hub_does_not_have(hub, repo, revision, gated, message):
    access = check_access(repo, hub.endpoint, gated, revision=revision)
    assert message in access.message
    assert access.next_step
    assert not access.available


def test_a_repository_in_another_layout(hub):
    (hub.folder / "model_index.json").unlink()
    access = check_access(REPO, hub.endpoint, gated=False)
    assert "diffusers layout" in access.message
    assert not access.available


def test_hf_endpoint_wins_over_the_config_s_mirror(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
    assert check_access(REPO, "http://127.0.0.1:1", gated=False).available


def test_a_closed_port(monkeypatch):
    access = check_access(REPO, "http://someone:secret@127.0.0.1:1/models", gated=True)
    assert (access.reachable, access.licence, access.endpoint) == (False, "unknown", "http://127.0.0.1:1")
    assert "secret" not in repr(access)
    assert "hf_endpoint" in access.next_step


def test_a_server_that_never_answers_is_left_in_time(hub):
    hub.silence = threading.Event()
    start = time.monotonic()
    access = check_access(REPO, hub.endpoint, gated=True, timeout=0.5)
    assert time.monotonic() - start < 20
    hub.silence.set()
    assert (access.reachable, access.available) == (False, False)
    assert access.next_step


def test_offline_asks_nobody(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    access = check_access(REPO, hub.endpoint, gated=True)
    assert hub.asked == []
    assert "HF_HUB_OFFLINE" in access.message
    assert not access.available


def test_a_model_that_was_downloaded_needs_no_hub(hub, account, monkeypatch):
    from huggingface_hub import constants, snapshot_download

    snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=str(account), token=False)
    assert check_access(REPO, hub.endpoint, gated=False).cached
    assert check_access(REPO, hub.endpoint, gated=False, revision=COMMIT).cached
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    access = check_access(REPO, "http://127.0.0.1:1", gated=True)
    assert (access.cached, access.available, access.reachable, access.next_step) == (True, True, False, None)
    assert "on this machine" in access.message


@pytest.mark.parametrize("lost", [f"{part}/{name}" for part, names in PARTS.items() for name in names])
def test_a_model_that_lacks_a_file_is_not_complete(tmp_path, lost):
    folder = make_model(tmp_path / "model")
    assert lacking_parts(folder) == []
    (folder / lost).unlink()
    part = lost.split("/")[0]
    assert lacking_parts(folder) == [part]
    assert lacking_parts(folder, use_t5=False) == ([] if part.endswith("_3") else [part])


def test_a_folder_that_is_no_model(tmp_path):
    assert len(lacking_parts(tmp_path)) == 9
    folder = make_model(tmp_path / "model")
    (folder / "text_encoder_3" / "model.safetensors.index.json").write_text("[")
    assert lacking_parts(folder) == ["text_encoder_3"]


@given(st.text(max_size=30), st.text(max_size=60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_is_ever_raised(repo, endpoint, gated):
    access = check_access(repo, "http://127.0.0.1:1/" + endpoint, gated, timeout=2)
    assert not access.available
    assert access.message.isprintable()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pass@mirror.example:8443/models?token=x", "https://mirror.example:8443"),
        ("http://[bad", "an address that can't be read"),
        ("mirror.example", "mirror.example"),
    ],
)
def test_an_address_is_shown_without_what_it_may_hide(address, shown):
    assert host_of(address) == shown


def test_the_library_is_imported_only_when_asked():
    code = "import sys, simpletune.machine.hub_access; print('huggingface_hub' in sys.modules)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "False"
    assert hub_access.HUB.startswith("https://")
