"""What `simpletune data` tells, as values for lines, JSON and a page: all that a look at the pictures can find out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simpletune.config.problems import Problem
from simpletune.data.captions.tokens import count_tokens, text_encoders
from simpletune.data.geometry import enlargement
from simpletune.data.preflight_lines import by_reason, tells
from simpletune.data.report.duplicates import Duplicates, look_alike, same_bytes
from simpletune.data.report.thumbnails import share_cut_off

if TYPE_CHECKING:
    from simpletune.config.settings import Settings
    from simpletune.data.captions.tokens import TokenCounts
    from simpletune.data.plan import Bucket
    from simpletune.data.preflight import Preflight
    from simpletune.data.report.duplicates import SampleId
    from simpletune.data.scan import Sample
    from simpletune.progress import Reporter


@dataclass(frozen=True)
class BucketFacts:
    """One bucket of the training pictures. `cut_off` is the mean share of their area that is cropped away, 0 to 1;
    `enlarged` counts those that are made larger; batches are of an epoch with every data set."""

    bucket: Bucket
    pictures: int
    showings: int
    batches: int
    last_batch: int
    cut_off: float
    enlarged: int


@dataclass(frozen=True)
class DataReport:
    """All that is told. `tokens` is by text encoder; `disk` is bytes by what the run keeps there."""

    settings: Settings
    looked: Preflight
    buckets: tuple[BucketFacts, ...]
    duplicates: Duplicates
    tokens: tuple[TokenCounts, ...]
    disk: Mapping[str, int]

    @property
    def further_problems(self) -> tuple[Problem, ...]:
        """The problems that the rest of the report doesn't tell in more detail."""
        return tuple(problem for problem in self.looked.problems if not tells(problem))

    @property
    def samples(self) -> tuple[Sample, ...]:
        return (*self.looked.training, *self.looked.held_out)


def gather(settings: Settings, looked: Preflight, reporter: Reporter, *, near: bool) -> DataReport:
    """Find out what is not known from the preflight: tokens, duplicates (with `near`, those that look alike) and disk.

    Raises ImportError when `near` is asked for without its library.
    """
    from simpletune.data.forecast import plan_of
    from simpletune.machine.forecast import forecast

    samples = (*looked.training, *looked.held_out)

    def digest(sample: Sample) -> str | None:
        return looked.indexes[sample.set_id].digest(sample.name, sample.stamp)

    captions = ((sample.name, caption) for sample in samples for caption in sample.captions)
    tokens = count_tokens(captions, text_encoders(settings))
    exact = same_bytes(samples, looked.sources, digest)
    alike = None
    if near:
        compared = len(samples) - sum(len(group) - 1 for group in exact)
        with reporter.phase("Comparing pictures", compared, "image") as phase:
            alike = look_alike(samples, looked.sources, exact, phase.advance)
    disk = forecast(plan_of(settings, looked)).disk if looked.plan else {}
    found = Duplicates(_of_several_files(exact, looked), alike)
    return DataReport(settings, looked, _buckets(looked), found, tokens, disk)


def _of_several_files(groups: Sequence[Sequence[SampleId]], looked: Preflight) -> tuple[tuple[SampleId, ...], ...]:
    """The groups with each file once: one that two data sets share is no copy of itself."""
    found = []
    for group in groups:
        files: dict[str, SampleId] = {}
        for set_id, name in group:
            files.setdefault(looked.sources[set_id].location(name), (set_id, name))
        if len(files) > 1:
            found.append(tuple(files.values()))
    return tuple(found)


def _buckets(looked: Preflight) -> tuple[BucketFacts, ...]:
    if looked.plan is None:
        return ()
    members: dict[Bucket, list[Sample]] = {bucket: [] for bucket in looked.buckets}
    for sample in looked.training:
        members[sample.bucket].append(sample)
    size = looked.plan.batch_size
    return tuple(_bucket(bucket, samples, looked.plan.buckets[bucket], size) for bucket, samples in members.items())


def _bucket(bucket: Bucket, samples: list[Sample], showings: int, size: int) -> BucketFacts:
    cut_off = sum(share_cut_off(sample.placements[0]) for sample in samples) / len(samples)
    enlarged = sum(enlargement(s.width, s.height, s.placements[0]) > 1 for s in samples)
    batches = -(-showings // size)
    return BucketFacts(bucket, len(samples), showings, batches, showings - (batches - 1) * size, cut_off, enlarged)


def as_json(report: DataReport) -> dict[str, Any]:
    """The report for programs: every name, nothing shortened."""
    looked = report.looked
    return {
        "data_sets": [_set_json(report, result.set_id) for result in looked.results],
        "buckets": [
            {
                "size": list(facts.bucket),
                "pictures": facts.pictures,
                "showings": facts.showings,
                "batches": facts.batches,
                "last_batch": facts.last_batch,
                "cut_off": round(facts.cut_off, 4),
                "enlarged": facts.enlarged,
            }
            for facts in report.buckets
        ],
        "sizes": [
            {"width": width, "height": height, "pictures": pictures}
            for (width, height), pictures in sorted(Counter((s.width, s.height) for s in report.samples).items())
        ],
        "steps_per_epoch": looked.steps_per_epoch,
        "total_steps": looked.total_steps,
        "held_out": [list(sample.id) for sample in looked.held_out],
        "duplicates": {
            "same_file": [[list(name) for name in group] for group in report.duplicates.exact],
            "look_alike": None
            if report.duplicates.near is None
            else [[list(name) for name in group] for group in report.duplicates.near],
        },
        "tokens": [asdict(counts) for counts in report.tokens],
        "disk_bytes": dict(report.disk),
        "problems": [problem.as_json() for problem in looked.problems],
    }


def _set_json(report: DataReport, set_id: str) -> dict[str, Any]:
    looked = report.looked
    result = next(result for result in looked.results if result.set_id == set_id)
    image_set = looked.image_sets[set_id]
    captions = {caption for sample in result.samples for caption in sample.captions}
    return {
        "id": set_id,
        "type": image_set.type,
        "dataset_type": image_set.dataset_type,
        "where": image_set.where,
        "found": result.found,
        "used": len(result.samples),
        "other_files": result.other,
        "different_captions": len(captions),
        "excluded": [
            {"name": entry.name, "reason": reason, "detail": entry.detail}
            for reason, entries in by_reason(result.excluded)
            for entry in entries
        ],
        "notes": {note: list(names) for note, names in result.notes.items()},
        "remarks": {remark.message: list(remark.examples) for remark in result.remarks},
    }
