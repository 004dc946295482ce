"""The report of a preflight in lines: short, as training shows it, and with every name, as `simpletune data` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from simpletune.config.problems import ERROR, Problem
from simpletune.data.sources import Exclusion, shown
from simpletune.data.survey.wording import columns, wrapped

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.preflight import Preflight
    from simpletune.data.scan import ScanResult

REPORT_WIDTH = 80
EXAMPLES = 3

_TOLD = frozenset({"instance_data_dir", "s3_url", "dataset_name", "caption_strategy", "metadata_path"})
"""Keys whose warnings are on pictures that aren't used and on captions, which the lines name."""


def summary(looked: Preflight) -> str:
    """One line."""
    held = f", {len(looked.held_out):,} held out" if looked.held_out else ""
    return (
        f"{count(looked.found, 'picture')} found, {looked.used:,} used, {looked.found - looked.used:,} excluded{held}; "
        f"{count(len(looked.buckets), 'bucket')}, {count(looked.steps_per_epoch, 'step')} an epoch, "
        f"{looked.total_steps:,} in all"
    )


def lines(looked: Preflight) -> list[str]:
    """The report, in lines of at most REPORT_WIDTH columns."""
    found = [line for result in looked.results for line in set_lines(looked.image_sets[result.set_id], result)]
    told = (*found, *bucket_lines(looked), *step_lines(looked))
    return [part for line in told for part in _broken(line)]


def tells(problem: Problem) -> bool:
    """Whether the report's lines say all that a problem does, so that it needs no line of its own beside them."""
    return problem.severity != ERROR and problem.path.rpartition(".")[2] in _TOLD


def set_lines(image_set: ImageSet, result: ScanResult) -> Iterator[str]:
    """A data set: what was found in it, and why some isn't used."""
    other = f"; other files: {result.other:,}" if result.other else ""
    yield f'data set "{result.set_id}"{role(image_set)} ({image_set.where})'
    used, excluded = len(result.samples), len(result.excluded)
    yield f"  {count(result.found, 'picture')} found, {used:,} used, {excluded:,} excluded{other}"
    for reason in reasons(result.excluded):
        yield f"    {reason}"
    for note, names in result.notes.items():
        yield f"    note: {captions_of(len(names))}: {note}: {some(names)}"
    for remark in result.remarks:
        yield f"    note: {remark.message}: {', '.join(map(shown, remark.examples))}"


def role(image_set: ImageSet) -> str:
    """What a data set is for, where it isn't simply trained on from the first step to the last."""
    if image_set.dataset_type == "eval":
        return ", for the validation loss"
    said = []
    if image_set.is_regularisation_data:
        said.append(f"regularisation, weight {image_set.regularisation_weight:g}")
    if image_set.mask_source != "none":
        said.append("masked")
    if image_set.crop_variants > 1:
        said.append(f"{image_set.crop_variants} crops each")
    if image_set.horizontal_flip:
        said.append("mirrored too")
    if image_set.probability < 1:
        said.append(f"{image_set.probability:.4g} of it an epoch")
    if image_set.start_step or image_set.end_step is not None:
        said.append(f"steps {image_set.start_step} to {image_set.end_step or 'the end'}")
    return "".join(f", {part}" for part in said)


def bucket_lines(looked: Preflight) -> Iterator[str]:
    """Buckets with their batches; one with fewer pictures than a batch is trained too, in a smaller batch."""
    if looked.plan is None:
        return
    size = looked.plan.batch_size
    yield f"buckets (width x height in pixels){of_all_sets(looked)}"
    for (width, height), pictures in looked.buckets.items():
        showings = looked.plan.buckets[width, height]
        batches, left = -(-showings // size), showings % size
        smaller = "" if not left else f", of {left}" if showings < size else f", the last of {left}"
        yield f"  {f'{width} x {height}':<13}{count(pictures, 'picture'):<17}{count(batches, 'batch')}{smaller}"


def of_all_sets(looked: Preflight) -> str:
    """What a table of buckets counts where not all data sets are trained on from the first step on."""
    early = any(one.start_step or one.end_step is not None for one in looked.image_sets.values())
    return ", of all data sets at once" if early else ""


def step_lines(looked: Preflight) -> Iterator[str]:
    """An epoch, the run, and what is held out."""
    if looked.plan is None:
        yield "nothing to train on"
        return
    showings, epochs = looked.plan.samples_per_epoch, looked.plan.epochs(looked.total_steps)
    repeated = "" if showings == len(looked.training) else f" of {len(looked.training):,}, repeats and shares counted"
    yield f"an epoch: {count(showings, 'picture')}{repeated}, {count(looked.plan.steps_per_epoch, 'step')}"
    yield f"the run: {count(looked.total_steps, 'step')}, {epochs:.4g} epochs"
    if looked.held_out:
        yield f"held out for the validation loss: {some(sample.name for sample in looked.held_out)}"
        copies = looked.used - len(looked.training) - len(looked.held_out)
        if copies:
            yield f"not trained on either: {count(copies, 'picture')} of other data sets, which are the same files"


def reasons(excluded: Iterable[Exclusion]) -> Iterator[str]:
    """The reasons by how often they apply, each with what is so about its first picture."""
    for reason, entries in by_reason(excluded):
        first, more = entries[0], [entry.name for entry in entries[1:]]
        also = f"; also {some(more)}" if more else ""
        yield f"{len(entries):,} {reason}: {shown(first.name)} ({shown(first.detail)}){also}"


def by_reason(excluded: Iterable[Exclusion]) -> Sequence[tuple[str, list[Exclusion]]]:
    """The excluded pictures by reason, the commonest first."""
    found: dict[str, list[Exclusion]] = {}
    for exclusion in excluded:
        found.setdefault(exclusion.reason, []).append(exclusion)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = [shown(name) for name in names]
    more = len(every) - EXAMPLES
    return ", ".join(every[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number:,} {what}{'es' if what.endswith('ch') else 's'}"


def _broken(line: str) -> list[str]:
    """The line, or several where it is too long for one: columns stay as they are where they can."""
    return wrapped(line, REPORT_WIDTH) if columns(shown(line)) > REPORT_WIDTH else [shown(line)]


def captions_of(pictures: int) -> str:
    """What a note on captions begins with."""
    return f"captions of {count(pictures, 'picture')}"
