"""Where this user's caches of this program are: what is made again when it is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder `simpletune` among the user's caches, which need not exist."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "simpletune"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "simpletune" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "simpletune"
    return Path.home() / ".cache" / "simpletune"
