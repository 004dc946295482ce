"""A Hugging Face hub on the loopback interface, as much of it as fetching a model or a data set needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import running

COMMIT = "c0ffee" + "0" * 34

PARTS = {
    "scheduler": ["scheduler_config.json"],
    "text_encoder": ["config.json", "model.safetensors"],
    "text_encoder_2": ["config.json", "model.safetensors"],
    "text_encoder_3": [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ],
    "tokenizer": ["vocab.json"],
    "tokenizer_2": ["tokenizer.json"],
    "tokenizer_3": ["spiece.model"],
    "transformer": ["config.json", "diffusion_pytorch_model.safetensors"],
    "vae": ["config.json", "diffusion_pytorch_model.safetensors"],
}


def make_model(folder: Path) -> Path:
    """A folder in the diffusers layout, with files that hold next to nothing."""
    for part, names in PARTS.items():
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / name).write_text("{}")
    index = folder / "text_encoder_3" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": PARTS["text_encoder_3"][2], "b": PARTS["text_encoder_3"][3]}}))
    entries = {part: ["library", "Class"] for part in PARTS}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline", **entries, "safety": [None, None]}))
    return folder


@dataclass
class Hub:
    """One repository, `owner/model` or the data set `owner/set`, with the files of a folder at one commit."""

    folder: Path
    kind: str = "models"  # or datasets
    name: str = "owner/model"
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main",)
    endpoint: str = ""
    refusal: tuple[int, str] | None = None  # (status, X-Error-Code) for every request
    refusal_message: str = ""  # its X-Error-Message
    accepted: set[str] | None = None  # tokens that may read the gated repository; None: it isn't gated
    silence: threading.Event | None = None  # no answer before it is set
    cut: dict[str, int] = field(default_factory=dict)  # path -> bytes after which its first transfer breaks off
    served: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of every file sent
    asked: list[str] = field(default_factory=list)  # the path of every request
    broken: int = 0  # requests for files that break off, before any is answered

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def tree(self, below: str = "", recursive: bool = True) -> list[dict[str, object]]:
        top = self.folder / below
        found = self.files() if recursive else sorted(top.iterdir()) if top.is_dir() else []
        return [self.entry(path) for path in found if path.is_relative_to(top)]

    def entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "path": name, "size": 0, "oid": oid}
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}

    def info(self, revision: str) -> dict[str, object]:
        names = [path.relative_to(self.folder).as_posix() for path in self.files()]
        commit = revision if len(revision) == len(COMMIT) else self.commit
        return {"id": self.name, "sha": commit, "siblings": [{"rfilename": name} for name in names]}

    def knows(self, revision: str) -> bool:
        return revision in {*self.branches, self.commit}


def _prefix(hub: Hub) -> str:
    return "" if hub.kind == "models" else f"/{hub.kind}"


def _range(asked: str | None, size: int) -> tuple[int, int]:
    """First byte and the one behind the last of a Range such as bytes=5-9, bytes=5- or bytes=-4."""
    if not asked:
        return 0, size
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


@contextmanager
def serve(folder: Path, kind: str = "models", name: str = "owner/model") -> Iterator[Hub]:
    hub = Hub(folder, kind, name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            hub.asked.append(path)
            if hub.silence is not None:
                hub.silence.wait(60)
            if hub.refusal is not None:
                status, code = hub.refusal
                self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": hub.refusal_message})
            elif "/resolve/" in path and not self._may_read():
                self._send(403 if "Authorization" in self.headers else 401, b"{}", {"X-Error-Code": "GatedRepo"})
            elif path.startswith(f"/api/{hub.kind}/{hub.name}"):
                self._told(unquote(path.removeprefix(f"/api/{hub.kind}/{hub.name}")).lstrip("/"))
            elif path.startswith(f"{_prefix(hub)}/{hub.name}/resolve/"):
                revision, _, name = unquote(path.removeprefix(f"{_prefix(hub)}/{hub.name}/resolve/")).partition("/")
                self._file(name) if hub.knows(revision) else self._refuse("RevisionNotFound")
            else:
                self._refuse("RepoNotFound")

        def do_POST(self) -> None:
            """What is asked of several paths at once."""
            length = int(self.headers.get("Content-Length", 0))
            asked = self.rfile.read(length).decode()
            hub.asked.append(self.path)
            paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked).get("paths", [])
            found = [hub.folder / path for path in paths if (hub.folder / path).exists()]
            self._send(200, json.dumps([hub.entry(path) for path in found]).encode())

        def _told(self, what: str) -> None:
            """Answer for revision/NAME, tree/NAME[/FOLDER], or "" for the newest."""
            about, _, rest = (what or "revision/main").partition("/")
            revision, _, below = rest.partition("/")
            if not hub.knows(revision):
                self._refuse("RevisionNotFound")
            elif about == "revision":
                self._send(200, json.dumps(hub.info(revision)).encode())
            elif about == "tree" and below and not (hub.folder / below).is_dir():
                self._refuse("EntryNotFound")
            elif about == "tree":
                asked = parse_qs(urlsplit(self.path).query)
                recursive = hub.kind == "models" or asked.get("recursive", ["false"])[0].lower() in {"true", "1"}
                self._send(200, json.dumps(hub.tree(below, recursive)).encode())
            else:
                self._refuse("EntryNotFound")

        def _refuse(self, code: str) -> None:
            self._send(404, b"{}", {"X-Error-Code": code})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _may_read(self) -> bool:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            return hub.accepted is None or token in hub.accepted

        def _file(self, name: str) -> None:
            if not (hub.folder / name).is_file():
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
                return
            if hub.broken > 0 and self.command == "GET":
                hub.broken -= 1
                self.close_connection = True
                self.connection.close()
                return
            data = (hub.folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": hub.commit}
            asked = self.headers.get("Range")
            start, stop = _range(asked, len(data))
            if asked:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            if self.command == "GET":
                hub.served.append((name, asked))
            keep = hub.cut.pop(name, None) if self.command == "GET" else None
            self._send(206 if asked else 200, data[start:stop], headers, keep)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, keep: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if keep is None else body[:keep])
                self.close_connection = keep is not None

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(Handler) as server:
        hub.endpoint = server.address
        try:
            yield hub
        finally:
            if hub.silence is not None:
                hub.silence.set()
