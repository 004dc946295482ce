"""Where a run goes on the hub: who is logged in, whether they may write there, and the repository itself.

All of it is asked before a model is loaded: nobody should learn after a night of training that a token only reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from simpletune.config.rules import is_hub_name
from simpletune.config.settings import Settings
from simpletune.errors import EnvironmentNotReady, UsageError
from simpletune.machine.hub_access import SEND_LOGIN, gets_login, host_of, not_sent
from simpletune.results.card.naming import name_of
from simpletune.results.hub.client import address_of, client, token_of_login
from simpletune.results.hub.refusals import LOG_IN, TOKENS, may_pass, refusal, status_of
from simpletune.results.hub.retry import ASKING, patiently
from simpletune.results.report.run import Run

T = TypeVar("T")
_WRITES = frozenset({"repo.write", "repo.content.write"})


@dataclass(frozen=True)
class Wish:
    """What was asked for: `name` is NAME or OWNER/NAME, None for the run's own; `endpoint` None for the hub."""

    folder: Path
    name: str | None
    private: bool
    endpoint: str | None


@dataclass(frozen=True)
class Destination:
    """A repository that is there and may be written to. endpoint: the address that is asked."""

    endpoint: str
    repo_id: str
    private: bool

    @property
    def url(self) -> str:
        """Its page, without what else the address may hold."""
        return f"{host_of(self.endpoint)}/{self.repo_id}"


def wish_of(settings: Settings) -> Wish:
    return Wish(settings.output_dir, settings.hub_model_id, settings.hub_private, settings.hf_endpoint)


def wish_of_run(run: Run) -> Wish:
    """What a run was set to; one of an older version goes to a private repository of its own name."""
    private = run.value("hub_private", True)
    return Wish(run.folder, run.value("hub_model_id"), private is not False, run.value("hf_endpoint"))


def prepare(wish: Wish, tell: Callable[[str], None]) -> Destination:
    """Find out who is logged in and have the repository, new or there already.

    Raises EnvironmentNotReady when the hub is out of reach, nobody is logged in, the token may not write there, the
    name is taken, or the repository is public and should be private; UsageError for a name the hub doesn't take.
    """
    token, endpoint = token_of_login(), address_of(wish.endpoint)
    if not gets_login(endpoint):
        raise EnvironmentNotReady(f"nothing can be uploaded: {not_sent(host_of(endpoint))}", SEND_LOGIN)
    named = wish.name or name_of(wish.folder)
    with client(endpoint) as hub:
        who = _asked(hub.whoami, named, endpoint, token, tell)
        _check_kind(who, endpoint)
        repo_id = _repo_id(named, who)
        _asked(lambda: _have(hub, repo_id, wish.private), repo_id, endpoint, token, tell)
        _asked(lambda: _check_write(hub, repo_id), repo_id, endpoint, token, tell)
        info = _asked(lambda: hub.repo_info(repo_id), repo_id, endpoint, token, tell)
    private = bool(getattr(info, "private", wish.private))
    if wish.private and not private:
        raise EnvironmentNotReady(
            f"{repo_id} is there already, and public",
            'name another in "hub_model_id", or say that it may be public: "hub_private": false, or --public',
        )
    return Destination(endpoint, repo_id, private)


def _asked(question: Callable[[], T], repo_id: str, endpoint: str, token: str, tell: Callable[[str], None]) -> T:
    """The hub's answer, its errors as ours."""
    try:
        return patiently(question, token, tell, "asking the hub", ASKING)
    except (EnvironmentNotReady, UsageError):
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if status_of(error) is not None:
            raise refusal(error, endpoint, repo_id, token) from None
        message = f"{host_of(endpoint)} answers in a way that isn't the hub's"
        raise EnvironmentNotReady(message, 'check "hf_endpoint" and HF_ENDPOINT') from None
    except Exception as error:
        if status_of(error) is None and not may_pass(error) and not isinstance(error, OSError):
            raise
        raise refusal(error, endpoint, repo_id, token) from None


def _check_kind(who: Mapping[str, Any], endpoint: str) -> None:
    """Raise EnvironmentNotReady for a token that is known to only read."""
    access = (who.get("auth") or {}).get("accessToken") or {}
    fine = access.get("fineGrained") or {}
    granted = {*(fine.get("global") or ()), *(what for one in fine.get("scoped") or () for what in one["permissions"])}
    grants_nothing = access.get("role") == "fineGrained" and fine and not granted & _WRITES
    if access.get("role") == "read" or grants_nothing:
        message = f"the token for {host_of(endpoint)} may only read"
        raise EnvironmentNotReady(message, f"make one that may write at {TOKENS}, then run {LOG_IN}")


def _repo_id(named: str, who: Mapping[str, Any]) -> str:
    """OWNER/NAME; the owner is who is logged in where the name has none."""
    owner, slash, name = named.rpartition("/")
    if not is_hub_name(name) or (slash and not is_hub_name(owner)):
        raise UsageError(f"{named!r} is no name that the hub takes", "write NAME or OWNER/NAME")
    return f"{owner or who['name']}/{name}"


def _have(hub: Any, repo_id: str, private: bool) -> None:
    """Make the repository where there is none; a token that may make none may still write to one that is there."""
    try:
        hub.create_repo(repo_id, private=private)
    except Exception as error:
        if status_of(error) not in {402, 403, 409} or not hub.repo_exists(repo_id):
            raise


def _check_write(hub: Any, repo_id: str) -> None:
    """Ask whether this token may write to a repository that was there before; where nobody can say, the upload will.

    Newer clients know how to ask, newer hubs how to answer.
    """
    if "write" not in inspect.signature(hub.auth_check).parameters:
        return
    try:
        hub.auth_check(repo_id, write=True)
    except Exception as error:
        if status_of(error) in {401, 403} or may_pass(error):
            raise
