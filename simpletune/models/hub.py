"""Models from the Hugging Face hub: only the files a run needs, with progress, and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config import architecture
from simpletune.config.families import Flavour
from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
from simpletune.machine.hub_access import SEND_LOGIN, gets_login, host_of, not_sent
from simpletune.machine.hub_snapshot import snapshot
from simpletune.models import components

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_KEY = '"pretrained_model_name_or_path"'
_LOCAL_WAY = f"or set {_KEY} to a local folder in the diffusers layout, or to a single .safetensors file"


@dataclass(frozen=True)
class Asked:
    """A repository of the hub, and how whoever asks for it calls things in messages.

    endpoint: the address of a mirror, which HF_ENDPOINT wins over. gated: whether it is known to be behind a licence.
    """

    repo_id: str
    revision: str | None = None
    endpoint: str | None = None
    gated: bool = False
    name_key: str = _KEY
    revision_key: str = '"revision"'
    mirror_way: str = 'name a mirror with "hf_endpoint"'
    local_way: str = _LOCAL_WAY

    @property
    def address(self) -> str | None:
        return os.environ.get("HF_ENDPOINT") or self.endpoint


def download(source: str, flavour: Flavour, settings: Settings, reporter: Reporter | None) -> tuple[Path, str | None]:
    """The snapshot of a hub model with the files a run needs, and its commit. An interrupted download goes on."""
    gated = flavour.gated and source == flavour.hub_id
    asked = Asked(source, settings.revision, settings.hf_endpoint, gated)
    folder = fetch(asked, patterns(settings.use_t5), reporter)
    return folder, folder.name if folder.parent.name == "snapshots" else None


def fetch(asked: Asked, wanted: Sequence[str], reporter: Reporter | None, unwanted: Sequence[str] = ()) -> Path:
    """The snapshot of a repository with the files that match a pattern of `wanted` and none of `unwanted`.

    Raises ModelUnavailable, with what to do, when the hub doesn't give them and they aren't here already.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    arguments = {
        "repo_id": asked.repo_id,
        "revision": asked.revision,
        "allow_patterns": list(wanted),
        "ignore_patterns": list(unwanted) or None,
        "endpoint": asked.address,
    }
    try:
        return snapshot(arguments, reporter)
    except (HfHubHTTPError, HFValidationError, OSError, ConnectionError) as error:
        raise unavailable(error, asked) from error


def patterns(use_t5: bool) -> list[str]:
    """The files of a hub repository in the diffusers layout that a run reads; no pickles, no second precision."""
    wanted = ["model_index.json", "scheduler/scheduler_config.json", "README.md"]  # which tells the licence
    for part in components.needed_parts(use_t5):
        if part in architecture.TOKENIZER_PARTS:
            wanted += [f"{part}/*.json", f"{part}/*.txt", f"{part}/*.model"]
        elif part in architecture.WEIGHT_PARTS:
            stem = components.weights_stem(part)
            names = ("config.json", f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}-*.safetensors")
            wanted += [f"{part}/{name}" for name in names]
    return wanted


def unavailable(error: Exception, asked: Asked) -> ModelUnavailable:
    """What a hub error means for the person, and what to do about it."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    source, local_way = asked.repo_id, asked.local_way
    licence = f"https://huggingface.co/{source}"
    accept = f"accept its licence at {licence}, then run `hf auth login`; {local_way}"
    if isinstance(error, GatedRepoError | RepositoryNotFoundError) and not gets_login(asked.address):
        what = "is gated" if isinstance(error, GatedRepoError) else "isn't there for everybody"
        message = f"{source} {what}, and {not_sent(host_of(asked.address or ''))}"
        return ModelUnavailable(message, f"{SEND_LOGIN}; {local_way}")
    if isinstance(error, GatedRepoError):
        return ModelUnavailable(f"{source} is gated: the hub gives it only to those who accepted its licence", accept)
    if isinstance(error, RevisionNotFoundError):
        hint = f"check {asked.revision_key}, or leave it out"
        return ModelUnavailable(f"{source} has no revision {asked.revision!r}", hint)
    if isinstance(error, RepositoryNotFoundError):
        if asked.gated:
            return ModelUnavailable(f"the hub doesn't give {source} to this account", accept)
        return ModelUnavailable(
            f"the hub has no model {source!r}, or it is private", f"check the name, or run `hf auth login`; {local_way}"
        )
    if isinstance(error, HFValidationError):
        message = f"{asked.name_key} is {source!r}: neither a path nor a hub name"
        return ModelUnavailable(message, "a hub name is OWNER/NAME")
    where = asked.address or "https://huggingface.co"
    if isinstance(error, LocalEntryNotFoundError):
        return ModelUnavailable(
            f"{source} isn't (fully) on this machine and {where} can't be reached",
            f"connect to the network, or {asked.mirror_way}; {local_way}",
        )
    return ModelUnavailable(
        f"{source} can't be downloaded from {where}: {_first_line(error)}",
        f"run the same command again: the download goes on where it stopped; {local_way}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
