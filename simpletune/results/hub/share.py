"""The end of a training: the model card is written, and the run goes to the hub where that is asked for."""

from __future__ import annotations

from simpletune.config.problems import shown
from simpletune.config.settings import Settings
from simpletune.disk_words import explain
from simpletune.errors import SimpletuneError, UploadFailed
from simpletune.progress import Reporter
from simpletune.results.card import write_card
from simpletune.results.hub.destination import Destination, prepare, wish_of
from simpletune.results.hub.upload import Pushed, push


def check(settings: Settings, reporter: Reporter) -> Destination | None:
    """Where this run will go, with the repository made; None where it goes nowhere. Raises what `prepare` raises."""
    if not settings.push_to_hub:
        return None
    destination = prepare(wish_of(settings), reporter.note)
    kind = "private" if destination.private else "public"
    reporter.note(f"the finished LoRA goes to {destination.url} ({kind})")
    return destination


def share(settings: Settings, destination: Destination | None, reporter: Reporter) -> None:
    """Write the card and upload the run. A card that can't be written is told, and no reason to fail where nothing is
    to be uploaded.

    Raises UploadFailed when the hub doesn't take the run, or there is no card to upload with it.
    """
    try:
        write_card(settings.output_dir, destination.repo_id if destination is not None else None)
    except (SimpletuneError, OSError) as error:
        said, remedy = explain(error)
        if isinstance(error, OSError) and remedy is None:
            said = f"{shown(str(error.filename))}: {said}"
        if destination is not None:
            hint = getattr(error, "hint", None) or remedy or "see that the output folder can be written to"
            raise UploadFailed(
                f"nothing was uploaded, as no model card could be written: {said}",
                f"{hint}; then `simpletune push` uploads the run, of which nothing is lost",
            ) from error
        again = f"{remedy}; `simpletune card` writes it then" if remedy else "`simpletune card` tries again"
        reporter.warn(f"no model card was written: {said}; {again}")
        return
    if destination is not None:
        tell(push(settings.output_dir, destination, reporter), destination, reporter)


def tell(pushed: Pushed, destination: Destination, reporter: Reporter) -> None:
    kind = "private" if destination.private else "public"
    what = "uploaded" if pushed.changed else "nothing has changed since the last upload"
    reporter.note(f"{what}: {pushed.url} ({kind})")
