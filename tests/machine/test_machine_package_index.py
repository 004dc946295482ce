"""Whether the package index answers that pip is set up for: asked of servers on the loopback interface."""

import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from loopback import running

from simpletune.machine import package_index
from simpletune.machine.package_index import check_index, configured_index


@contextmanager
def an_index(status=200, silence=None):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            if silence is not None:
                silence.wait(30)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    with running(Handler) as server:
        yield server.address, asked


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_an_index_that_answers():
    with an_index() as (address, asked):
        found = check_index(f"{address}/simple/")
    assert (found.reachable, found.endpoint, found.next_step) == (True, address, None)
    assert asked == [("/simple/pip/", None)]


def test_a_login_in_the_address_is_neither_shown_nor_sent():
    with an_index(401) as (address, asked):
        found = check_index(address.replace("http://", "http://someone:secret@") + "/simple")
    assert (found.reachable, found.endpoint) == (True, address)
    assert "login" in found.message
    assert "secret" not in repr(found)
    assert asked == [("/simple/pip/", None)]


def test_a_server_that_is_no_index():
    with an_index(404) as (address, _):
        found = check_index(address)
    assert (found.reachable, "not as a package index" in found.message) == (False, True)
    assert "PIP_INDEX_URL" in found.next_step


def test_a_closed_port():
    found = check_index("http://127.0.0.1:1/simple")
    assert (found.reachable, found.endpoint) == (False, "http://127.0.0.1:1")
    assert "PIP_INDEX_URL" in found.next_step


def test_an_index_that_never_answers_is_left_in_time():
    silence = threading.Event()
    with an_index(silence=silence) as (address, _):
        start = time.monotonic()
        found = check_index(address, timeout=0.3)
        assert time.monotonic() - start < 10
        silence.set()
    assert not found.reachable


@pytest.mark.parametrize("address", ["", "nonsense", "http://[x", "http://host:notaport/", "ftp://127.0.0.1:1/"])
def test_addresses_that_can_t_be_asked(address, monkeypatch):
    monkeypatch.setattr(package_index, "configured_index", lambda: None)
    found = check_index(address, timeout=2)
    assert not found.reachable
    assert found.next_step


def test_a_folder(tmp_path):
    assert check_index(tmp_path.as_uri()).reachable
    assert not check_index((tmp_path / "missing").as_uri()).reachable


def test_pip_says_which_index_counts(monkeypatch):
    pytest.importorskip("pip")
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:secret@127.0.0.1:1/simple")
    assert configured_index().endswith("@127.0.0.1:1/simple")
    assert "secret" not in configured_index()
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")
    assert configured_index().startswith("https://")


def test_without_pip(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(package_index.subprocess, "run", fail)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert "pip isn't installed" in check_index().message
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert check_index().endpoint == "http://127.0.0.1:1"
