"""What a look at the pictures says before anything heavy loads: counts, reasons, buckets, steps, and what is wrong.

The rules of config/ have checked the two files; here is what only the pictures themselves can tell. `validate`,
`data`, the trainer and the wizard show the same report: `preflight_lines.py`; `preflight_problems.py` has what is
wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from simpletune.config.problems import Problem
from simpletune.data.index import Index, index_path
from simpletune.data.plan import Bucket, Plan, make_plan, schedule_of, split_eval
from simpletune.data.preflight_problems import Places
from simpletune.data.scan import Sample, ScanResult, scan
from simpletune.data.sources import Source, SourceError, open_source
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet, Settings
    from simpletune.progress import Reporter

_SHOWN_FROM = 2_000


@dataclass(frozen=True)
class Preflight:
    """The pictures a run trains on and holds out, its plan (None without any to train on), and all problems.

    `sources`, `indexes` and `image_sets` are by the data sets' ids; one that can't be listed has neither of the first.
    """

    image_sets: Mapping[str, ImageSet]
    results: tuple[ScanResult, ...]
    sources: Mapping[str, Source]
    indexes: Mapping[str, Index]
    training: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    plan: Plan | None
    total_steps: int
    problems: tuple[Problem, ...]

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch if self.plan else 0

    @cached_property
    def buckets(self) -> dict[Bucket, int]:
        """Training pictures by bucket, repeats not counted."""
        counts = Counter(sample.bucket for sample in self.training)
        return {bucket: counts[bucket] for bucket in sorted(counts)}

    @property
    def found(self) -> int:
        return sum(result.found for result in self.results)

    @property
    def used(self) -> int:
        return sum(len(result.samples) for result in self.results)

    def summary(self) -> str:
        """One line."""
        from simpletune.data.preflight_lines import summary

        return summary(self)

    def lines(self) -> list[str]:
        """The report, in lines of at most 80 characters."""
        from simpletune.data.preflight_lines import lines

        return lines(self)

    def save_indexes(self) -> None:
        """Keep what was learned of the files beside their caches, so that the next look is a short one.

        Raises DataError when the disk doesn't take it.
        """
        for set_id, index in self.indexes.items():
            path = index_path(self.image_sets[set_id])
            try:
                index.save(path)
            except OSError as error:
                hint = "make room there, or name another cache_dir_vae in multidatabackend.json"
                raise DataError(f"{path.parent}: the index can't be written: {error.strerror}", hint) from error


def preflight(
    settings: Settings, world_size: int = 1, reporter: Reporter | None = None, *, verify: bool = False
) -> Preflight:
    """Scan every data set and plan the run for `world_size` processes. What is wrong is in `problems`, not raised.

    With a `reporter` data sets that have to be brought here first are, and long scans show how far they are. With
    `verify` nothing that was known of the files is trusted.
    """
    look = _Look(settings, reporter, verify)
    for image_set in settings.image_sets:
        look.at(image_set)
    samples = [sample for result in look.results for sample in result.samples]
    evaluated = {image_set.id for image_set in settings.image_sets if image_set.dataset_type == "eval"}

    def location(sample: Sample) -> str:
        return look.sources[sample.set_id].location(sample.name)

    training, held_out = split_eval(samples, evaluated, settings.num_eval_images, settings.seed, location)
    plan = plan_for(settings, training, world_size) if training else None
    total = plan.total_steps(settings.max_train_steps, settings.num_train_epochs) if plan else 0
    look.problems += look.places.plan_problems(samples, plan, total)
    sets = {image_set.id: image_set for image_set in settings.image_sets}
    results, problems = tuple(look.results), tuple(look.problems)
    return Preflight(sets, results, look.sources, look.indexes, training, held_out, plan, total, problems)


def plan_for(settings: Settings, training: tuple[Sample, ...], world_size: int) -> Plan:
    """The order in which these pictures, at least one, are trained on."""
    schedules = {image_set.id: schedule_of(image_set) for image_set in settings.image_sets}
    accumulation = settings.gradient_accumulation_steps
    return make_plan(training, schedules, settings.seed, settings.train_batch_size, accumulation, world_size)


@dataclass
class _Look:
    """A preflight under way: data set after data set."""

    settings: Settings
    reporter: Reporter | None
    verify: bool
    results: list[ScanResult] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def places(self) -> Places:
        return Places(self.settings)

    def at(self, image_set: ImageSet) -> None:
        """Scan a data set, or note why that can't be."""
        try:
            source = open_source(image_set, self.settings.hf_endpoint)
            if self.reporter is not None:
                source.fetch(self.reporter)
            index = Index() if self.verify else Index.load(index_path(image_set))
            result = _with_masks(image_set, self._scan(image_set, source, index))
        except SourceError as error:
            self.problems.append(self.places.unlisted(image_set, error))
            self.results.append(ScanResult(image_set.id, (), (), 0, {}))
            return
        self.sources[image_set.id], self.indexes[image_set.id] = source, index
        self.problems += self.places.set_problems(image_set, result)
        self.results.append(result)

    def _scan(self, image_set: ImageSet, source: Source, index: Index) -> ScanResult:
        alignment, seed = self.settings.aspect_bucket_alignment, self.settings.seed
        if self.reporter is None:
            return scan(image_set, source, alignment, seed, index)
        with _Progress(self.reporter, image_set.id) as progress:
            return scan(image_set, source, alignment, seed, index, progress)


def _with_masks(image_set: ImageSet, result: ScanResult) -> ScanResult:
    """The result without the pictures that should have a mask and have none. Raises SourceError."""
    if image_set.mask_source != "folder":
        return result
    from simpletune.data.masks import without_masks

    excluded = without_masks(image_set, result.samples)
    names = {exclusion.name for exclusion in excluded}
    samples = tuple(sample for sample in result.samples if sample.name not in names)
    every = tuple(sorted((*result.excluded, *excluded), key=lambda exclusion: exclusion.name))
    return replace(result, samples=samples, excluded=every)


class _Progress:
    """Shows a scan of many files, and nothing of a short one: its callable form is what `scan` tells."""

    def __init__(self, reporter: Reporter, set_id: str) -> None:
        self._reporter, self._set_id = reporter, set_id
        self._phase: Callable[[float], None] | None = None
        self._context: object | None = None
        self._done = 0

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._phase is None:
            if total < _SHOWN_FROM:
                return
            context = self._reporter.phase(f'Looking at "{self._set_id}"', total, "image")
            self._context, self._phase = context, context.__enter__().advance
        self._phase(done - self._done)
        self._done = done

    def __exit__(self, *error: object) -> None:
        if self._context is not None:
            self._context.__exit__(*error)  # type: ignore[attr-defined]
