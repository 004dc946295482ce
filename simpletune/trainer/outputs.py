"""What is left at the end of a run: the adapter, the gallery of base beside tuned, and the plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from simpletune import files
from simpletune.config.settings import Settings
from simpletune.errors import TrainingFailed
from simpletune.models.adapters import final_state
from simpletune.results.contact_sheet import contact_sheet
from simpletune.results.plots import plots
from simpletune.results.run_folder import ADAPTER_FILE, FINISHED_FILE, METRICS_FILE, PHASES_FILE
from simpletune.trainer.endings import refusal
from simpletune.trainer.manifest import adapter_metadata

if TYPE_CHECKING:
    from simpletune.trainer.session import Session


@dataclass(frozen=True)
class Outputs:
    adapter: Path
    gallery: Path | None
    plots: Path


def paths(settings: Settings) -> Outputs:
    """Where the outputs of a run are, or will be."""
    folder = settings.output_dir
    pictured = folder / "gallery.png" if settings.validation_prompts else None
    return Outputs(folder / ADAPTER_FILE, pictured, folder / "plots.png")


def unfinish(settings: Settings) -> None:
    """Steps are about to be trained: what lies there is no longer the run's outcome."""
    files.remove(settings.output_dir / FINISHED_FILE)


def write(session: Session) -> None:
    """Write the final adapter (and that of the averaged weights), the gallery and the plots.

    Raises TrainingFailed when the disk doesn't take one of them: the state is saved, and the next start writes them.
    """
    try:
        _write(session)
    except (OSError, SafetensorError) as error:
        said = refusal(error) if isinstance(error, OSError) else str(error)
        raise TrainingFailed(
            f"the results can't be written: {said}",
            f"all {session.step} steps are saved; make room on that disk, or mend what it says, and run the same "
            "command again: it writes what is missing",
        ) from error


def _write(session: Session) -> None:
    outputs = paths(session.settings)
    _write_adapter(session, outputs.adapter.parent)
    if session.ema is not None:
        folder = outputs.adapter.parent / "ema"
        folder.mkdir(exist_ok=True)
        with session.ema.applied():
            _write_adapter(session, folder)
    session.log.close()
    files.write_json(outputs.adapter.parent / PHASES_FILE, session.phases.as_json())
    plots(outputs.adapter.parent / METRICS_FILE, outputs.plots)
    if outputs.gallery is not None:
        contact_sheet(session.pictures.shots, _columns(session), outputs.gallery)
    if session.unsampled is not None:
        raise session.unsampled
    files.write_json(outputs.adapter.parent / FINISHED_FILE, {"step": session.step})


def _write_adapter(session: Session, folder: Path) -> None:
    state, metadata = final_state(session.transformer, session.settings)
    session.family.save_lora(folder, state, {**metadata, **adapter_metadata(session.settings, session.step)})


def _columns(session: Session) -> dict[str, Path]:
    """The gallery's columns: the base's pictures, then those of each set of weights."""
    columns = {"base": session.sample_folder("base")}
    names = {"raw": f"tuned, {session.step} steps", "ema": f"tuned, {session.step} steps, averaged"}
    return columns | {names[label]: session.sample_folder(label) for label in session.weight_sets()}
