"""A training in progress: the model, its adapter, where it stands, and everything that is done between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from simpletune import files
from simpletune.config.document import display
from simpletune.config.settings import Settings
from simpletune.data.loader import Loader, MicroBatch, StepBatch
from simpletune.data.plan import SampleRef
from simpletune.errors import TrainingFailed
from simpletune.models.adapters import adapter_enabled, attach_lora
from simpletune.models.family import Family
from simpletune.progress import Reporter, SilentTraining, TrainingPhase, TrainingPlan
from simpletune.results.curves import read_curves
from simpletune.results.run_folder import DATA_FILE, METRICS_FILE, SAMPLES_FOLDER, latest
from simpletune.results.studio import Studio, check_sizes
from simpletune.trainer import outputs, validation
from simpletune.trainer.assemble import assemble
from simpletune.trainer.ema import Ema
from simpletune.trainer.interrupt import Stopped, StopRequest
from simpletune.trainer.log import StepLog, usable_gib
from simpletune.trainer.manifest import write_run
from simpletune.trainer.material import EMPTY_CAPTION, Material
from simpletune.trainer.nonfinite import LoaderWitness
from simpletune.trainer.optimizers import parameter_dtype, set_learning_rate
from simpletune.trainer.phases import PhaseLog
from simpletune.trainer.processes import Processes
from simpletune.trainer.resume import restore
from simpletune.trainer.saver import Saver, contents_of
from simpletune.trainer.schedules import learning_rate_at
from simpletune.trainer.step import StepResult, TrainingStep
from simpletune.trainer.tracking.tracker import Picture
from simpletune.trainer.tracking.trackers import Trackers, open_trackers
from simpletune.trainer.validation import Validation

BASE = "base"
_VALIDATING, _SAVING, _WRITING = "Validating", "Saving", "Writing"  # ten letters fit the display's column


@dataclass
class Session:
    """Mutable only in `step`, the number of optimizer steps done, and in what it holds (weights, optimizer, EMA)."""

    settings: Settings
    family: Family
    material: Material
    processes: Processes
    phases: PhaseLog
    reporter: Reporter
    transformer: nn.Module
    parameters: dict[str, Parameter]
    optimizer: Optimizer
    ema: Ema | None
    step_function: TrainingStep
    loader: Loader
    held_out: tuple[MicroBatch, ...]
    log: StepLog
    pictures: Validation
    total_steps: int
    saver: Saver
    trackers: Trackers = field(default_factory=Trackers)
    screen: TrainingPhase = field(default_factory=SilentTraining)
    step: int = 0
    began: int = 0
    validated_at: int | None = None
    unsampled: OSError | None = None
    """Why the sample pictures of the last validation are not all written."""

    @contextmanager
    def shown(self) -> Iterator[TrainingPhase]:
        """Show the training inside the block; at its end nothing is being saved any more."""
        with self.saver, self.reporter.training(self._plan()) as self.screen:
            self.log.show_on(self.screen)
            yield self.screen

    def _plan(self) -> TrainingPlan:
        asides = {_SAVING: self.settings.checkpoint_step_interval}
        if _validates(self):
            asides[_VALIDATING] = self.settings.validation_step_interval
        earlier = read_curves(self.settings.output_dir / METRICS_FILE)["loss"].values if self.step else ()
        usable = usable_gib(self.processes.device, self.settings.device_memory_gb)
        return TrainingPlan(self.total_steps, self.step, asides, usable, [float(loss) for loss in earlier])

    def batches(self, stop: StopRequest) -> Iterator[StepBatch]:
        """The steps still to do, read ahead. A process on its own doesn't wait for its data when it is to stop."""
        alone = self.processes.world_size == 1
        return self.loader.batches(self.step, self.total_steps, lambda: alone and stop.requested)

    def asked_to_stop(self, stop: StopRequest) -> int:
        """The signal that ends the run before the next step, 0 for none: the same in all processes.

        Several agree by the sum of their gradients, whose numbers are read some steps later on a GPU.
        """
        self.processes.ask(stop.signal)
        return stop.signal if self.processes.world_size == 1 else self.log.asked

    def set_learning_rate(self) -> float:
        rate = learning_rate_at(self.settings, self.step, self.total_steps)
        set_learning_rate(self.optimizer, rate)
        return rate

    def advance(self, batch: StepBatch) -> StepResult:
        """Train one step; the weights have moved when this returns, the numbers may still be on their way.

        Raises TrainingFailed where the last checkpoint could not be written.
        """
        self.saver.check()
        result = self.step_function(batch)
        self.step += 1
        if self.step == self.began + 1 and self.processes.is_main:
            self.saver.make_room(contents_of(self))  # only now the optimizer has all its numbers
        return result

    def save_checkpoint(self) -> None:
        """Copy the state once the steps under way are done, and go on while it is written: to a disk that is slow the
        next one waits. A run that lost its numbers to NaN never gets here."""
        with self.screen.aside(_SAVING):
            if self.processes.is_main:
                self.saver.take(contents_of(self))
            self.log.drain()
            if self.processes.is_main:
                self.saver.write(self.log.sync)
        self.log.restart_clock()

    def save_last(self) -> None:
        """Save, if this step isn't saved yet, and wait until it is."""
        with self.screen.aside(_SAVING):
            self.saver.wait()  # what is being written may be this step's
        if self.saver.saved != self.step:
            self.save_checkpoint()
        with self.screen.aside(_SAVING):
            self.saver.wait()
            self.processes.wait()

    def validate_if_due(self, stop: StopRequest) -> None:
        """At step 0, for what training starts from; or where a run was cut off between checkpoint and validation."""
        if self.step % self.settings.validation_step_interval == 0:
            self.validate(stop)

    def validate(self, stop: StopRequest) -> None:
        """Evaluate and sample with the raw weights, and with their average where one is kept; once a step at most.

        A request to stop cuts it off before the next denoising step. Then it counts as not done: a continued run,
        which begins at this step, does it again.
        """
        if self.validated_at == self.step:
            return
        self.log.drain()
        with self.screen.aside(_VALIDATING):
            if self.processes.is_main:
                with suppress(Stopped):
                    self._validate(stop.check)
            self.processes.wait()
        if not stop.requested:
            self.validated_at = self.step
        self.log.restart_clock()

    def _validate(self, check: Callable[[], None]) -> None:
        check()
        if _validates(self):
            self.step_function.release_memory()
        with self.phases.measure("validate"):
            self._evaluate(check)
            self.unsampled = None
            try:
                self._sample(check)
            except OSError as error:
                if not files.is_refused(error):
                    raise
                self.unsampled = error
                self.reporter.warn(
                    f"step {self.step}: sample pictures can't be written ({error.strerror}); training goes on"
                )

    def weight_sets(self) -> tuple[str, ...]:
        """The adapters there are: the raw weights, and their moving average."""
        return ("raw",) if self.ema is None else ("raw", "ema")

    def sample_folder(self, label: str) -> Path:
        """Where the pictures of this step go; the base's are taken once."""
        root = self.settings.output_dir / SAMPLES_FOLDER
        if label == BASE or self.step == 0:
            return root / BASE
        return root / (f"step-{self.step:06d}" + ("-ema" if label == "ema" else ""))

    def _with_weights(self, label: str) -> AbstractContextManager[None]:
        return self.ema.applied() if label == "ema" and self.ema is not None else nullcontext()

    def _evaluate(self, check: Callable[[], None]) -> None:
        if not self.held_out or self.log.last_validation >= self.step:
            return
        losses = {}
        for label in self.weight_sets():
            with self._with_weights(label):
                loss = validation.evaluation_loss(
                    self.settings, self.family, self.transformer, self.held_out, self.processes.device, check
                )
            losses["validation_loss" if label == "raw" else f"validation_loss_{label}"] = loss
        self.log.evaluation(self.step, losses)
        shown = ", ".join(f"{name.replace('_', ' ')} {loss:.5f}" for name, loss in losses.items())
        self.reporter.note(f"step {self.step}: {shown} ({len(self.material.held_out)} held-out pictures)")

    def _sample(self, check: Callable[[], None]) -> None:
        if not self.pictures.shots:
            return
        with adapter_enabled(self.transformer, False):
            self.pictures.take(self.sample_folder(BASE), {"adapter": "none"}, check)
        if self.step == 0:
            self._report_pictures([BASE])
            return
        for label in self.weight_sets():
            with self._with_weights(label):
                about = {"adapter": label, "step": str(self.step)}
                self.pictures.take(self.sample_folder(label), about, check)
        self._report_pictures(self.weight_sets())

    def _report_pictures(self, labels: Sequence[str]) -> None:
        """To the display and the trackers; a validation that was stopped half-way is reported when it is done again."""
        pictures = [
            Picture(f"samples{'' if label == 'raw' else f'-{label}'}/{path.stem}", path, shot.prompt)
            for label in labels
            for shot in self.pictures.shots
            for path in [self.sample_folder(label) / shot.file_name]
        ]
        if all(picture.path.is_file() for picture in pictures):
            newest = self.sample_folder(labels[0])
            self.screen.sampled(display(newest if len(self.pictures.shots) > 1 else pictures[0].path))
            self.trackers.pictures(self.step, pictures)

    def write_outputs(self) -> outputs.Outputs:
        """The final adapter, gallery and plots; every process gets their paths, the main one writes them."""
        if self.processes.is_main:
            with self.screen.aside(_WRITING):
                outputs.write(self)
        return outputs.paths(self.settings)


