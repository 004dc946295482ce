"""Whether the package index answers that pip is set up to use here: the usual one, or a mirror of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from simpletune.config.problems import shown
from simpletune.machine.hub_access import host_of
from simpletune.machine.patience import within
from simpletune.redact import redact

_PIP_SECONDS = 20
_MIRROR = "name a mirror with PIP_INDEX_URL, or `pip config set global.index-url ADDRESS`"


@dataclass(frozen=True)
class IndexAccess:
    """endpoint: the index's address without user name and password, None where pip names none; message: a clause."""

    endpoint: str | None
    reachable: bool
    message: str
    next_step: str | None = None


def check_index(url: str | None = None, timeout: float = 4.0) -> IndexAccess:
    """Ask the package index at `url`, or the one pip is configured for, whether it is there.

    timeout: seconds after which it counts as out of reach. Raises nothing.
    """
    address = url or configured_index()
    if address is None:
        return IndexAccess(None, False, "pip isn't installed here, so its index isn't known", "python -m ensurepip")
    where = host_of(address)
    if address.startswith("file:"):
        return _folder(address)
    answers: list[str | int] = []
    if not within(timeout, lambda: answers.append(_ask(address, timeout))) or not answers:
        return IndexAccess(
            where, False, f"{where} didn't answer within {timeout:g} s", f"check the network, or {_MIRROR}"
        )
    answer = answers[0]
    if isinstance(answer, str):
        return IndexAccess(where, False, f"{where} can't be reached: {answer}", f"check the network, or {_MIRROR}")
    if answer in (401, 403):
        return IndexAccess(where, True, f"{where} answers, and wants a login ({answer})")
    if answer >= 400:
        message = f"{where} answers, but not as a package index does ({answer})"
        return IndexAccess(where, False, message, f"check its address, or {_MIRROR}")
    return IndexAccess(where, True, f"{where} answers")


def configured_index() -> str | None:
    """The address pip takes packages from by its files, the environment and its default; None without pip.

    pip itself is asked: the help of a command shows the values that count, passwords starred out.
    """
    command = [sys.executable, "-m", "pip", "download", "--help"]
    environment = {**os.environ, "COLUMNS": "2000", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1"}
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_SECONDS,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("PIP_INDEX_URL")
    found = re.search(r"--index-url <url>.*?\(default:?\s+([^\s)]+)\)", answer.stdout, re.DOTALL)
    return found[1] if found else os.environ.get("PIP_INDEX_URL")


def _folder(address: str) -> IndexAccess:
    from urllib.request import url2pathname

    try:
        folder = Path(url2pathname(urlsplit(address).path))
        there = folder.is_dir()
    except (OSError, ValueError):
        return IndexAccess("file:", False, "its address can't be read", _MIRROR)
    name = shown(redact(str(folder)))
    return IndexAccess(
        "file:", there, f"the folder {name} {'is there' if there else 'is missing'}", None if there else _MIRROR
    )


def _ask(address: str, timeout: float) -> str | int:
    """The status of the page of one package, or why there was none."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        request = Request(f"{_without_login(address).rstrip('/')}/pip/", headers={"Accept": "text/html"})  # noqa: S310
        with urlopen(request, timeout=timeout) as response:  # noqa: S310  (the person's own configuration)
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code
    except Exception as error:  # whatever a broken address or server leads to is an answer for the person
        reason = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
        return shown(redact(reason.splitlines()[0]))[:160]


def _without_login(address: str) -> str:
    """The address without a user name and password, which urllib would take for a part of the host's name."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
