"""An S3 server on the loopback interface, and a connection to it that is slow, or breaks, when told to."""

from __future__ import annotations

import functools
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import botocore.loaders
import pytest
from loopback import note_use

KEY, SECRET = "test-key-id", "test-secret-of-some-length"


def aws_environment(patch: pytest.MonkeyPatch) -> None:
    """Credentials that the server takes; nothing of this machine's own, and no proxy in between."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, os.devnull)
    # What botocore reads of its own files takes most of the time of making a connection; once is enough here.
    patch.setattr("botocore.session.create_loader", functools.cache(botocore.loaders.create_loader))


@dataclass(frozen=True)
class S3Server:
    """`client` is boto3's, to fill buckets with."""

    address: str
    port: int
    client: Any

    def fill(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Put objects into a bucket, which is made if there is none."""
        self.client.create_bucket(Bucket=bucket)
        for key, data in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def check_credentials(self, check: bool) -> None:
        """Whether requests need the credentials of a user of the server, of whom there is none."""
        after = b"0" if check else b"inf"
        request = urllib.request.Request(f"{self.address}/moto-api/reset-auth", after, {"Content-Type": "text/plain"})
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with no buckets. The environment should be `aws_environment`."""
    import boto3
    from moto.server import ThreadedMotoServer

    note_use()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    try:
        yield S3Server(address, port, client)
    finally:
        client.close()
        server.stop()


@dataclass
class Relay:
    """Hands bytes on to a server and back, but for answers that it is told to lose."""

    to_port: int
    silent: int = 0  # so many of the next answers never come
    cut: str = ""  # in answers to requests for this, the connection breaks half-way
    cuts: int = 0  # so many of them
    requests: list[str] = field(default_factory=list)  # the first line of each
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                near, _ = listener.accept()
                self._open.append(near)
                far = socket.create_connection(("127.0.0.1", self.to_port))
                self._open.append(far)
                for work in (self._up, self._down):
                    self._threads.append(threading.Thread(target=work, args=(near, far), daemon=True))
                    self._threads[-1].start()

    def close(self) -> None:
        """Hang up on everybody; nothing more may be accepted by then."""
        for connection in self._open:
            _hang_up(connection)
        for thread in self._threads:
            thread.join()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                if data.startswith((b"GET ", b"HEAD ")):
                    self.requests.append(data.partition(b" HTTP")[0].decode())
                far.sendall(data)
        _hang_up(far)

    def _down(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                with self._lock:
                    silent = self.silent > 0
                    self.silent -= silent
                    cut = not silent and self.cuts > 0 and self.cut in self.requests[-1]
                    self.cuts -= cut
                if silent:
                    return
                near.sendall(data[: len(data) // 2] if cut else data)
                if cut:
                    break
        _hang_up(near)
        _hang_up(far)


@contextmanager
def relay(server: S3Server) -> Iterator[Relay]:
    """A way to the server that can go wrong."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Relay(server.port, address=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            _hang_up(listener)
            thread.join()
            made.close()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
