"""What a look at the pictures says before anything heavy loads: counts, reasons, buckets, steps, and what is wrong.

The rules of config/ have checked the two files; here is what only the pictures themselves can tell. `validate`,
`data`, the trainer and the wizard show the same report: `preflight_lines.py`; `preflight_problems.py` has what is
wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from simpletune.config.problems import Problem
from simpletune.data.plan import Bucket, Plan, make_plan, schedule_of, split_eval
from simpletune.data.preflight_problems import Places
from simpletune.data.scan import Sample, ScanResult, scan
from simpletune.data.sources import Source, SourceError, open_source

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet, Settings
    from simpletune.progress import Reporter


@dataclass(frozen=True)
class Preflight:
    """The pictures a run trains on and holds out, its plan (None without any to train on), and all problems.

    `sources` and `image_sets` are by the data sets' ids; one that can't be listed has no source.
    """

    image_sets: Mapping[str, ImageSet]
    results: tuple[ScanResult, ...]
    sources: Mapping[str, Source]
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


def preflight(settings: Settings, world_size: int = 1, reporter: Reporter | None = None) -> Preflight:
    """Scan every data set and plan the run for `world_size` processes. What is wrong is in `problems`, not raised.

    With a `reporter` data sets that have to be brought here first are.
    """
    look = _Look(settings, reporter)
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
    return Preflight(sets, results, look.sources, training, held_out, plan, total, problems)


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
    results: list[ScanResult] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def places(self) -> Places:
        return Places(self.settings)

    def at(self, image_set: ImageSet) -> None:
        """Scan a data set, or note why that can't be."""
        try:
            source = open_source(image_set)
            if self.reporter is not None:
                source.fetch(self.reporter)
            result = scan(image_set, source, self.settings.aspect_bucket_alignment, self.settings.seed)
        except SourceError as error:
            self.problems.append(self.places.unlisted(image_set, error))
            self.results.append(ScanResult(image_set.id, (), (), 0, {}))
            return
        self.sources[image_set.id] = source
        self.problems += self.places.set_problems(image_set, result)
        self.results.append(result)
