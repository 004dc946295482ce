"""`simpletune evaluate`: base against adapters on the same prompts and seeds, in figures.

check       adapters, sizes, feature models and data sets, before anything heavy is loaded
pictures    made by results/generate.py, those that are there kept
losses      on held-out pictures, of each adapter; what is known is kept
round trip  real pictures through the VAE and back
features    of all pictures, by each feature model; what is known is kept
metrics     with intervals, the possible copies, the best adapter -> evaluation.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from simpletune import __version__
from simpletune.config.settings import Settings
from simpletune.errors import Interrupted, UsageError
from simpletune.evaluate import choose, measure, results
from simpletune.evaluate.copies import draw_sheet, flagged_pairs
from simpletune.evaluate.features import file_picture
from simpletune.evaluate.held_out import Judge
from simpletune.evaluate.metrics import intervals
from simpletune.evaluate.metrics.memorization import Threshold
from simpletune.evaluate.pictures import Material, gather
from simpletune.evaluate.request import Request, adapter_digest, order_for
from simpletune.evaluate.results import BASE, Evaluation, FeatureUse, LeftOut, Metric, SigmaLoss
from simpletune.evaluate.roundtrip import RoundTrip, take_round_trip
from simpletune.evaluate.views import Describers, Seen, find_describers, look
from simpletune.models.family import Family, ModelFiles
from simpletune.models.registry import get_family
from simpletune.models.runtime import choose_device, quiet_libraries
from simpletune.progress import Reporter
from simpletune.results.generate import Order, Picture, Variant, generate
from simpletune.results.studio import check_sizes
from simpletune.results.variants import check_adapters
from simpletune.trainer.validation import EVALUATION_SIGMAS, evaluation_sigma

FEW = 30
"""Pictures of a variant, or of the training set, below which a warning is given."""


@dataclass(frozen=True)
class _Job:
    """What is evaluated, once everything has been checked."""

    settings: Settings
    order: Order
    folder: Path
    reporter: Reporter
    device: torch.device
    family: Family
    model: ModelFiles
    describers: Describers
    material: Material


@dataclass(frozen=True)
class _Looked:
    """What the pictures were found to be, before anything is computed of it."""

    made: Mapping[str, tuple[Picture, ...]]
    losses: tuple[Metric, tuple[SigmaLoss, ...]] | None
    trip: RoundTrip | None
    seen: Sequence[Seen]
    uses: tuple[FeatureUse, ...]


def evaluate(settings: Settings, request: Request, folder: Path, reporter: Reporter) -> Evaluation:
    """Compare the base and the adapters of `request`; everything goes into `folder`, evaluation.json too.

    Raises UsageError and ConfigError for what can't be asked, adapters that can't be read or don't fit among them;
    ModelUnavailable; OutOfMemory; and Interrupted after Ctrl-C, when all that was made stays.
    """
    with _interruptible():
        job = _check(settings, request, folder, reporter)
        looked = _look(job)
        evaluation = _summed_up(job, looked)
        results.save(folder, evaluation)
        return evaluation


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        message = "stopped; the pictures, losses and features made so far are kept"
        raise Interrupted(message, "the same command goes on from there") from None


def _check(settings: Settings, request: Request, folder: Path, reporter: Reporter) -> _Job:
    """Everything that can go wrong is to go wrong here, before an hour of pictures."""
    quiet_libraries()
    device = choose_device(settings)
    order = order_for(settings, request, reporter)
    settings = order.applied(settings)
    family = get_family(settings.model_family)
    model = family.locate(settings, reporter)
    check_sizes(settings, model, order.sizes, "--size")
    check_adapters(order.variants, model)
    describers = find_describers(request.models, settings.hf_endpoint, device, reporter)
    for left in describers.left_out:
        reporter.note(f"left out: {left.metric}: {left.reason}; {left.remedy}")
    material = gather(settings, request.training_pictures, reporter)
    if material.missing is not None:
        reporter.warn(f"the training pictures can't be looked at: {material.missing}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--output: {folder} can't be made: {error.strerror}"
        raise UsageError(message, "name a folder you may write to") from error
    return _Job(settings, order, folder, reporter, device, family, model, describers, material)


def _look(job: _Job) -> _Looked:
    pictures = job.folder / "pictures" / job.order.folder_in(Path()).name
    generated = generate(job.settings, job.order, pictures, job.reporter, sheet=False)
    made = {
        variant.name: tuple(picture for picture in generated.pictures if picture.variant == variant.name)
        for variant in job.order.variants
    }
    material = job.material
    losses = None
    if material.held_out and material.look is not None and material.look.plan is not None:
        judge = Judge(job.settings, job.family, job.model, job.device, job.folder, job.reporter)
        rows = judge.losses(material, job.order.variants)
        losses = measure.held_out_loss(rows, tuple(map(evaluation_sigma, range(EVALUATION_SIGMAS))))
    trip = take_round_trip(
        material.training,
        material.held_out,
        job.settings,
        job.family,
        job.model,
        job.device,
        job.folder / "vae",
        job.reporter,
    )
    seen, uses = look(
        job.describers,
        job.folder / "features",
        job.device,
        {name: [file_picture(picture.path) for picture in of_one] for name, of_one in made.items()},
        [picture.prompt for picture in made[BASE]],
        [found.picture for found in material.training],
        () if trip is None else trip.restored,
        () if trip is None else [found.caption for found in trip.originals],
        trip is not None and trip.held_out,
        job.reporter,
    )
    return _Looked(made, losses, trip, seen, uses)


def _summed_up(job: _Job, looked: _Looked) -> Evaluation:
    material, order = job.material, job.order
    metrics, memorized = _judged(job, looked)
    limit: Threshold | None = None
    flagged: tuple[results.FlaggedPair, ...] = ()
    sheet: str | None = None
    if memorized is not None:
        judged, view = memorized
        limit = judged.threshold
        flagged = flagged_pairs(judged, looked.made, material.training, job.folder)
        sheet = draw_sheet(flagged, material.training, job.folder, view)
    if looked.losses is not None:
        metrics.append(looked.losses[0])
    if looked.trip is not None:
        metrics.append(measure.round_trip(looked.trip.decibels, looked.trip.held_out))
    names = [variant.name for variant in order.variants]
    count = len(looked.made[BASE])
    return Evaluation(
        format=results.FORMAT,
        simpletune=__version__,
        model=job.model.source,
        sampling=_sampling(order),
        pictures=count,
        training_pictures=len(material.training),
        held_out_pictures=len(material.held_out),
        variants=tuple(_variant(job, looked, variant) for variant in order.variants),
        metrics=tuple(sorted(metrics, key=lambda metric: _GROUPS.index(metric.group))),
        loss_by_sigma=() if looked.losses is None else looked.losses[1],
        flagged=flagged,
        memorization_sheet=sheet,
        left_out=(*job.describers.left_out, *_for_want_of_pictures(material, count)),
        warnings=tuple(_warnings(job, looked, count, 0 if limit is None else limit.equal)),
        best=choose.choose(metrics, names, 0.0 if limit is None else limit.chance),
        intervals=results.Intervals(intervals.LEVEL, intervals.METHOD, intervals.RESAMPLES, intervals.SEED),
        features=looked.uses,
    )


def _judged(job: _Job, looked: _Looked) -> tuple[list[Metric], tuple[measure.Memorized, measure.View] | None]:
    """All metrics of features, and by whom copies are told: DINO, where it is there."""
    metrics: list[Metric] = []
    teller = None
    with job.reporter.phase("Metrics and intervals", len(looked.seen), "model") as phase:
        for seen in looked.seen:
            if seen.prompts is not None:
                metrics.append(measure.adherence(seen.view, seen.prompts, seen.captions))
            metrics += [*measure.likeness(seen.view), *measure.diversity(seen.view)]
            memorized = measure.memorization(seen.view)
            if memorized is not None:
                metrics += memorized.metrics
                teller = teller or (memorized, seen.view)
            phase.advance()
    return metrics, teller


_GROUPS = ("adherence", "likeness", "diversity", "memorization", "loss", "ceiling")


def _sampling(order: Order) -> results.Sampling:
    return results.Sampling(
        tuple(order.prompts.values()),
        order.seeds,
        order.sizes,
        order.steps,
        order.guidance,
        order.negative_prompt,
    )


def _variant(job: _Job, looked: _Looked, variant: Variant) -> results.Variant:
    folder = looked.made[variant.name][0].path.parent.relative_to(job.folder).as_posix()
    adapter = variant.adapter
    return results.Variant(
        variant.name,
        variant.title,
        None if adapter is None else adapter.steps,
        None if adapter is None else adapter.path.name,
        adapter_digest(variant),
        folder,
    )


def _for_want_of_pictures(material: Material, count: int) -> Iterator[LeftOut]:
    if not material.training:
        reason = material.missing or "there are no training pictures"
        yield LeftOut("likeness and memorization", reason, "make the data sets readable and evaluate again")
    elif len(material.training) == 1:
        yield LeftOut("CMMD and KID", "there is one training picture", "they compare sets of at least two")
    if not material.held_out:
        remedy = '"num_eval_images" or a data set of dataset_type eval holds some out, before training'
        yield LeftOut("held-out loss", "no pictures are held out", remedy)
    if count == 1:
        yield LeftOut("diversity, CMMD and KID", "there is one picture of each variant", "--seeds 8")


def _warnings(job: _Job, looked: _Looked, count: int, equal: int) -> Iterator[str]:
    material = job.material
    if count < FEW:
        yield (
            f"{count} picture{'s' * (count != 1)} of each variant: below {FEW} only large differences show; "
            "--seeds or --prompts make more"
        )
    if 0 < len(material.training) < FEW:
        trained = f"{len(material.training)} training picture{'s' * (len(material.training) != 1)}"
        yield f"{trained}: what is likeness, and what a copy, is uncertain below {FEW}"
    if material.of > len(material.training) > 0:
        yield f"{len(material.training):,} of {material.of:,} training pictures were looked at, chosen by seed"
    if 0 < len(material.held_out) < FEW:
        held_out = f"{len(material.held_out)} held-out picture{'s' * (len(material.held_out) != 1)}"
        yield f"{held_out}: the loss on them says little below {FEW}"
    if equal:
        yield f"{equal} training pictures have an equal among them"
    if looked.trip is not None and not looked.trip.held_out:
        yield "the VAE round trip is of training pictures, as none are held out"


def in_folder(settings: Settings) -> Path:
    """Where a run's evaluation goes when nothing else is said."""
    return settings.output_dir / results.FOLDER


def with_captions(request: Request, settings: Settings, count: int, reporter: Reporter) -> Request:
    """The request with captions of the data sets as prompts: of held-out pictures first, then of others by seed.

    Raises UsageError when there are none.
    """
    material = gather(settings, count, reporter)
    found = [*material.held_out, *material.training]
    captions = list(dict.fromkeys(one.caption for one in found if one.caption))[:count]
    if not captions:
        raise UsageError(f"--captions: {material.missing or 'the data sets have no captions'}", "give --prompt instead")
    return replace(request, prompts=captions)
