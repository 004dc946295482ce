"""A Hugging Face hub on the loopback interface, as much of it as uploading a model needs: who one is, repositories,
which files are large, their plain transfer, commits. It keeps what it is given, and can be told to fail."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from loopback import running

PUBLISHED = "https://huggingface.co"
"""What a mirror's answers call the hub."""


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)


@dataclass
class Fault:
    """How the next requests go wrong whose "METHOD path" matches: a status, or bytes after which nobody listens."""

    pattern: str
    times: int
    status: int | None = None
    keep: int | None = None
    message: str = ""


@dataclass
class Hub:
    token: str
    user: str = "ada"
    role: str = "write"
    access: dict[str, Any] = field(default_factory=dict)
    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)  # repositories that this token may not write to
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # "METHOD path" of every request
    received: list[tuple[str, int]] = field(default_factory=list)  # of large files: (sha256, bytes that came)
    says_published: bool = False  # whether answers name the hub's own address, as a mirror's do

    def fail(self, pattern: str, times: int = 1, **how: Any) -> None:
        self.faults.append(Fault(pattern, times, **how))

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, one) is not None for one in self.asked)

    def owners(self) -> set[str]:
        return {self.user, "guild"}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


@contextmanager
def serve_uploads(token: str, prefix: str = "") -> Iterator[Hub]:
    """A hub below the path `prefix` of its address, as some mirrors have it."""
    hub = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer goes out whole: the other side waits 40 ms for the rest of one in pieces
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = f"{self.command} {path}"
            hub.asked.append(asked)
            fault = next((one for one in hub.faults if one.times > 0 and re.search(one.pattern, asked)), None)
            length = int(self.headers.get("Content-Length", 0))
            if fault is not None:
                fault.times -= 1
                if fault.keep is not None:
                    taken = len(self.rfile.read(min(fault.keep, length)))
                    hub.received += [(path.rpartition("/")[2], taken)] if self.command == "PUT" else []
                    self.close_connection = True
                    self.connection.close()
                    return
            body = self.rfile.read(length)
            if fault is not None:
                self._send(fault.status or 500, {"error": fault.message}, {"X-Error-Message": fault.message})
            elif not path.startswith(prefix + "/"):
                self._send(404, {"error": "nothing here"})
            else:
                self._route(path.removeprefix(prefix), body)

        def _route(self, path: str, body: bytes) -> None:
            if self.command == "PUT" and path.startswith("/lfs/"):
                oid = path.removeprefix("/lfs/")
                assert hashlib.sha256(body).hexdigest() == oid
                hub.blobs[oid] = body
                hub.received.append((oid, len(body)))
                return self._send(200, {})
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(401, {"error": f"Invalid {self.headers.get('Authorization')}"})
            if path == "/api/whoami-v2":
                access = {"role": hub.role, **hub.access}
                return self._send(200, {"name": hub.user, "orgs": [{"name": "guild"}], "auth": {"accessToken": access}})
            if path == "/api/validate-yaml":
                return self._validate(json.loads(body)["content"])
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
                return self._batch(match[1], json.loads(body))
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.+))?", path):
                return self._model(match[1], match[2] or "", body)
            return self._send(404, {"error": "nothing here"})

        def _validate(self, content: str) -> None:
            top = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
            try:
                fine = top is not None and isinstance(yaml.safe_load(top[1]), dict)
            except yaml.YAMLError:
                fine = False
            errors = [] if fine else [{"message": "no metadata"}]
            self._send(200 if fine else 400, {"errors": errors, "warnings": []})

        def _create(self, asked: dict[str, Any]) -> None:
            repo_id = f"{asked.get('organization') or hub.user}/{asked['name']}"
            url = f"{PUBLISHED if hub.says_published else hub.endpoint}/{repo_id}"
            if repo_id in hub.repos:
                return self._send(409, {"error": "You already created this model repo", "url": url})
            if repo_id.partition("/")[0] not in hub.owners():
                return self._refuse(403, "You don't have the rights to create a model under this namespace")
            hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
            return self._send(200, {"url": url})

        def _model(self, repo_id: str, what: str, body: bytes) -> None:
            repo = hub.repos.get(repo_id)
            if repo is None:
                return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            if (what.startswith("auth-check") or self.command == "POST") and repo_id in hub.closed:
                return self._refuse(403, "Forbidden: pass a token with write access")
            if what.startswith("auth-check"):
                return self._send(200, {})
            if what.startswith("preupload/"):
                files = [self._mode(repo, one["path"]) for one in json.loads(body)["files"]]
                return self._send(200, {"files": files})
            if what.startswith("commit/"):
                return self._commit(repo_id, repo, [json.loads(line) for line in body.splitlines()])
            about = {"id": repo_id, "private": repo.private, "sha": repo.commits[-1]}
            return self._send(200, about | {"siblings": [{"rfilename": name} for name in repo.files]})

        def _mode(self, repo: Repo, name: str) -> dict[str, Any]:
            there, large = repo.files.get(name), is_large(name)
            digest = None
            if there is not None:
                digest = hashlib.sha256(there).hexdigest() if large else git_sha1(there)
            return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": digest}

        def _batch(self, repo_id: str, asked: dict[str, Any]) -> None:
            if repo_id in hub.closed or repo_id not in hub.repos:
                return self._refuse(403, "Forbidden")
            assert asked["operation"] == "upload"
            assert "basic" in asked["transfers"]
            home = PUBLISHED if hub.says_published else hub.endpoint
            objects = []
            for one in asked["objects"]:
                href = {"href": f"{home}/lfs/{one['oid']}", "header": {}}
                objects.append(one if one["oid"] in hub.blobs else {**one, "actions": {"upload": href}})
            return self._send(200, {"transfer": "basic", "objects": objects})

        def _commit(self, repo_id: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
            header, *changes = lines
            for change in changes:
                value = change["value"]
                if change["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif change["key"] == "lfsFile":
                    repo.files[value["path"]] = hub.blobs[value["oid"]]
                elif change["key"] == "deletedFile":
                    del repo.files[value["path"]]
            repo.messages.append(header["value"]["summary"])
            repo.commits.append(hashlib.sha1(str(len(repo.commits)).encode()).hexdigest())
            oid = repo.commits[-1]
            self._send(200, {"commitUrl": f"{hub.endpoint}/{repo_id}/commit/{oid}", "commitOid": oid})

        def _refuse(self, status: int, message: str) -> None:
            self._send(status, {"error": message}, {"X-Error-Message": message})

        def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(Handler) as server:
        hub.endpoint = server.address + prefix
        yield hub
