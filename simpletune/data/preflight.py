"""What a look at the pictures says before anything heavy loads: counts, reasons, buckets, steps, and what is wrong.

The rules of config/ have checked the two files; here is what only the folders' content can tell. `validate`, the
trainer and the wizard show the same report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from simpletune.config import jsonfile
from simpletune.config.problems import ERROR, WARNING, Problem
from simpletune.data.geometry import enlargement
from simpletune.data.plan import Bucket, Plan, make_plan, schedule_of, split_eval
from simpletune.data.scan import Exclusion, Sample, ScanResult, scan
from simpletune.data.sources import PICTURE_EXTENSIONS, Source, SourceError, open_source, shown

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet, Settings

REPORT_WIDTH = 80
_WHERE = {
    "local": "instance_data_dir",
    "webdataset": "instance_data_dir",
    "s3": "s3_url",
    "huggingface": "dataset_name",
}
_EXAMPLES = 3
_ENLARGED_MUCH = 2.0


@dataclass(frozen=True)
class Preflight:
    """The pictures a run trains on and holds out, its plan (None without any to train on), and all problems."""

    results: tuple[ScanResult, ...]
    sources: Mapping[str, Source]
    places: Mapping[str, str]
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
        held = f", {len(self.held_out)} held out" if self.held_out else ""
        return (
            f"{_count(self.found, 'picture')} found, {self.used} used, {self.found - self.used} excluded{held}; "
            f"{_count(len(self.buckets), 'bucket')}, {_count(self.steps_per_epoch, 'step')} an epoch, "
            f"{self.total_steps} in all"
        )

    def lines(self) -> list[str]:
        """The report, in lines of at most REPORT_WIDTH characters."""
        lines = [line for result in self.results for line in _set_lines(result, self.places[result.set_id])]
        lines += list(self._bucket_lines())
        lines += list(self._step_lines())
        return [_fit(line) for line in lines]

    def _bucket_lines(self) -> Iterator[str]:
        if self.plan is None:
            return
        yield "buckets (width x height in pixels)"
        for (width, height), pictures in self.buckets.items():
            showings = self.plan.buckets[width, height]
            batches = -(-showings // self.plan.batch_size)
            left = showings % self.plan.batch_size
            smaller = f", the last of {left}" if left else ""
            yield f"  {f'{width} x {height}':<13}{_count(pictures, 'picture'):<15}{_count(batches, 'batch')}{smaller}"

    def _step_lines(self) -> Iterator[str]:
        if self.plan is None:
            yield "nothing to train on"
            return
        showings, epochs = self.plan.samples_per_epoch, self.plan.epochs(self.total_steps)
        repeated = "" if showings == len(self.training) else " (repeats counted)"
        yield f"an epoch: {_count(showings, 'picture')}{repeated}, {_count(self.plan.steps_per_epoch, 'step')}"
        yield f"the run: {_count(self.total_steps, 'step')}, {epochs:.4g} epochs"
        if self.held_out:
            yield f"held out for the validation loss: {_some(sample.name for sample in self.held_out)}"


def preflight(settings: Settings, world_size: int = 1) -> Preflight:
    """Scan every data set and plan the run for `world_size` processes. What is wrong is in `problems`, not raised."""
    places = _Places(settings)
    results, problems, sources = [], [], {}
    for image_set in settings.image_sets:
        try:
            source = sources[image_set.id] = open_source(image_set)
            result = scan(image_set, source, settings.aspect_bucket_alignment, settings.seed)
        except SourceError as error:
            problems.append(places.unlisted(image_set, error))
            result = ScanResult(image_set.id, (), (), 0, {})
        else:
            problems += places.set_problems(image_set, result)
        results.append(result)
    samples = [sample for result in results for sample in result.samples]

    def location(sample: Sample) -> str:
        return sources[sample.set_id].location(sample.name)

    evaluated = {image_set.id for image_set in settings.image_sets if image_set.dataset_type == "eval"}
    training, held_out = split_eval(samples, evaluated, settings.num_eval_images, settings.seed, location)
    plan = _plan(settings, training, world_size)
    problems += places.plan_problems(settings, samples, plan)
    total = plan.total_steps(settings.max_train_steps, settings.num_train_epochs) if plan else 0
    where = {image_set.id: image_set.where for image_set in settings.image_sets}
    return Preflight(tuple(results), sources, where, training, held_out, plan, total, tuple(problems))


def _plan(settings: Settings, training: tuple[Sample, ...], world_size: int) -> Plan | None:
    if not training:
        return None
    schedules = {image_set.id: schedule_of(image_set) for image_set in settings.image_sets}
    accumulation = settings.gradient_accumulation_steps
    return make_plan(training, schedules, settings.seed, settings.train_batch_size, accumulation, world_size)


class _Places:
    """Makes problems that point at the lines of the two files that have to do with them."""

    def __init__(self, settings: Settings) -> None:
        self._config = jsonfile.read(settings.config_path)
        self._data = jsonfile.read(settings.data_backend_config)

    def unlisted(self, image_set: ImageSet, error: SourceError) -> Problem:
        message = f'data set "{image_set.id}": {error.message}'
        return self._in_set(image_set, _WHERE[image_set.type], message, error.hint)

    def set_problems(self, image_set: ImageSet, result: ScanResult) -> Iterator[Problem]:
        named = f'data set "{image_set.id}"'
        folder, key = image_set.where, _WHERE[image_set.type]
        if not result.found:
            other = f"; {_count(result.other, 'file')} of other kinds {'is' if result.other == 1 else 'are'} there"
            message = f"{named}: no pictures in {folder}{other if result.other else ''}"
            yield self._in_set(image_set, key, message, f"pictures end in {_extensions()}")
            return
        if not result.samples:
            message = f"{named}: none of the {_count(result.found, 'picture')} in {folder} can be used"
            yield self._in_set(image_set, key, message, "; ".join(_reasons(result.excluded)))
        elif result.excluded:
            message = f"{named}: {len(result.excluded)} of {_count(result.found, 'picture')} aren't used"
            hint = "; ".join(_reasons(result.excluded))
            yield self._in_set(image_set, key, message, hint, WARNING)
        for note, names in result.notes.items():
            message = f"{named}: {_count(len(names), 'caption')}: {note}"
            yield self._in_set(image_set, "caption_strategy", message, f"see {_some(names)}", WARNING)
        yield from self._enlarged(image_set, result)

    def _enlarged(self, image_set: ImageSet, result: ScanResult) -> Iterator[Problem]:
        much = [s.name for s in result.samples if enlargement(s.width, s.height, s.placements[0]) > _ENLARGED_MUCH]
        if much and image_set.max_upscale_threshold is None:
            message = (
                f'data set "{image_set.id}": {_count(len(much), "picture")} enlarged more than twice: {_some(much)}'
            )
            hint = "they train blurred; max_upscale_threshold or minimum_image_size leaves them out"
            yield self._in_set(image_set, "resolution", message, hint, WARNING)

    def plan_problems(self, settings: Settings, samples: list[Sample], plan: Plan | None) -> Iterator[Problem]:
        if samples and plan is None:
            message = f"num_eval_images {settings.num_eval_images} holds out all of {_count(len(samples), 'picture')}"
            yield self._in_config("num_eval_images", message, "leave some to train on", ERROR)
        if plan is not None and plan.samples_per_epoch < settings.train_batch_size:
            count, size = _count(plan.samples_per_epoch, "picture"), settings.train_batch_size
            message = f"{count} an epoch, fewer than train_batch_size {size}: the last batch is smaller"
            hint = (
                f"a train_batch_size of {plan.samples_per_epoch}, or repeats on the data set, says the same in the open"
            )
            yield self._in_config("train_batch_size", message, hint, WARNING)

    def _in_set(self, image_set: ImageSet, key: str, message: str, hint: str, severity: str = ERROR) -> Problem:
        entries = self._data.value if isinstance(self._data.value, list) else []
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
        index = ids.index(image_set.id) if image_set.id in ids else 0
        return _problem(self._data, (index, key), message, hint, severity)

    def _in_config(self, key: str, message: str, hint: str, severity: str) -> Problem:
        return _problem(self._config, (key,), message, hint, severity)


def _problem(file: jsonfile.JsonFile, path: jsonfile.JsonPath, message: str, hint: str, severity: str) -> Problem:
    place = file.place(path)
    line, column = (place.line, place.column) if place else (0, 0)
    key = ".".join(map(str, path))
    return Problem(file.path.name, line, column, key, shown(message), shown(hint), severity, excerpt=file.line(line))


def _set_lines(result: ScanResult, where: str) -> Iterator[str]:
    other = f"; other files: {result.other}" if result.other else ""
    yield f'data set "{result.set_id}" ({where})'
    used, excluded = len(result.samples), len(result.excluded)
    yield f"  {_count(result.found, 'picture')} found, {used} used, {excluded} excluded{other}"
    for reason in _reasons(result.excluded):
        yield f"    {reason}"
    for note, names in result.notes.items():
        yield f"    note: {_count(len(names), 'caption')}: {note}: {_some(names)}"


def _reasons(excluded: Iterable[Exclusion]) -> Iterator[str]:
    """The reasons by how often they apply, each with what is so about its first picture."""
    by_reason: dict[str, list[Exclusion]] = {}
    for exclusion in excluded:
        by_reason.setdefault(exclusion.reason, []).append(exclusion)
    for reason, entries in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        first, more = entries[0], [entry.name for entry in entries[1:]]
        also = f"; also {_some(more)}" if more else ""
        yield f"{len(entries)} {reason}: {shown(first.name)} ({shown(first.detail)}){also}"


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = [shown(name) for name in names]
    more = len(every) - _EXAMPLES
    return ", ".join(every[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('ch') else 's'}"


def _extensions() -> str:
    return ", ".join(sorted(extension.removeprefix(".") for extension in PICTURE_EXTENSIONS))


def _fit(line: str) -> str:
    line = shown(line)
    return line if len(line) <= REPORT_WIDTH else f"{line[: REPORT_WIDTH - 3]}..."
