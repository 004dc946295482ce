"""What is left at the end of a run: the adapter, the gallery of base beside tuned, and the plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune import files
from simpletune.config.settings import Settings
from simpletune.models.adapters import final_state
from simpletune.results.gallery import GalleryRow, gallery
from simpletune.results.plots import plots
from simpletune.trainer.log import METRICS_FILE

if TYPE_CHECKING:
    from simpletune.trainer.session import Session

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PHASES_FILE = "phases.json"


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


def write(session: Session) -> None:
    """Write the final adapter (and that of the averaged weights), the gallery and the plots."""
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
        gallery(_rows(session), outputs.gallery)


def _write_adapter(session: Session, folder: Path) -> None:
    state, metadata = final_state(session.transformer, session.settings)
    session.family.save_lora(folder, state, metadata)


def _rows(session: Session) -> list[GalleryRow]:
    """A row a shot: the base's picture, then one for each set of weights."""
    columns = {"base": session.sample_folder("base")}
    names = {"raw": f"tuned, {session.step} steps", "ema": f"tuned, {session.step} steps, averaged"}
    columns |= {names[label]: session.sample_folder(label) for label in session.weight_sets()}
    return [
        GalleryRow(
            f"{shot.prompt}  (seed {shot.seed})", {name: folder / shot.file_name for name, folder in columns.items()}
        )
        for shot in session.shots
    ]