def open_session(
    settings: Settings,
    family: Family,
    material: Material,
    processes: Processes,
    phases: PhaseLog,
    reporter: Reporter,
    found: Path | None,
) -> Session:
    """Load the model, attach the LoRA, and take up the checkpoint that was found."""
    if settings.validation_prompts:
        check_sizes(settings, material.files, settings.validation_resolution, "validation_resolution")
    with phases.measure("load"):
        transformer = family.load_transformer(material.files, settings, processes.device, reporter)
        _attach(transformer, settings, reporter)
    device = processes.device
    empty = material.text(EMPTY_CAPTION, device) if settings.caption_dropout_probability > 0 else None
    total_steps = material.plan.total_steps(settings.max_train_steps, settings.num_train_epochs)
    assembled = assemble(settings, family, transformer, processes, total_steps, empty, reporter.note)
    loader = _loader(material, processes)
    saver = Saver(settings.output_dir, settings.checkpoints_total_limit, device, reporter.warn)
    session = Session(
        settings=settings,
        family=family,
        material=material,
        processes=processes,
        phases=phases,
        reporter=reporter,
        transformer=transformer,
        parameters=assembled.parameters,
        optimizer=assembled.optimizer,
        ema=assembled.ema,
        step_function=assembled.step,
        loader=loader,
        held_out=_held_out(material, loader),
        log=_log(settings, material, loader, processes, reporter, saver),
        pictures=_pictures(settings, family, material, transformer, processes, reporter, total_steps),
        total_steps=total_steps,
        saver=saver,
    )
    if found is not None:
        restore(session, found)
        session.began = session.step
        if found.parent == settings.output_dir:
            session.saver.saved = session.step
        reporter.note(f"continuing from {found.name}: step {session.step} of {session.total_steps}")
    if processes.is_main:
        if session.step < session.total_steps:
            outputs.unfinish(settings)
        write_run(settings.output_dir, settings, material.files, str(device), total_steps)
        material.manifest.write(settings.output_dir / DATA_FILE)
        session.trackers = open_trackers(settings, settings.output_dir / METRICS_FILE, session.step, reporter)
        session.log.open(session.step, session.trackers.row)
    return session


