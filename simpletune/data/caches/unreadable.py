"""The pictures that turn out unreadable while a run encodes, and how many of them a data set may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simpletune.data.scan import Exclusion, Sample, ScanResult
from simpletune.data.sources import UNREADABLE_REASONS, Reason, shown
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.progress import Reporter

_NAMED = 20  # pictures that are left out with a line each; of more the number is told
_NAMED_AT_THE_END = 3


class Unreadable:
    """The pictures that couldn't be read, and how many a data set may lose."""

    def __init__(
        self, samples: Sequence[Sample], scanned: Sequence[ScanResult], share: float, reporter: Reporter
    ) -> None:
        self.excluded: list[Exclusion] = []
        self._share = share
        self._reporter = reporter
        self._left = Counter(sample.set_id for sample in samples)
        self._found = Counter({result.set_id: result.found for result in scanned})
        self._found.update({set_id: count for set_id, count in self._left.items() if not self._found[set_id]})
        unreadable = [each for result in scanned for each in result.excluded if each.reason in UNREADABLE_REASONS]
        self._names: dict[str, list[str]] = {}
        for exclusion in unreadable:
            self._names.setdefault(exclusion.set_id, []).append(exclusion.name)

    def add(self, sample: Sample, message: str) -> None:
        """Leave a picture out, and say so. Raises DataError when its data set has lost too many."""
        self.excluded.append(Exclusion(sample.set_id, sample.name, Reason.UNREADABLE.value, message))
        if len(self.excluded) <= _NAMED:
            self._reporter.warn(f"left out: {message}")
        self._left[sample.set_id] -= 1
        names = self._names.setdefault(sample.set_id, [])
        names.append(sample.name)
        found = self._found[sample.set_id]
        if len(names) > self._share * found or not self._left[sample.set_id]:
            raise DataError(self._too_many(sample.set_id, names, found), _hint(message))

    def summarize(self) -> None:
        """Say how many were left out in all, when not each had its line."""
        more = len(self.excluded) - _NAMED
        if more > 0:
            self._reporter.warn(f"left out: {more} more pictures that can't be read")

    def _too_many(self, set_id: str, names: Sequence[str], found: int) -> str:
        few = ", ".join(shown(name) for name in names[-_NAMED_AT_THE_END:])
        if not self._left[set_id]:
            return f'data set "{set_id}": none of its {found} pictures can be read any more ({few})'
        limit = f"max_unreadable_share allows {self._share:.4g} of them"
        return f'data set "{set_id}": {len(names)} of {found} pictures can\'t be read, and {limit} ({few})'


def _hint(message: str) -> str:
    return f"see to these files, or raise max_unreadable_share; the last: {message}"
