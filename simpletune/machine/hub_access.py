"""Whether the Hugging Face hub, or a mirror of it, would give a model to this machine: asked before a run needs it.

What is asked is what a download would ask: the head of a small file of the repository, by the library's own client,
so that proxies, mirrors, tokens and licences count as they will count then. No token is ever part of a text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from simpletune.config.problems import shown
from simpletune.machine.model_folder import lacking_parts
from simpletune.machine.patience import within
from simpletune.redact import redact

HUB = "https://huggingface.co"
ACCEPTED, NEEDED, NOT_NEEDED, UNKNOWN = "accepted", "needed", "not needed", "unknown"

_ASKED_FOR = "model_index.json"
_LOCAL_WAY = 'or name a local folder or a .safetensors file in "pretrained_model_name_or_path"'
_LOG_IN = "`hf auth login`"
SEND_LOGIN = "if you trust that address with your token, set HF_ENDPOINT to it in the environment"
_LONGEST = 160


@dataclass(frozen=True)
class Access:
    """What the hub says of a model.

    endpoint: the address that was asked, without user name and password. licence: "accepted", "needed", "not needed" or
    "unknown". cached: every file a run needs is on this machine. message: a clause; next_step: what to do, None when
    nothing is to be done. available: a run that starts now would get the model. sends_login: see `gets_login`.
    """

    repo_id: str
    endpoint: str
    reachable: bool
    has_token: bool
    licence: str
    cached: bool
    message: str
    next_step: str | None
    available: bool = False
    sends_login: bool = True


@dataclass
class _Findings:
    """What a thread that may be left behind has found so far; `answered` when the hub gave the file."""

    has_token: bool = False
    cached: bool = False
    offline: bool = False
    answered: bool = False
    error: BaseException | None = None
    known: Mapping[str, Any] = field(default_factory=dict)


def check_access(
    repo_id: str,
    endpoint: str | None,
    gated: bool,
    timeout: float = 4.0,
    *,
    revision: str | None = None,
    use_t5: bool = True,
) -> Access:
    """Ask the hub for a model, and look whether it is on this machine already.

    endpoint: a mirror's address; HF_ENDPOINT wins over it, as in a download. gated: whether the model is known to be
    behind a licence. timeout: seconds after which the hub counts as out of reach. Raises nothing.
    """
    address = (os.environ.get("HF_ENDPOINT") or endpoint or HUB).rstrip("/")
    found = _Findings()
    in_time = within(timeout, lambda: _look(found, repo_id, address, revision, use_t5, timeout))
    sends_login = gets_login(address)
    token = found.has_token and sends_login
    access = Access(repo_id, host_of(address), False, token, UNKNOWN, found.cached, "", None, sends_login=sends_login)
    judged = _judge(access, found, gated, in_time, timeout)
    if judged.cached:
        here = "all its files are on this machine"
        judged = replace(judged, message=here if judged.available else f"{here}; {judged.message}", next_step=None)
    return replace(judged, message=shown(redact(judged.message)), available=judged.available or judged.cached)


def has_login() -> bool:
    """Whether somebody is logged in to the hub here: by the environment, or by the file that its own login writes.

    The library isn't imported for that, and the hub isn't asked whether it takes the token.
    """
    if any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return True
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache"), "huggingface")
    path = os.environ.get("HF_TOKEN_PATH") or Path(os.environ.get("HF_HOME") or cache, "token")
    try:
        return bool(Path(path).expanduser().read_text(encoding="utf-8").strip())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return False


def gets_login(address: str | None) -> bool:
    """Whether the hub's login of this machine is sent to an address: to the hub itself, and to what HF_ENDPOINT names.

    A mirror that a settings file names may have been named by somebody else, who would get the token.
    """
    if not address:
        return True
    named = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    return address.rstrip("/") in {HUB, named}


def token_for(address: str | None) -> bool | None:
    """What the hub's client is told as its `token`: None sends the login where there is one, False sends none."""
    return None if gets_login(address) else False


def not_sent(host: str) -> str:
    """Why a mirror doesn't know who asks, as a clause."""
    return f"your login isn't sent to {host}, as only the settings name it"


def host_of(address: str) -> str:
    """The scheme, host and port of an address, without what else it may hold (a user, a password, a path)."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else shown(redact(address))
    except ValueError:
        return "an address that can't be read"


def _look(found: _Findings, repo_id: str, address: str, revision: str | None, use_t5: bool, timeout: float) -> None:
    """Fill `found`, what is here first. Every error is kept for `_judge`."""
    try:
        import huggingface_hub

        found.cached = is_cached(repo_id, revision, use_t5)
        found.has_token = huggingface_hub.get_token() is not None
        found.offline = huggingface_hub.constants.HF_HUB_OFFLINE
        if not found.offline:
            url = huggingface_hub.hf_hub_url(repo_id, _ASKED_FOR, revision=revision, endpoint=address)
            huggingface_hub.get_hf_file_metadata(url, timeout=timeout, endpoint=address, token=token_for(address))
            found.answered = True
    except BaseException as error:  # a thread has nobody to raise to
        found.error = error


def is_cached(repo_id: str, revision: str | None = None, use_t5: bool = True) -> bool:
    """Whether the hub's cache on this machine holds every file of a model in the diffusers layout."""
    index = cached_file(repo_id, _ASKED_FOR, revision)
    return index is not None and not lacking_parts(index.parent, use_t5)


