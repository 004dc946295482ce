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

import torch

from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.errors import Interrupted, OutOfMemory, Terminated
from simpletune.models.registry import get_family
from simpletune.progress import Reporter, SilentReporter
from simpletune.trainer import checkpoint, outputs
from simpletune.trainer.interrupt import StopRequest, stop_requests
from simpletune.trainer.lock import run_lock
from simpletune.trainer.manifest import check_resumable
from simpletune.trainer.material import gather
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes
from simpletune.trainer.resume import find_checkpoint
from simpletune.trainer.session import Session, open_session


@dataclass(frozen=True)
class Outcome:
    """What a run left: the number of steps done in all, and the files to look at."""

    steps: int
    adapter: Path
    gallery: Path | None
    plots: Path | None


def train(settings: Settings, preflight: Preflight, reporter: Reporter) -> Outcome:
    """Run the training that `settings` describe on the pictures that `preflight` found."""
    quiet_libraries()
    processes = Processes(settings)
    if not processes.is_main:
        reporter = SilentReporter()
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(settings.output_dir) if processes.is_main else nullcontext():
            family = get_family(settings.model_family)
            if (done := finished(settings, preflight, reporter)) is not None:
                return done
            checkpoint.remove_leftovers(settings.output_dir) if processes.is_main else None
            phases = PhaseLog(processes.device)
            material = gather(settings, preflight, family, processes, phases, reporter)
            session = open_session(settings, family, material, processes, phases, reporter)
            with closing(session.log):
                with stop_requests() as stop, phases.measure("train"):
                    loop(session, stop)
                return finish(session)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(settings, error) from error
    finally:
        processes.close()


def finished(settings: Settings, preflight: Preflight, reporter: Reporter) -> Outcome | None:
    """What a run left that has done all its steps already and has its adapter; None when there is work to do."""
    found = find_checkpoint(settings, reporter)
    left = outputs.paths(settings)
    if found is None or not left.adapter.is_file():
        return None
    state = checkpoint.load_checkpoint(found)
    if state.step < preflight.total_steps:
        return None
    check_resumable(state.state["settings"], settings, found)
    reporter.note(f"this run is finished: {found.name} has done the {preflight.total_steps} steps asked for")
    reporter.note('to train on, raise "max_train_steps"; for a new run, name another "output_dir"')
    return Outcome(state.step, left.adapter, left.gallery, left.plots)


def loop(session: Session, stop: StopRequest) -> None:
    """Train from where the session stands to its last step."""
    settings, total = session.settings, session.total_steps
    with session.reporter.phase("Training", total, "step", done=session.step) as phase:
        session.log.show_on(phase)
        session.validate_if_fresh()
        for batch in session.batches():
            rate = session.set_learning_rate()
            result = session.advance(batch)
            session.log.push(session.step, batch.epoch, rate, batch.sample_count, result)
            if session.processes.any(stop.requested):
                break
            if session.step % settings.checkpoint_step_interval == 0 and session.step < total:
                session.save_checkpoint()
            if session.step % settings.validation_step_interval == 0 and session.step < total:
                session.validate()
        session.log.drain()
    session.save_checkpoint()
    if stop.requested:
        _end_early(session, stop)


def finish(session: Session) -> Outcome:
    """The last validation, the adapter, the gallery and the plots."""
    session.validate()
    outputs = session.write_outputs()
    session.processes.wait()
    for line in session.phases.table():
        session.reporter.note(line)
    return Outcome(session.step, outputs.adapter, outputs.gallery, outputs.plots)


def quiet_libraries() -> None:
    """Keep the libraries' advice to programmers off a trainer's screen; their errors are raised all the same."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


def _end_early(session: Session, stop: StopRequest) -> None:
    message = f"stopped after step {session.step} of {session.total_steps}; the state is saved"
    hint = "run the same command again to continue"
    if stop.signal == signal.SIGTERM:
        raise Terminated(message, hint)
    raise Interrupted(message, hint)


def _out_of_memory(settings: Settings, error: torch.OutOfMemoryError) -> OutOfMemory:
    """Name the cheapest setting that still lowers the need."""
    if not settings.gradient_checkpointing:
        hint = 'set "gradient_checkpointing" to true: activations are then recomputed instead of kept'
    elif settings.train_batch_size > 1:
        hint = (
            f'lower "train_batch_size" from {settings.train_batch_size} and raise "gradient_accumulation_steps" '
            "by as much: the result is the same"
        )
    elif settings.base_model_precision in {"no_change", "int8-quanto", "fp8-quanto"}:
        hint = 'set "base_model_precision" to "int4-quanto", or lower "resolution"'
    else:
        hint = 'lower "resolution" or "lora_rank"'
    return OutOfMemory(f"the device's memory is full: {str(error).splitlines()[0]}", hint)
