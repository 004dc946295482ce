"""Servers on the loopback interface that leave nothing behind, and a look at whether something was left after all.

A socket that is lost open is found by the garbage collector, whenever that runs, and fails whichever test runs then.
So each module that had a server is looked at when it ends (`left_open`): there the failure is its own, and says what
held the socket.
"""

from __future__ import annotations

import gc
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SECONDS = 5.0
_served = False


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread, and remembers both, so that none outlives it."""

    daemon_threads = False  # closing waits for them

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            socketserver.BaseServer.handle_error(self, request, client_address)

    def hang_up(self) -> None:
        """Break all connections, also those that only wait for another request."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[Server]:
    """A server until the end of the block; nobody may be waiting in the handler for more than a request by then."""
    note_use()
    server = Server(handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.hang_up()
        server.server_close()
        close_hub_client()


def close_hub_client() -> None:
    """Close what the hub's client keeps for further requests.

    Only with the server gone: a connection that another thread makes while the client closes is lost open.
    """
    if "huggingface_hub.utils" in sys.modules:
        sys.modules["huggingface_hub.utils"].close_session()


def note_use() -> None:
    """Have what this module leaves open looked for when it ends."""
    global _served
    _served = True


def left_open() -> list[str]:
    """The network connections that nobody closes, if there was a server since this was last asked; they are closed.

    What is garbage gets the chance to close its own first, which it hasn't where the collector takes the socket before
    its owner.
    """
    global _served
    if not _served:
        return []
    _served = False
    end = time.monotonic() + _SECONDS
    found = [(one, f"{one!r}, held by {_holders(one)}") for one in _sockets() if _is_open(one)]
    while any(_is_open(one) for one, _ in found) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)  # a thread may be at closing them
    left = [told for one, told in found if _is_open(one)]
    for one, _ in found:
        one.close()
    return left


def _sockets() -> list[socket.socket]:
    """All that this process has, garbage too. Asking a type is safe: some proxies raise when asked for their class."""
    found = [one for one in gc.get_objects() if issubclass(type(one), socket.socket)]
    return [one for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]


def _is_open(connection: socket.socket) -> bool:
    return connection.fileno() != -1


def _holders(connection: socket.socket) -> str:
    names = {type(one).__qualname__ for one in gc.get_referrers(connection)}
    return ", ".join(sorted(names - {"frame", "list", "list_iterator"})) or "nobody"
