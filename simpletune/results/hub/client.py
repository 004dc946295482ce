"""The hub's own client, for one address: quiet, with the login of its own, and plain transfers to mirrors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simpletune.errors import EnvironmentNotReady
from simpletune.machine.hub_access import HUB
from simpletune.results.hub.refusals import LOG_IN, TOKENS


def address_of(endpoint: str | None) -> str:
    """The hub's address, or a mirror's: HF_ENDPOINT wins over the key."""
    return (os.environ.get("HF_ENDPOINT") or endpoint or HUB).rstrip("/")


def token_of_login() -> str:
    """The token of the environment or of the hub's own login.

    Raises EnvironmentNotReady without the library, offline, and when nobody is logged in.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        message = f"huggingface_hub can't be imported: {error}"
        raise EnvironmentNotReady(message, "pip install --force-reinstall huggingface_hub") from error
    if constants.HF_HUB_OFFLINE:
        hint = 'unset it, or set "push_to_hub" to false and use `simpletune push` later'
        raise EnvironmentNotReady("HF_HUB_OFFLINE is set, and push_to_hub needs the hub", hint)
    try:
        token = huggingface_hub.get_token()
    except Exception as error:  # a login that should be there and can't be had
        raise EnvironmentNotReady(f"the hub's login can't be used: {type(error).__name__}", f"run {LOG_IN}") from error
    if not token:
        hint = f"run {LOG_IN}, or set HF_TOKEN, with a token that may write ({TOKENS})"
        raise EnvironmentNotReady("nobody is logged in to the hub here", hint)
    return str(token)


@contextmanager
def client(endpoint: str) -> Iterator[Any]:
    """An HfApi for the address, without bars and warnings of its own while the block lasts.

    Mirrors speak the plain transfer of large files, and seldom the hub's newest.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    verbosity, bars, newest = logging.get_verbosity(), not are_progress_bars_disabled(), constants.HF_HUB_DISABLE_XET
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        disable_progress_bars()
        constants.HF_HUB_DISABLE_XET = newest or endpoint != HUB
        try:
            yield HfApi(endpoint=endpoint, library_name="simpletune")
        finally:
            constants.HF_HUB_DISABLE_XET = newest
            logging.set_verbosity(verbosity)
            if bars:
                enable_progress_bars()