def _log(
    settings: Settings, material: Material, loader: Loader, processes: Processes, reporter: Reporter, saver: Saver
) -> StepLog:
    return StepLog(
        settings.output_dir,
        processes.device,
        LoaderWitness(loader, material.where, processes.gather, lambda: _newest(settings, saver)),
        reporter.warn,
        writes=processes.is_main,
        loss_is_scaled=settings.mixed_precision == "fp16",
    )


def _newest(settings: Settings, saver: Saver) -> str | None:
    """The name of the newest checkpoint that verifies, once none is being written."""
    with suppress(TrainingFailed):
        saver.wait()
    found = latest(settings.output_dir, lambda _: None)
    return None if found is None else found.name


def _validates(session: Session) -> bool:
    """Whether there is anything to evaluate or to sample."""
    return bool(session.held_out or session.pictures.shots)


def _attach(transformer: nn.Module, settings: Settings, reporter: Reporter) -> None:
    info = attach_lora(transformer, settings, parameter_dtype(settings.optimizer))
    reporter.note(f"{info.title} on {len(info.targets)} layers: {info.trainable:,} trained parameters")


def _loader(material: Material, processes: Processes) -> Loader:
    return Loader(
        material.plan,
        material.trained + material.held_out,
        material.encoded,
        processes.device,
        processes.rank,
        weights=material.weights,
        repairs=material.repairs,
    )


def _held_out(material: Material, loader: Loader) -> tuple[MicroBatch, ...]:
    """The held-out pictures on the host, a batch a picture: their sizes may differ."""
    refs = [SampleRef(sample.set_id, sample.name) for sample in material.held_out]
    return tuple(loader.collate((ref,)) for ref in refs)


def _pictures(
    settings: Settings,
    family: Family,
    material: Material,
    transformer: nn.Module,
    processes: Processes,
    reporter: Reporter,
    total_steps: int,
) -> Validation:
    encodings = {prompt: material.text(prompt, processes.device) for prompt in validation.prompts(settings)}
    studio = Studio(settings, family, material.files, processes.device)
    expected = validation.picture_count(settings, total_steps)
    return Validation(studio, validation.shots(settings), transformer, encodings, reporter, expected)
