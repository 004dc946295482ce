"""A repository's files on this machine, downloaded by the hub's own client with the bytes shown as ours are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletune.machine.hub_access import token_for

if TYPE_CHECKING:
    from simpletune.progress import Reporter


def snapshot(
    arguments: dict[str, Any], reporter: Reporter | None, when_known: Callable[[int], None] = lambda _bytes: None
) -> Path:
    """What `huggingface_hub.snapshot_download` makes of the arguments; an interrupted download goes on.

    `when_known` is told the size of all wanted files in bytes. Raises what the hub's client raises.
    """
    import huggingface_hub

    arguments = {**arguments, "token": token_for(arguments.get("endpoint"))}
    total, done = pending_bytes(arguments)
    when_known(total)
    with _shown(reporter, arguments["repo_id"], total, done) as bars:
        return Path(huggingface_hub.snapshot_download(**arguments, **bars))


def pending_bytes(wanted: dict[str, Any]) -> tuple[int, int]:
    """Bytes of all wanted files and of those here already; (0, 0) when the hub can't be asked."""
    import huggingface_hub
    from huggingface_hub.errors import DryRunError

    try:
        listing = huggingface_hub.snapshot_download(**wanted, dry_run=True, tqdm_class=_bar_class(lambda _bytes: None))
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

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # nothing is drawn, so no thread need see to it

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
            updated: bool | None = super().update(n)
            return updated

    return Bar


class _Nowhere:
    """A text stream that drops what is written, for bars that are shown elsewhere."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
