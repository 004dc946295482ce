"""A Hugging Face hub on the loopback interface, as much of it as asking for a model and downloading it needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
    """One repository, `owner/model`, with the files of a folder."""

    folder: Path
    endpoint: str = ""
    refusal: tuple[int, str] | None = None  # (status, X-Error-Code) for every request
    refusal_message: str = ""  # its X-Error-Message
    accepted: set[str] | None = None  # tokens that may read the gated repository; None: it isn't gated
    silence: threading.Event | None = None  # no answer before it is set
    cut: dict[str, int] = field(default_factory=dict)  # path -> bytes after which its first transfer breaks off
    served: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of every file sent
    asked: list[str] = field(default_factory=list)  # the path of every request

    def tree(self) -> list[dict[str, object]]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [
            {
                "type": "file",
                "path": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.as_posix().encode()).hexdigest(),
            }
            for path in files
        ]


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)

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
            elif path.startswith("/api/models/owner/model/revision/"):
                self._send(200, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": []}).encode())
            elif path.startswith("/api/models/owner/model/tree/"):
                self._send(200, json.dumps(hub.tree()).encode())
            elif path.startswith((f"/owner/model/resolve/{COMMIT}/", "/owner/model/resolve/main/")):
                self._file(path.split("/", 5)[5])
            elif path.startswith("/owner/model/resolve/"):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _may_read(self) -> bool:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            return hub.accepted is None or token in hub.accepted

        def _file(self, name: str) -> None:
            if not (hub.folder / name).is_file():
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
            data = (hub.folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            if asked:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if self.command == "GET":
                hub.served.append((name, asked))
            keep = hub.cut.pop(name, None) if self.command == "GET" else None
            self._send(206 if asked else 200, data[start:], headers, keep)

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
