"""A Hugging Face hub on the loopback interface, as much of it as downloading a snapshot needs."""

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


@dataclass
class Hub:
    """One repository, `owner/model`, with the files of a folder."""

    folder: Path
    endpoint: str = ""
    refusal: tuple[int, str] | None = None  # (status, X-Error-Code) for every request
    cut: dict[str, int] = field(default_factory=dict)  # path -> bytes after which its first transfer breaks off
    served: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range) of every file sent

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
            if hub.refusal is not None:
                status, code = hub.refusal
                self._send(status, b"{}", {"X-Error-Code": code})
            elif path.startswith("/api/models/owner/model/revision/"):
                self._send(200, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": []}).encode())
            elif path.startswith("/api/models/owner/model/tree/"):
                self._send(200, json.dumps(hub.tree()).encode())
            elif path.startswith(f"/owner/model/resolve/{COMMIT}/"):
                self._file(path.removeprefix(f"/owner/model/resolve/{COMMIT}/"))
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _file(self, name: str) -> None:
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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
