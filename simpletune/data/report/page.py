"""The report of `simpletune data` as one HTML page, with the pictures and what is cut out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from simpletune import __version__
from simpletune.data.preflight_lines import by_reason, count, role, step_lines
from simpletune.data.report.thumbnails import cut, share_cut_off, thumbnail
from simpletune.data.sources import shown
from simpletune.data.survey.wording import shape_rows, size_rows
from simpletune.pages import data_uri, render
from simpletune.redact import redact

if TYPE_CHECKING:
    from simpletune.data.report import BucketFacts, DataReport
    from simpletune.data.report.duplicates import SampleId
    from simpletune.data.scan import Sample
    from simpletune.progress import Phase, Reporter

PICTURES = 400
"""Pictures on a page, spread over the buckets: about 6 KB each."""

_ROWS, _GROUPS, _COPIES, _CUTS = 2_000, 60, 8, 6


def page(report: DataReport, reporter: Reporter, pictures: int = PICTURES) -> str:
    """The page; at most `pictures` of the training pictures are shown, as many of each bucket as is fair."""
    shares = fair_shares([facts.pictures for facts in report.buckets], pictures)
    groups = _duplicate_groups(report)
    wanted = sum(shares) + sum(min(len(group), _COPIES) for _, group in groups)
    with reporter.phase("Making thumbnails", wanted, "image") as phase:
        drawn = _Drawn(report, phase)
        buckets = [drawn.bucket(facts, share) for facts, share in zip(report.buckets, shares, strict=True)]
        duplicates = [drawn.group(kind, group) for kind, group in groups]
    return render("data.html", {**_facts(report), "buckets": buckets, "duplicates": duplicates})


def fair_shares(counts: Sequence[int], limit: int) -> list[int]:
    """How many of each to show so that they sum to at most `limit`: all of the small ones, the rest in equal parts."""
    shares = [0] * len(counts)
    left = limit
    for position, index in enumerate(sorted(range(len(counts)), key=lambda index: counts[index])):
        shares[index] = min(counts[index], left // (len(counts) - position))
        left -= shares[index]
    return shares


def _facts(report: DataReport) -> dict[str, Any]:
    looked = report.looked
    excluded = [_row(set_id, entry) for set_id, entry in _excluded(report)]
    every = len(report.duplicates.exact) + len(report.duplicates.near or ())
    links = [("problems", "Problems")] * bool(report.further_problems) + [("sets", "Data sets"), ("buckets", "Buckets")]
    links += [("excluded", "Not used")] * bool(excluded) + [("duplicates", "More than once")] * bool(every)
    return {
        "title": report.settings.config_path.parent.name or "simpletune",
        "where": redact(str(report.settings.config_path)),
        "tiles": _tiles(report),
        "links": [*links, ("sizes", "Sizes and captions")],
        "problems": [
            {"severity": problem.severity, "message": redact(problem.message), "hint": redact(problem.hint or "")}
            for problem in report.further_problems
        ],
        "sets": list(_sets(report)),
        "order": list(step_lines(looked)),
        "excluded": excluded[:_ROWS],
        "excluded_more": max(0, len(excluded) - _ROWS),
        "duplicates_more": max(0, every - _GROUPS),
        "charts": list(_charts(report)),
        "made": f"simpletune {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    }


def _tiles(report: DataReport) -> list[tuple[str, str]]:
    looked = report.looked
    epochs = looked.plan.epochs(looked.total_steps) if looked.plan else 0
    tiles = [
        ("Pictures to train on", f"{len(looked.training):,}"),
        ("Held out", f"{len(looked.held_out):,}"),
        ("Excluded", f"{looked.found - looked.used:,}"),
        ("Buckets", f"{len(looked.buckets):,}"),
        ("Steps an epoch", f"{looked.steps_per_epoch:,}"),
        ("Epochs", f"{epochs:.4g}"),
        ("Caches", f"{sum(size for what, size in report.disk.items() if what != 'checkpoints') / 1e6:,.0f} MB"),
    ]
    return [tile for tile in tiles if tile[1] != "0" or tile[0] == "Pictures to train on"]


def _sets(report: DataReport) -> Iterator[dict[str, Any]]:
    for result in report.looked.results:
        image_set = report.looked.image_sets[result.set_id]
        different = len({caption for sample in result.samples for caption in sample.captions})
        yield {
            "id": shown(result.set_id),
            "where": redact(shown(image_set.where)),
            "role": role(image_set).removeprefix(", ") or "training",
            "found": f"{result.found:,}",
            "used": f"{len(result.samples):,}",
            "excluded": f"{len(result.excluded):,}",
            "captions": f"{count(different, 'different caption')} ({image_set.caption_strategy})",
        }


def _excluded(report: DataReport) -> Iterator[tuple[str, Any]]:
    for result in report.looked.results:
        for _, entries in by_reason(result.excluded):
            yield from ((result.set_id, entry) for entry in entries)


def _row(set_id: str, entry: Any) -> dict[str, str]:
    return {"name": f"{shown(set_id)}: {shown(entry.name)}", "reason": entry.reason, "detail": shown(entry.detail)}


def _duplicate_groups(report: DataReport) -> list[tuple[str, Sequence[SampleId]]]:
    found: list[tuple[str, Sequence[SampleId]]] = [("the same file", group) for group in report.duplicates.exact]
    found += [("nearly the same to look at", group) for group in report.duplicates.near or ()]
    return found[:_GROUPS]


class _Drawn:
    """Makes thumbnails, each once, and what stands under them."""

    def __init__(self, report: DataReport, phase: Phase) -> None:
        self._report, self._phase = report, phase
        self._samples = {sample.id: sample for sample in report.samples}

    def bucket(self, facts: BucketFacts, share: int) -> dict[str, Any]:
        members = [sample for sample in self._report.looked.training if sample.bucket == facts.bucket]
        step = max(1, len(members) // max(1, share))
        pictures = [picture for sample in members[::step][:share] if (picture := self._picture(sample)) is not None]
        said = f"{count(facts.pictures, 'picture')}, {count(facts.batches, 'batch')} an epoch"
        if facts.last_batch < self._report.settings.train_batch_size:
            said += f", the last of {facts.last_batch}" if facts.batches > 1 else f" of {facts.last_batch}"
        said += f"; {facts.cut_off:.0%} cut off on average"
        if facts.enlarged:
            said += f"; {facts.enlarged:,} enlarged"
        size = f"{facts.bucket[0]} × {facts.bucket[1]}"
        return {"size": size, "said": said, "pictures": pictures, "more": facts.pictures - len(pictures)}

    def group(self, kind: str, group: Sequence[SampleId]) -> dict[str, Any]:
        told = [self._samples[name] for name in group[:_COPIES]]
        found = [picture for sample in told if (picture := self._picture(sample)) is not None]
        more = f", and {len(group) - len(told):,} more" if len(group) > len(told) else ""
        return {"kind": f"{kind}{more}", "pictures": found}

    def _picture(self, sample: Sample) -> dict[str, Any] | None:
        made = thumbnail(sample, self._report.looked.sources[sample.set_id])
        self._phase.advance()
        if made is None:
            return None
        crops = list(dict.fromkeys(cut(placement) for placement in sample.placements))
        further = f", {len(crops)} crops" if len(crops) > 1 else ""
        further += ", also mirrored" if any(placement.mirrored for placement in sample.placements) else ""
        return {
            "thumbnail": data_uri(made),
            "width": sample.width,
            "height": sample.height,
            "name": shown(sample.name),
            "caption": shown(sample.captions[0]),
            "said": f"{sample.width} × {sample.height}, {share_cut_off(sample.placements[0]):.0%} cut off{further}",
            "cuts": crops[:_CUTS],
        }


def _charts(report: DataReport) -> Iterator[dict[str, Any]]:
    sizes = Counter((sample.width, sample.height) for sample in report.samples)
    if sizes:
        yield _chart("Shorter edge", "pixels", "pictures", size_rows(sizes, report.settings.resolution))
        yield _chart("Shape", "width to height", "pictures", shape_rows(sizes))
    for counts in report.tokens:
        rows = [(_range(low, high), number) for low, (high, number) in _with_lows(counts.histogram)]
        yield _chart(f"Caption length for {counts.encoder}", "tokens", "captions", rows, [counts.line()])


def _with_lows(bars: Sequence[tuple[int | None, int]]) -> Iterator[tuple[int, tuple[int | None, int]]]:
    """Each bar with the lowest number it counts; empty ones above the last that isn't are left out."""
    used = max((index for index, (_, number) in enumerate(bars) if number), default=-1)
    low = 1
    for high, number in bars[: used + 1]:
        yield low, (high, number)
        low = (high or 0) + 1


def _range(low: int, high: int | None) -> str:
    return f"{low} and more" if high is None else f"{low} to {high}"


def _chart(
    title: str, unit: str, counted: str, rows: Sequence[tuple[str, int]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    most = max((number for _, number in rows), default=1) or 1
    drawn = [{"name": name, "count": f"{number:,}", "share": round(100 * number / most, 1)} for name, number in rows]
    return {"title": title, "unit": unit, "counted": counted, "rows": drawn, "notes": list(notes)}
