"""What is wrong with the pictures of a run, pointed at the lines of the two files that have to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from simpletune.config import jsonfile
from simpletune.config.architecture import side_limit
from simpletune.config.problems import ERROR, WARNING, Problem
from simpletune.data.geometry import enlargement
from simpletune.data.preflight_lines import captions_of, count, reasons, some
from simpletune.data.sources import PICTURE_EXTENSIONS, UNREADABLE_REASONS, NotHere, SourceError, shown

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet, Settings
    from simpletune.data.plan import Plan
    from simpletune.data.scan import Sample, ScanResult

_WHERE = {
    "local": "instance_data_dir",
    "webdataset": "instance_data_dir",
    "s3": "s3_url",
    "huggingface": "dataset_name",
}
_ENLARGED_MUCH = 2.0
_LONG = 'lower "resolution", or give them shorter sides: "crop": true with "crop_aspect" square or closest'


class Places:
    """Makes problems of a run's pictures, with the places in the two files that they belong to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = jsonfile.read(settings.config_path)
        self._data = jsonfile.read(settings.data_backend_config)
        source = settings.pretrained_model_name_or_path
        self._side_limit = side_limit(settings.model_flavour, Path(source) if source else None)

    def unlisted(self, image_set: ImageSet, error: SourceError) -> Problem:
        """A data set that can't be looked at at all."""
        message = f'data set "{image_set.id}": {error.message}'
        key = error.key or _WHERE[image_set.type]
        problem = self._in_set(image_set, key, message, error.hint)
        return replace(problem, kind="environment") if isinstance(error, NotHere) else problem

    def set_problems(self, image_set: ImageSet, result: ScanResult) -> Iterator[Problem]:
        """What is wrong with one data set's pictures."""
        named, key = f'data set "{image_set.id}"', _WHERE[image_set.type]
        if not result.found:
            other = f"; {count(result.other, 'file')} of other kinds {'is' if result.other == 1 else 'are'} there"
            message = f"{named}: no pictures in {image_set.where}{other if result.other else ''}"
            yield self._in_set(image_set, key, message, f"pictures end in {_extensions()}")
            return
        why = "; ".join(reasons(result.excluded))
        if not result.samples:
            message = f"{named}: none of the {count(result.found, 'picture')} in {image_set.where} can be used"
            yield self._in_set(image_set, key, message, why)
        elif (unreadable := self._too_many_unreadable(named, result)) is not None:
            yield unreadable
        elif result.excluded:
            message = f"{named}: {len(result.excluded)} of {count(result.found, 'picture')} aren't used"
            yield self._in_set(image_set, key, message, why, WARNING)
        for note, names in result.notes.items():
            message = f"{named}: {captions_of(len(names))}: {note}"
            yield self._in_set(image_set, "caption_strategy", message, f"see {some(names)}", WARNING)
        for remark in result.remarks:
            hint = f"see {', '.join(remark.examples)}"
            yield self._in_set(image_set, "metadata_path", f"{named}: {remark.message}", hint, WARNING)
        yield from self._too_long(image_set, result)
        yield from self._enlarged(image_set, result)
        if image_set.caption_shuffle_count and all(len(sample.captions) == 1 for sample in result.samples):
            separator = image_set.caption_separator
            message = f'{named}: no caption has parts to shuffle, with "{separator}" between them'
            hint = "set caption_separator to what stands between the parts, or leave caption_shuffle_count out"
            yield self._in_set(image_set, "caption_shuffle_count", message, hint, WARNING)

    def _too_many_unreadable(self, named: str, result: ScanResult) -> Problem | None:
        unreadable = [entry for entry in result.excluded if entry.reason in UNREADABLE_REASONS]
        limit, share = self._settings.max_unreadable_share, len(unreadable) / result.found
        if share <= limit:
            return None
        message = (
            f"{named}: {len(unreadable)} of {count(result.found, 'picture')} can't be read, "
            f"more than max_unreadable_share {limit:g} allows: something is wrong with the set"
        )
        hint = f'mend or remove them, or raise "max_unreadable_share": {"; ".join(reasons(unreadable))}'
        return self._in_config("max_unreadable_share", message, hint, ERROR)

    def _too_long(self, image_set: ImageSet, result: ScanResult) -> Iterator[Problem]:
        """Buckets with a side that the model has no positions for; of a resolution that is, the rules have told."""
        long = {sample.name: sample.bucket for sample in result.samples if max(sample.bucket) > self._side_limit}
        if long and image_set.resolution <= self._side_limit:
            width, height = max(long.values(), key=max)
            why = f"{self._settings.model_flavour} has no positions for sides over {self._side_limit} pixels"
            message = f'data set "{image_set.id}": {count(len(long), "picture")} would train at {width} x {height}'
            message += f"{' and the like' if len(set(long.values())) > 1 else ''}, and {why}: {some([*long])}"
            yield self._in_set(image_set, "resolution", message, _LONG)

    def _enlarged(self, image_set: ImageSet, result: ScanResult) -> Iterator[Problem]:
        much = [s.name for s in result.samples if enlargement(s.width, s.height, s.placements[0]) > _ENLARGED_MUCH]
        if much and image_set.max_upscale_threshold is None:
            message = f'data set "{image_set.id}": {count(len(much), "picture")} enlarged more than twice: {some(much)}'
            hint = "they train blurred; max_upscale_threshold or minimum_image_size leaves them out"
            yield self._in_set(image_set, "resolution", message, hint, WARNING)

    def plan_problems(self, samples: Sequence[Sample], plan: Plan | None, total_steps: int) -> Iterator[Problem]:
        """What is wrong with the order of all of them."""
        settings = self._settings
        if samples and plan is None:
            yield self._nothing_left(samples)
        if plan is None:
            return
        if plan.samples_per_epoch < settings.train_batch_size:
            pictures, size = count(plan.samples_per_epoch, "picture"), settings.train_batch_size
            message = f"{pictures} an epoch, fewer than train_batch_size {size}: the last batch is smaller"
            hint = (
                f"a train_batch_size of {plan.samples_per_epoch}, or repeats on the data set, says the same in the open"
            )
            yield self._in_config("train_batch_size", message, hint, WARNING)
        for gap in plan.gaps(total_steps):
            message = f"no data set is trained on from step {gap.start} to step {gap.stop - 1}"
            image_set = next(one for one in settings.image_sets if one.start_step or one.end_step is not None)
            yield self._in_set(image_set, "start_step", message, "let start_step and end_step of the sets meet")

    def _nothing_left(self, samples: Sequence[Sample]) -> Problem:
        held, many = self._settings.num_eval_images, count(len(samples), "picture")
        judged = next((one for one in self._settings.image_sets if one.dataset_type == "eval"), None)
        if held or judged is None:
            message = f"num_eval_images {held} holds out all of {many}"
            return self._in_config("num_eval_images", message, "leave some to train on", ERROR)
        hint = "leave some to train on: give the eval data set a folder of its own"
        return self._in_set(judged, _WHERE[judged.type], f"every one of the {many} is in an eval data set", hint)

    def _in_set(self, image_set: ImageSet, key: str, message: str, hint: str, severity: str = ERROR) -> Problem:
        entries = self._data.value if isinstance(self._data.value, list) else []
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
        index = ids.index(image_set.id) if image_set.id in ids else 0
        near = (key, "metadata_path" if key.endswith("_column") else key, _WHERE[image_set.type])
        stands = next((name for name in near if (index, name) in self._data.values), key)  # not one left at its default
        return _problem(self._data, (index, key), message, hint, severity, (index, stands))

    def _in_config(self, key: str, message: str, hint: str, severity: str) -> Problem:
        return _problem(self._config, (key,), message, hint, severity)


def _problem(
    file: jsonfile.JsonFile,
    path: jsonfile.JsonPath,
    message: str,
    hint: str,
    severity: str,
    stands: jsonfile.JsonPath | None = None,
) -> Problem:
    """`stands` is what to point at, where that isn't `path` itself."""
    place = file.place(stands or path)
    line, column = (place.line, place.column) if place else (0, 0)
    key = ".".join(map(str, path))
    return Problem(file.path.name, line, column, key, shown(message), shown(hint), severity, excerpt=file.line(line))


def _extensions() -> str:
    return ", ".join(sorted(extension.removeprefix(".") for extension in PICTURE_EXTENSIONS))
