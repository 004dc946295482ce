"""The report of `simpletune data` in lines of at most 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from simpletune.data.preflight_lines import REPORT_WIDTH, by_reason, captions_of, count, of_all_sets, role, step_lines
from simpletune.data.sources import shown
from simpletune.data.survey.wording import fit, histograms, terminal_bars, wrapped

if TYPE_CHECKING:
    from simpletune.data.report import DataReport
    from simpletune.data.report.duplicates import SampleId
    from simpletune.data.scan import ScanResult

_NAMES, _GROUPS, _COPIES = 10, 10, 6
_MEGABYTE = 1_000_000


def lines(report: DataReport, *, everything: bool = False, bars: str | None = None) -> list[str]:
    """The report; `everything` names every excluded picture and every duplicate, however many there are."""
    found: list[str] = []
    for part in (
        *(_set(report, result, everything) for result in report.looked.results),
        _sizes(report, terminal_bars() if bars is None else bars),
        _buckets(report),
        _tokens(report),
        _duplicates(report, everything),
        step_lines(report.looked),
        _disk(report),
    ):
        found += part
    return found


def _set(report: DataReport, result: ScanResult, everything: bool) -> Iterator[str]:
    image_set = report.looked.image_sets[result.set_id]
    yield from wrapped(f'data set "{result.set_id}"{role(image_set)} ({image_set.where})', REPORT_WIDTH)
    other = f"; other files: {result.other:,}" if result.other else ""
    used, excluded = f"{len(result.samples):,} used", f"{len(result.excluded):,} excluded"
    yield f"  {count(result.found, 'picture')} found, {used}, {excluded}{other}"
    for reason, entries in by_reason(result.excluded):
        yield f"  {len(entries):,} {reason}"
        shown_entries = entries if everything else entries[:_NAMES]
        for entry in shown_entries:
            yield from wrapped(f"    {shown(entry.name)}: {entry.detail}", REPORT_WIDTH)
        if len(entries) > len(shown_entries):
            yield f"    and {len(entries) - len(shown_entries):,} more (--all names them)"
    for note, names in result.notes.items():
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        yield from wrapped(f"  note: {captions_of(len(names))}: {note}: {', '.join(names[:3])}{more}", REPORT_WIDTH)
    for remark in result.remarks:
        yield from wrapped(f"  note: {remark.message}: {', '.join(map(shown, remark.examples))}", REPORT_WIDTH)
    captions = Counter(caption for sample in result.samples for caption in sample.captions)
    if captions:
        yield f"  {count(len(captions), 'different caption')}, such as"
        for caption in list(captions)[:2]:
            yield fit(f'    "{caption}"', REPORT_WIDTH)


def _sizes(report: DataReport, bars: str) -> Iterator[str]:
    sizes = Counter((sample.width, sample.height) for sample in report.samples)
    if sizes:
        yield f"sizes and shapes of {count(len(report.samples), 'picture')}"
        yield from histograms(sizes, report.settings.resolution, REPORT_WIDTH, bars)


def _buckets(report: DataReport) -> Iterator[str]:
    if not report.buckets:
        return
    if every := of_all_sets(report.looked):
        yield f"buckets{every}"
    yield "buckets, in pixels     pictures  batches  last batch  cut off  enlarged"
    for facts in report.buckets:
        width, height = facts.bucket
        last = str(facts.last_batch)
        yield (
            f"  {f'{width} x {height}':<20} {facts.pictures:>8,} {facts.batches:>8,} {last:>11}"
            f" {facts.cut_off:>7.0%} {facts.enlarged:>9,}"
        )
    small = [facts for facts in report.buckets if facts.showings < report.settings.train_batch_size]
    if small:
        buckets = count(len(small), "bucket")
        said = f"{buckets} with fewer pictures than train_batch_size {report.settings.train_batch_size}"
        yield from wrapped(f"  {said}: trained in smaller batches, never left out", REPORT_WIDTH)


def _tokens(report: DataReport) -> Iterator[str]:
    for counts in report.tokens if any(one.samples for one in report.looked.results) else ():
        yield from wrapped(counts.line(), REPORT_WIDTH)
        if counts.over:
            yield from wrapped(f"  {counts.names()}; what is over isn't seen by it", REPORT_WIDTH)


def _duplicates(report: DataReport, everything: bool) -> Iterator[str]:
    found = report.duplicates
    if found.exact:
        yield f"the same file more than once: {count(len(found.exact), 'group')}"
        yield from _groups(found.exact, everything, len(report.looked.results) > 1)
    if found.near:
        yield f"pictures that look nearly the same: {count(len(found.near), 'group')}"
        yield from _groups(found.near, everything, len(report.looked.results) > 1)
    if found.exact or found.near:
        yield "  each trains as often as all its copies together; repeats says so in the open"
    elif found.near is not None and any(one.samples for one in report.looked.results):
        yield "no picture is there twice, and no two look nearly the same"


def _groups(groups: Sequence[Sequence[SampleId]], everything: bool, of_sets: bool) -> Iterator[str]:
    """A line a group; `of_sets` names the data sets too, as two of them may have a file of one name."""
    told = groups if everything else groups[:_GROUPS]
    for group in told:
        named = group if everything else group[:_COPIES]
        names = [shown(f"{set_id}: {name}" if of_sets else name) for set_id, name in named]
        more = f" and {len(group) - len(named):,} more (--all names them)" if len(group) > len(named) else ""
        yield from wrapped(f"  {' = '.join(names)}{more}", REPORT_WIDTH)
    if len(groups) > len(told):
        yield f"  and {len(groups) - len(told):,} more (--all names them)"


def _disk(report: DataReport) -> Iterator[str]:
    caches = [
        f"{what} {max(1, size / _MEGABYTE):,.0f} MB" for what, size in report.disk.items() if what != "checkpoints"
    ]
    if caches:
        yield f"disk for the caches: {', '.join(caches)}"
