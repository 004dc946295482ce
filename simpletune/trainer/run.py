"""A whole run, top to bottom: prepare, loop, finish.

    encode      text encoders, then the VAE, fill the caches and leave; skipped where everything is cached
    build       the transformer streams in, quantized; the LoRA is attached; a checkpoint is taken up
    loop        step, note, evaluate, checkpoint, until the last step or a request to stop
    finish      adapter, pictures, plots

Raises ConfigError, EnvironmentNotReady and ModelUnavailable before anything is trained, TrainingFailed for a loss
that is not finite or a disk that takes no file, OutOfMemory, and Interrupted, Terminated or HungUp for a signal: while
it trains, once the state is saved; elsewhere at once, with what is encoded kept.
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from simpletune.config import architecture
from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.disk_words import in_words
from simpletune.errors import ConfigError, DataError, SimpletuneError
from simpletune.models import components
from simpletune.models.adapter_start import kinds_of
from simpletune.models.lora_file import read_adapter
from simpletune.models.registry import get_family
from simpletune.models.runtime import quiet_libraries
from simpletune.progress import Reporter, SilentReporter
from simpletune.trainer import checkpoint, outputs
from simpletune.trainer.asked import Asked
from simpletune.trainer.assemble import check_forward
from simpletune.trainer.endings import explained_endings
from simpletune.trainer.execution import check_wanted
from simpletune.trainer.interrupt import StopRequest, ended
from simpletune.trainer.lock import run_lock
from simpletune.trainer.material import gather
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes
from simpletune.trainer.resume import check_material, tell_changes
from simpletune.trainer.room import check_disks
from simpletune.trainer.session import Session, open_session
from simpletune.trainer.short_memory import explained
from simpletune.trainer.start import check_resumable, find_checkpoint, lost_adapters, was_finished


@dataclass(frozen=True)
class Outcome:
    """What a run left: the number of steps done in all, and the files to look at."""

    steps: int
    adapter: Path
    gallery: Path | None
    plots: Path | None
    trained: int
    """Steps of this start; 0 for a run that was finished before."""
    written: bool
    """Whether this start wrote the outputs."""


def train(
    settings: Settings,
    preflight: Preflight,
    reporter: Reporter,
    stop: StopRequest | None = None,
    asked: Asked | None = None,
) -> Outcome:
    """Run the training that `settings` describe on the pictures that `preflight` found.

    stop: takes the signals that the caller catches (`interrupt.stop_requests`). asked: the start's command line.
    """
    asked = asked or Asked(settings.config_path)
    quiet_libraries()
    stop = stop or StopRequest()
    processes = Processes(settings)
    if not processes.is_main:
        reporter = SilentReporter()
    try:
        check_wanted(settings, processes.device)
        _make_folder(settings.output_dir)
        phases = PhaseLog(processes.device)
        lock = run_lock(settings.output_dir) if processes.is_main else nullcontext()
        endings = explained_endings(settings, phases, stop)
        with endings, lock, explained(settings, preflight, phases, processes.device):
            found = find_checkpoint(settings, asked, reporter)
            if found is not None:
                check_resumable(found, settings, asked, processes.world_size)
                tell_changes(found, settings, reporter)
            if processes.is_main:
                checkpoint.remove_leftovers(settings.output_dir)
            if (done := finished(settings, found, preflight.total_steps, reporter)) is not None:
                return done
            check_start(settings)
            if processes.is_main:
                check_disks(settings, preflight)
            family = get_family(settings.model_family)
            material = gather(settings, preflight, family, processes, phases, reporter)
            if found is not None:
                check_material(found, material, settings, asked, reporter)
            session = open_session(settings, family, material, processes, phases, reporter, found)
            began = session.step
            with closing(session.log), session.trackers, session.shown() as screen:
                with stop.deferred(screen.stopping), phases.measure("train"):
                    loop(session, stop)
                return finish(session, began, stop)
    finally:
        processes.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {folder} can't be made: {in_words(error)}", "name a folder that can be written to"
        ) from error


def finished(settings: Settings, found: Path | None, total_steps: int, reporter: Reporter) -> Outcome | None:
    """What a run left that has done all its steps and written all its outputs; None when there is work to do, were it
    but an adapter that was lost since."""
    if found is None or not was_finished(settings, found, total_steps):
        return None
    if lost := lost_adapters(settings):
        for file, why in lost.items():
            reporter.warn(f"{display(file)} can't be read: {why}; it is written again from {found.name}")
        return None
    done = checkpoint.step_of(found)
    reporter.note(f"this run is finished: {done} steps are done, and {total_steps} were asked for")
    reporter.note('to train on, raise "max_train_steps"; `simpletune train --new-folder` starts a run beside it')
    left = outputs.paths(settings)
    return Outcome(done, left.adapter, left.gallery, left.plots, 0, written=False)


def check_start(settings: Settings) -> None:
    """Find out before anything is encoded or loaded what would stop the run later.

    Raises ConfigError for an `init_lora` that can't be read, a `lora_target` that matches nothing in the flavour, and a
    LoRA that can't be compiled or offloaded where that is asked for.
    """
    if settings.init_lora is not None:
        read_adapter(settings.init_lora)
    config = architecture.component_config(settings.model_flavour, "transformer")
    targets = tuple(kinds_of(components.empty_module("transformer", config), settings))
    check_forward(settings, targets)


def loop(session: Session, stop: StopRequest) -> None:
    """Train from where the session stands to its last step, or until it is asked to stop, and save."""
    try:
        signalled = _steps(session, stop)
    except DataError as error:
        raise _saved_before(error, session) from error
    session.log.drain()
    session.save_last()
    stop.saved = True
    if signalled:
        raise _ended_early(session, signalled)


def _steps(session: Session, stop: StopRequest) -> int:
    """The signal that ended them before the last one, 0 for none."""
    settings, total = session.settings, session.total_steps
    session.validate_if_due(stop)
    for batch in session.batches(stop):
        if signalled := session.asked_to_stop(stop):
            return signalled
        rate = session.set_learning_rate()
        result = session.advance(batch)
        session.log.push(session.step, batch, rate, result, session.processes.asked)
        if session.step % settings.checkpoint_step_interval == 0 and session.step < total:
            session.save_checkpoint()
        if session.step % settings.validation_step_interval == 0 and session.step < total:
            session.validate(stop)
    return session.asked_to_stop(stop) if session.step < total else 0  # asked while it waited for its data


def _saved_before(error: DataError, session: Session) -> DataError:
    """Data that can't be had any more is found out between two steps: what is trained so far is saved.

    Several processes would wait for one another there.
    """
    if session.processes.world_size > 1:
        return error
    session.save_last()
    return DataError(f"{error.message}\nstopped after step {session.step}; the state is saved", error.hint)


def finish(session: Session, began: int, stop: StopRequest) -> Outcome:
    """The last validation, the adapter, the gallery and the plots. began: the step this start went on from."""
    with stop.deferred(session.screen.stopping):
        session.validate(stop)
    outputs = session.write_outputs()
    session.processes.wait()
    trained = session.step - began
    return Outcome(session.step, outputs.adapter, outputs.gallery, outputs.plots, trained, written=True)


def _ended_early(session: Session, signalled: int) -> SimpletuneError:
    message = f"stopped after step {session.step} of {session.total_steps}; the state is saved"
    hint = "run the same command again to continue"
    if session.settings.resume_from_checkpoint != "latest":
        hint = 'set "resume_from_checkpoint" to "latest" and run again to continue'
    return ended(signalled, message, hint)
