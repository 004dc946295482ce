"""Models from the Hugging Face hub: only the files a run needs, with progress, and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.config import architecture
from simpletune.config.families import Flavour
from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
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
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    arguments = {
        "repo_id": asked.repo_id,
        "revision": asked.revision,
        "allow_patterns": list(wanted),
        "ignore_patterns": list(unwanted) or None,
        "endpoint": asked.address,
    }
    try:
        pending, done = _pending_bytes(arguments)
        with _shown(reporter, asked.repo_id, pending, done) as bars:
            return Path(huggingface_hub.snapshot_download(**arguments, **bars))
    except (HfHubHTTPError, HFValidationError, OSError, ConnectionError) as error:
        raise unavailable(error, asked) from error


def patterns(use_t5: bool) -> list[str]:
    """The files of a hub repository in the diffusers layout that a run reads; no pickles, no second precision."""
    wanted = ["model_index.json", "scheduler/scheduler_config.json"]
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


def _pending_bytes(wanted: dict[str, Any]) -> tuple[int, int]:
    """Bytes of all wanted files and of those here already; (0, 0) when the hub can't be asked."""
    import huggingface_hub
    from huggingface_hub.errors import DryRunError

    try:
        listing = huggingface_hub.snapshot_download(**wanted, dry_run=True)
    except DryRunError:
        return 0, 0  # offline or refused: the real call finds the cached files, or raises what is to be said
    total = sum(item.file_size for item in listing)
    return total, total - sum(item.file_size for item in listing if item.will_download)


@contextmanager
def _shown(reporter: Reporter | None, source: str, total: int, done: int) -> Iterator[dict[str, Any]]:
    """Arguments that lead the hub's byte counts to the reporter; the hub's own bars where there is none."""
    if reporter is None or total == done:
        yield {"tqdm_class": _bar_class(lambda _bytes: None)}
        return
    with reporter.phase(f"downloading {source}", total, "B", done=done) as phase:
        yield {"tqdm_class": _bar_class(phase.advance)}


def _bar_class(advance: Callable[[float], None]) -> Any:
    """A silent progress bar that tells `advance` the bytes received.

    Newer hubs show one bar of bytes received and one of bytes written: only the furthest of them counts.
    """
    from huggingface_hub.utils import tqdm

    counts: dict[int, float] = {}
    furthest = 0.0

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"file": _Nowhere()}))

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal furthest
            if self._bytes and n:
                counts[id(self)] = counts.get(id(self), 0.0) + n
                if counts[id(self)] > furthest:
                    advance(counts[id(self)] - furthest)
                    furthest = counts[id(self)]
            return super().update(n)

    return Bar


class _Nowhere:
    """A text stream that drops what is written, for bars that are shown elsewhere."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
