"""What trackers need of this machine, found out without importing them: their package, and for W&B a login.

W&B looks for its key in WANDB_API_KEY, in the netrc file that `wandb login` writes, and in its settings files; it asks
on the terminal when it finds none. Looking here first, in the same places, is what makes that impossible in a run.
"""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# Tracker -> the module to look for and what to install for it.
TRACKER_LIBRARIES: Mapping[str, tuple[str, str]] = {
    "tensorboard": ("tensorboardX", "'simpletune[tensorboard]'"),
    "wandb": ("wandb", "'simpletune[wandb]'"),
    "trackio": ("trackio", "'simpletune[trackio]'"),
}
_SERVER = "https://api.wandb.ai"
_NOT_ONLINE = frozenset({"offline", "dryrun", "disabled"})


@dataclass(frozen=True)
class WandbLogin:
    """How W&B will be spoken to: `online` is False where nothing is sent; `key` is None where none was found, or where
    a token file (`has_token_file`) stands for it."""

    online: bool
    server: str
    key: str | None
    has_token_file: bool

    @property
    def ready(self) -> bool:
        """Whether a run can be started without a question."""
        return not self.online or self.key is not None or self.has_token_file


def wandb_login() -> WandbLogin:
    """What the environment, W&B's settings files and the netrc file say; the first of them that says it counts."""
    saved = _settings()
    mode = os.environ.get("WANDB_MODE") or saved.get("mode") or "online"
    off = saved.get("disabled") == "true" or os.environ.get("WANDB_DISABLED", "").lower() in {"1", "true"}
    server = (os.environ.get("WANDB_BASE_URL") or saved.get("base_url") or _SERVER).rstrip("/")
    return WandbLogin(
        online=mode not in _NOT_ONLINE and not off,
        server=server,
        key=os.environ.get("WANDB_API_KEY") or _netrc_key(server) or saved.get("api_key") or None,
        has_token_file=bool(os.environ.get("WANDB_IDENTITY_TOKEN_FILE")),
    )


def _settings() -> dict[str, str]:
    """W&B's settings files: the user's, then the folder's, which counts more."""
    home = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    found: dict[str, str] = {}
    for path in (Path(home) / "settings", Path(os.environ.get("WANDB_DIR") or ".") / "wandb" / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        found |= dict(parser["default"]) if parser.has_section("default") else {}
    return found


def _netrc_key(server: str) -> str | None:
    named = os.environ.get("NETRC")
    for path in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            found = netrc.netrc(path).authenticators(urlsplit(server).netloc)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if found is not None and found[2]:
            return found[2]
    return None