def cached_file(repo_id: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a model where the hub's cache on this machine has it; the hub isn't asked."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo_id, name, revision=revision)
    except (ImportError, ValueError, OSError):  # no library, no name of a model, no readable cache
        return None
    return Path(found) if isinstance(found, str) else None


def _judge(access: Access, found: _Findings, gated: bool, in_time: bool, timeout: float) -> Access:
    """What the findings mean for a person."""
    where = access.endpoint
    mirror = f'check the network, or name a mirror with "hf_endpoint" or HF_ENDPOINT; {_LOCAL_WAY}'
    if found.answered:
        licence = (ACCEPTED if found.has_token else NOT_NEEDED) if gated else NOT_NEEDED
        also = ", and the licence is accepted" if licence == ACCEPTED else ""
        message = f"{where} gives {access.repo_id}{also}"
        return replace(access, reachable=True, licence=licence, message=message, available=True)
    if found.offline:
        message = "HF_HUB_OFFLINE is set, so the hub isn't asked"
        return replace(access, message=message, next_step=f"unset HF_HUB_OFFLINE; {_LOCAL_WAY}")
    if not in_time:
        return replace(access, message=f"{where} didn't answer within {timeout:g} s", next_step=mirror)
    if isinstance(found.error, ImportError):
        message = f"huggingface_hub can't be imported: {_first_line(found.error)}"
        return replace(access, message=message, next_step="pip install --force-reinstall huggingface_hub")
    refusal = _refusal(access, found.error, gated)
    if refusal is not None:
        return refusal
    return replace(access, message=f"{where} can't be reached: {_first_line(found.error)}", next_step=mirror)


def _refusal(access: Access, error: BaseException | None, gated: bool) -> Access | None:
    """What the hub's own answer means; None when there was no answer."""
    from huggingface_hub import errors

    repo, answered = access.repo_id, replace(access, reachable=True)
    if isinstance(error, errors.HFValidationError):
        return replace(
            access, message=f"{repo!r} is no name of a model on the hub", next_step="a hub name is OWNER/NAME"
        )
    if isinstance(error, errors.GatedRepoError):
        return _gated(answered, error)
    if isinstance(error, errors.RevisionNotFoundError):
        return replace(answered, message=f"{repo} has no such revision", next_step='check "revision", or leave it out')
    if isinstance(error, errors.RepositoryNotFoundError):
        if gated:
            return _gated(answered, error)
        message = f"{access.endpoint} has no model {repo}, or it is private"
        return replace(answered, message=message, next_step=f"check the name, or run {_LOG_IN}; {_LOCAL_WAY}")
    if isinstance(error, errors.EntryNotFoundError):
        message = f"{repo} has no {_ASKED_FOR}, so it isn't in the diffusers layout"
        return replace(
            answered, message=message, next_step=f"look for a repository of its diffusers version; {_LOCAL_WAY}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_error(answered, error)
    return None


def _gated(access: Access, error: BaseException) -> Access:
    page = f"{HUB}/{access.repo_id}"
    if "awaiting a review" in _server_message(error):
        message = f"its authors have not yet answered your request for {access.repo_id}"
        return replace(access, licence=NEEDED, message=message, next_step=f"wait for their mail; {_LOCAL_WAY}")
    if access.has_token:
        message = f"{access.repo_id} is behind a licence that this account has not accepted"
        return replace(access, licence=NEEDED, message=message, next_step=f"accept it at {page} ({_LOCAL_WAY})")
    if not access.sends_login:
        message = f"{access.repo_id} is behind a licence, and {not_sent(access.endpoint)}"
        return replace(access, licence=NEEDED, message=message, next_step=f"{SEND_LOGIN} ({_LOCAL_WAY})")
    message = f"{access.repo_id} is behind a licence, and nobody is logged in to the hub here"
    step = f"run {_LOG_IN}, and accept the licence at {page} ({_LOCAL_WAY})"
    return replace(access, licence=NEEDED, message=message, next_step=step)


def _http_error(access: Access, error: BaseException) -> Access:
    status, said = getattr(getattr(error, "response", None), "status_code", None), _server_message(error)
    if status == 401:
        message = f"{access.endpoint} doesn't accept the token"
        return replace(access, message=message, next_step=f"run {_LOG_IN} again, or mend HF_TOKEN")
    if status == 403:
        message = f"the token may not read {access.repo_id}: {said or 'forbidden'}"
        step = "in the token's settings on the hub, allow reading public gated repositories"
        return replace(access, message=message, next_step=step)
    message = f"{access.endpoint} answers with an error: {status} {said}".rstrip()
    return replace(access, message=message, next_step=f"try again later, or another mirror; {_LOCAL_WAY}")


def _server_message(error: BaseException) -> str:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return str(headers.get("X-Error-Message") or "")[:_LONGEST]


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() if error is not None else []
    return (lines[0] if lines else type(error).__name__)[:_LONGEST]
