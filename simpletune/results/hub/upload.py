"""One commit with everything; tried again where that may help, sending only what isn't there yet."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simpletune.config.document import display
from simpletune.config.problems import shown
from simpletune.errors import UploadFailed
from simpletune.machine.hub_access import host_of
from simpletune.progress import Phase, Reporter
from simpletune.results.card import write_card
from simpletune.results.card.facts import Facts, gather_facts
from simpletune.results.card.text import counted
from simpletune.results.hub.client import client, token_of_login
from simpletune.results.hub.contents import OURS, Item, items
from simpletune.results.hub.destination import Destination
from simpletune.results.hub.refusals import said, status_of
from simpletune.results.hub.retry import SENDING, patiently

_LARGE = 2**20  # bytes; smaller files go together


@dataclass(frozen=True)
class Pushed:
    """What an upload came to. `changed`: whether the repository is another than before."""

    url: str
    commit: str
    changed: bool


def push(folder: Path, destination: Destination, reporter: Reporter) -> Pushed:
    """Upload the finished run in `folder`, with its card written for that repository.

    Raises UsageError when there is no finished run, UploadFailed when the hub doesn't take it: the run's files are as
    they were then, and the same upload can be tried again.
    """
    card = write_card(folder, destination.repo_id)
    if card.kept:
        reporter.note(f"{shown(display(card.path))} was changed by hand, and goes up as it is")
    facts, token = gather_facts(folder), token_of_login()
    wanted = items(facts, card.pictures)
    size = sum(item.size for item in wanted)
    try:
        with client(destination.endpoint) as hub, reporter.phase(f"to {destination.repo_id}", size, "B") as phase:
            commit = partial(_commit, hub, destination, wanted, _message(facts), _advance_once(phase))
            done = patiently(commit, token, reporter.warn, "the upload", SENDING)
    except Exception as error:
        raise _failed(error, folder, destination, token) from None
    return done


def _advance_once(phase: Phase) -> Callable[[Item], None]:
    """Tells the phase the bytes of a file the first time it is there."""
    told: set[str] = set()

    def there(item: Item) -> None:
        if item.name not in told:
            told.add(item.name)
            phase.advance(item.size)

    return there


def _commit(
    hub: Any, destination: Destination, wanted: Sequence[Item], message: str, sent: Callable[[Item], None]
) -> Pushed:
    """The files that the repository lacks or has otherwise, and none of an earlier upload that is no more.

    The operations are made anew each time, as the library asks the hub once for each whether it has that: so what came
    through before isn't sent again, and a commit whose answer got lost isn't made twice.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    before = hub.repo_info(destination.repo_id)
    there = [sibling.rfilename for sibling in before.siblings or ()]
    names = {item.name for item in wanted}
    gone = [CommitOperationDelete(name) for name in there if name.startswith(OURS) and name not in names]
    adds = [CommitOperationAdd(item.name, item.content) for item in wanted]
    for item, add in zip(wanted, adds, strict=True):
        if item.size >= _LARGE:
            hub.preupload_lfs_files(destination.repo_id, [add], free_memory=False)
            sent(item)
    after = hub.create_commit(destination.repo_id, [*adds, *gone], commit_message=message)
    for item in wanted:
        sent(item)
    return Pushed(destination.url, after.oid, after.oid != before.sha)


def _message(facts: Facts) -> str:
    steps = facts.adapter.steps
    return "LoRA" if steps is None else f"LoRA after {counted(steps, 'step')}"


def _failed(error: Exception, folder: Path, destination: Destination, token: str) -> UploadFailed:
    status = status_of(error)
    answered = f"{host_of(destination.endpoint)} answered {status}, " if status is not None else ""
    message = f"the upload to {destination.repo_id} failed: {answered}{said(error, token)}"
    again = f"simpletune push {shlex.quote(shown(display(folder)))} --repo {destination.repo_id}"
    public = "" if destination.private else " --public"
    return UploadFailed(message, f"the run is finished and nothing of it is lost; to try again: `{again}{public}`")
