"""Who gets the hub's login: the hub, and what HF_ENDPOINT names; never a mirror that a file names."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from loopback import running

from simpletune.errors import EnvironmentNotReady, ModelUnavailable
from simpletune.machine.hub_access import check_access, gets_login, token_for

TOKEN = "hf_" + "CanaryAb12" * 4


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[SimpleNamespace]:
    """An address that keeps the login of everybody who asks, and gives nothing."""
    got: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("authorization"))
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("content-length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with running(Handler) as server:
        yield SimpleNamespace(address=server.address, got=got)


@pytest.mark.parametrize(
    ("address", "named", "sent"),
    [
        (None, None, True),
        ("https://huggingface.co", None, True),
        ("https://huggingface.co/", "https://mirror.example", True),
        ("https://mirror.example", "https://mirror.example/", True),
        ("https://mirror.example", None, False),
        ("http://huggingface.co", None, False),
        ("https://huggingface.co.evil.example", None, False),
        ("https://huggingface.co@evil.example", None, False),
        ("https://evil.example/huggingface.co", None, False),
        ("https://mirror.example/deeper", "https://mirror.example", False),
    ],
)
def test_who_is_trusted(monkeypatch, address, named, sent):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if named:
        monkeypatch.setenv("HF_ENDPOINT", named)
    assert gets_login(address) is sent
    assert token_for(address) is (None if sent else False)


def asks(address: str) -> None:
    """Everything that asks the hub for something, where a file named `address`."""
    from simpletune.models import hub

    check_access("owner/model", address, True)
    with pytest.raises(ModelUnavailable):
        hub.fetch(hub.Asked("owner/model", endpoint=address), ["*.json"], None)


def test_a_mirror_of_a_file_gets_no_login(mirror, tally):
    asks(mirror.address)
    assert mirror.got
    assert set(mirror.got) == {None}
    said = check_access("owner/model", mirror.address, True)
    assert "isn't sent to http://127.0.0.1" in said.message
    assert "HF_ENDPOINT" in (said.next_step or "")
    tally("bad inputs: security", 2)


def test_a_mirror_of_the_environment_gets_it(mirror, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", mirror.address)
    asks(mirror.address)
    assert set(mirror.got) == {f"Bearer {TOKEN}"}


def test_data_sets_ask_a_mirror_of_a_file_without_it(mirror, tmp_path, tally):
    pytest.importorskip("datasets")
    from simpletune.data.sources.hub.fetch import ask
    from simpletune.data.sources.hub.library import layout
    from simpletune.data.sources.hub.wanted import Wanted

    wanted = Wanted("owner/set", None, None, "train", None, None, False, None, tmp_path, mirror.address)
    for act in (lambda: ask(wanted, None), lambda: layout("owner/set", None, None, mirror.address)):
        with pytest.raises(Exception, match=r"."):
            act()
    assert mirror.got
    assert set(mirror.got) == {None}
    tally("bad inputs: security", 2)


def test_nothing_is_uploaded_to_a_mirror_of_a_file(mirror, tmp_path, monkeypatch, tally):
    from simpletune.results.hub.destination import Wish, prepare

    with pytest.raises(EnvironmentNotReady, match=r"your login isn't sent to http://127\.0\.0\.1"):
        prepare(Wish(tmp_path, "me/x", True, mirror.address), lambda _line: None)
    assert mirror.got == []
    tally("bad inputs: security", 1)
