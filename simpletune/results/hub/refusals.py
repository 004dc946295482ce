"""What the hub's errors mean for a person, and which of them may pass by themselves."""

from __future__ import annotations

from simpletune.config.problems import shown
from simpletune.errors import EnvironmentNotReady
from simpletune.machine.hub_access import host_of
from simpletune.redact import REDACTED, redact

TOKENS = "https://huggingface.co/settings/tokens"
LOG_IN = "`hf auth login`"
_LONGEST = 200
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSPORT = frozenset({"TransportError"})  # of httpx, whichever of its versions the library uses


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the hub was busy or failing, or the connection was."""
    status = status_of(error)
    if status is not None:
        return status in _MAY_PASS
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(kind.__name__ in _TRANSPORT for kind in type(error).__mro__)


def status_of(error: BaseException) -> int | None:
    """The hub's status code, None when it didn't answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def said(error: BaseException, token: str | None) -> str:
    """What an error says, in a line, without the token whatever that looks like."""
    response = getattr(error, "response", None)
    told = str((getattr(response, "headers", None) or {}).get("X-Error-Message") or "")
    lines = [line.strip() for line in (told or str(error)).splitlines() if line.strip()]
    return shown(without(lines[0] if lines else type(error).__name__, token))[:_LONGEST]


def without(text: str, token: str | None) -> str:
    """`text` without the token and anything else that is secret."""
    return redact(text.replace(token, REDACTED) if token else text)


def refusal(error: BaseException, endpoint: str, repo_id: str, token: str | None) -> EnvironmentNotReady:
    """Why nothing can be uploaded to `repo_id`, and what to do about it."""
    where, status = host_of(endpoint), status_of(error)
    other = 'or name another in "hub_model_id"'
    if status == 401:
        message = f"{where} doesn't accept the token"
        return EnvironmentNotReady(message, f"run {LOG_IN} again, or mend HF_TOKEN; {TOKENS} makes one")
    if status == 403:
        message = f"the token may not write to {repo_id} on {where}: {said(error, token)}"
        return EnvironmentNotReady(message, f"make a token that may write at {TOKENS}, then run {LOG_IN}; {other}")
    if status == 409:
        return EnvironmentNotReady(f"{repo_id} is taken on {where}: {said(error, token)}", f"{other[3:]}")
    if status == 404:
        message = f"{where} has no account or organisation {repo_id.partition('/')[0]} that this token may write to"
        return EnvironmentNotReady(message, f"check the spelling, {other}")
    if status is not None:
        message = f"{where} answers with an error: {status}, {said(error, token)}"
        return EnvironmentNotReady(message, "try again later, or leave push_to_hub out and use `simpletune push` then")
    message = f"{where} can't be reached: {said(error, token)}"
    hint = 'check the network, or name a mirror with "hf_endpoint" or HF_ENDPOINT; `simpletune push` uploads later'
    return EnvironmentNotReady(message, hint)
