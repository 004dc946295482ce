"""A whole run, top to bottom: prepare, loop, finish.

    encode      text encoders, then the VAE, fill the caches and leave; skipped where everything is cached
    build       the transformer streams in, quantized; the LoRA is attached; a checkpoint is taken up
    loop        step, note, evaluate, checkpoint, until the last step or a request to stop
    finish      adapter, pictures, plots

Raises ConfigError, EnvironmentNotReady and ModelUnavailable before anything is trained, TrainingFailed for a loss
that is not finite, OutOfMemory, and Interrupted or Terminated once the state is saved.
"""

from __future__ import annotations

import signal
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from simpletune.config import architecture
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.errors import ConfigError, Interrupted, Terminated
from simpletune.models import components
from simpletune.models.adapters import lora_targets
from simpletune.models.lora_file import read_adapter
from simpletune.models.registry import get_family
from simpletune.models.runtime import quiet_libraries
from simpletune.progress import Reporter, SilentReporter
from simpletune.trainer import checkpoint, outputs
from simpletune.trainer.assemble import check_forward
from simpletune.trainer.execution import check_wanted
from simpletune.trainer.interrupt import StopRequest, stop_requests
from simpletune.trainer.lock import run_lock
from simpletune.trainer.manifest import check_resumable
from simpletune.trainer.material import gather
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes
from simpletune.trainer.resume import find_checkpoint
from simpletune.trainer.session import Session, open_session
from simpletune.trainer.short_memory import explained


@dataclass(frozen=True)
class Outcome:
    """What a run left: the number of steps done in all, and the files to look at."""

    steps: int
    adapter: Path
    gallery: Path | None
    plots: Path | None
    trained: int
    """Steps of this start; 0 for a run that was finished before."""


def train(settings: Settings, preflight: Preflight, reporter: Reporter) -> Outcome:
    """Run the training that `settings` describe on the pictures that `preflight` found."""
    quiet_libraries()
    processes = Processes(settings)
    if not processes.is_main:
        reporter = SilentReporter()
    try:
        check_wanted(settings, processes.device)
        _make_folder(settings.output_dir)
        phases = PhaseLog(processes.device)
        lock = run_lock(settings.output_dir) if processes.is_main else nullcontext()
        with lock, explained(settings, preflight, phases, processes.device):
            found = find_checkpoint(settings, reporter)
            if (done := finished(settings, found, preflight.total_steps, reporter)) is not None:
                return done
            check_start(settings, found)
            if processes.is_main:
                checkpoint.remove_leftovers(settings.output_dir)
            family = get_family(settings.model_family)
            material = gather(settings, preflight, family, processes, phases, reporter)
            session = open_session(settings, family, material, processes, phases, reporter, found)
            began = session.step
            with closing(session.log), session.trackers, session.shown() as screen:
                with stop_requests(screen.stopping) as stop, phases.measure("train"):
                    loop(session, stop)
                return finish(session, began)
    finally:
        processes.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder} can't be made: {error.strerror}", "name a folder that can be written to"
        ) from error


def finished(settings: Settings, found: Path | None, total_steps: int, reporter: Reporter) -> Outcome | None:
    """What a run left that has done all its steps and written all its outputs; None when there is work to do."""
    done = outputs.finished_step(settings)
    if found is None or done is None or done != checkpoint.step_of(found) or done < total_steps:
        return None
    check_start(settings, found)
    reporter.note(f"this run is finished: {done} steps are done, and {total_steps} were asked for")
    reporter.note('to train on, raise "max_train_steps"; for a new run, name another "output_dir"')
    left = outputs.paths(settings)
    return Outcome(done, left.adapter, left.gallery, left.plots, 0)


def check_start(settings: Settings, found: Path | None) -> None:
    """Find out before anything is encoded or loaded what would stop the run later.

    Raises ConfigError for a checkpoint of other settings, an `init_lora` that can't be read, a `lora_target` that
    matches nothing in the flavour, and a LoRA that can't be compiled or offloaded where that is asked for.
    """
    if found is not None:
        check_resumable(checkpoint.read_state(found)["settings"], settings, found)
    if settings.init_lora is not None:
        read_adapter(settings.init_lora)
    config = architecture.component_config(settings.model_flavour, "transformer")
    targets = lora_targets(components.empty_module("transformer", config), settings)
    check_forward(settings, targets)


def loop(session: Session, stop: StopRequest) -> None:
    """Train from where the session stands to its last step."""
    settings, total, signalled = session.settings, session.total_steps, 0
    session.validate_if_due(stop)
    for batch in session.batches():
        signalled = session.processes.agree(stop.signal, session.step)
        if signalled:
            break
        rate = session.set_learning_rate()
        result = session.advance(batch)
        session.log.push(session.step, batch.epoch, rate, batch.sample_count, batch.waited, result)
        if session.step % settings.checkpoint_step_interval == 0 and session.step < total:
            session.save_checkpoint()
        if session.step % settings.validation_step_interval == 0 and session.step < total:
            session.validate(stop)
    session.log.drain()
    with stop.saving():
        session.save_last()
    if signalled:
        _end_early(session, signalled)


def finish(session: Session, began: int) -> Outcome:
    """The last validation, the adapter, the gallery and the plots. began: the step this start went on from."""
    session.validate()
    outputs = session.write_outputs()
    session.processes.wait()
    return Outcome(session.step, outputs.adapter, outputs.gallery, outputs.plots, session.step - began)


def _end_early(session: Session, signalled: int) -> None:
    message = f"stopped after step {session.step} of {session.total_steps}; the state is saved"
    hint = "run the same command again to continue"
    if session.settings.resume_from_checkpoint != "latest":
        hint = 'set "resume_from_checkpoint" to "latest" and run again to continue'
    if signalled == signal.SIGTERM:
        raise Terminated(message, hint)
    raise Interrupted(message, hint)
