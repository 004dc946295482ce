"""The samples of a run as a page shows them: base against fine-tuned, and what became of each prompt over the steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simpletune.results.report.embed import Embedded, Embedder
from simpletune.results.report.samples import BASE, Album, Column, Shot

_PAIRS, _PAIR_EDGE, _PAIR_BUDGET = 24, 640, 5_500_000
_SMALL = 256
_IN_STRIPS, _STRIP_EDGE, _STRIP_BUDGET = 400, 224, 6_000_000


@dataclass(frozen=True)
class Pair:
    """A prompt by the base and by the fine-tuned model; one of them may be missing."""

    prompt: str
    said: str  # seed and size
    base: Embedded | None
    tuned: Embedded | None
    tuned_title: str


@dataclass(frozen=True)
class Frame:
    title: str
    picture: Embedded


@dataclass(frozen=True)
class Strip:
    """A prompt over the steps, first to last."""

    prompt: str
    said: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Shown:
    """An album on the page. `more` says what isn't shown, "" for nothing."""

    title: str
    pairs: tuple[Pair, ...]
    strips: tuple[Strip, ...]
    more: str

    @property
    def small(self) -> bool:
        """Whether all its pictures are small, so that more stand side by side."""
        made = [one for pair in self.pairs for one in (pair.base, pair.tuned) if one is not None]
        return max((max(one.width, one.height) for one in made), default=0) <= _SMALL


def shown(albums: Sequence[Album], embedder: Embedder) -> list[Shown]:
    """What the page shows of each album, within what a page can hold."""
    chosen = _shared(albums)
    large = embedder.embed(_of_pairs(chosen), _PAIR_EDGE, _PAIR_BUDGET)
    columns = _columns(chosen)
    small = embedder.embed(_of_strips(chosen, columns), _STRIP_EDGE, _STRIP_BUDGET)
    found = []
    for (album, shots), picked in zip(chosen, columns, strict=True):
        pairs = tuple(pair for shot in shots if (pair := _pair(album, shot, large)) is not None)
        strips = tuple(strip for shot in shots if len((strip := _strip(shot, picked, small)).frames) > 2)
        found.append(Shown(album.title, pairs, strips, _left_out(album, shots, picked)))
    return found


def last_pictures(albums: Sequence[Album], embedder: Embedder, count: int) -> list[tuple[Shot, Embedded]]:
    """The newest picture of each of the first `count` shots; the base's where there is no other."""
    shots = [(shot, _newest(album, shot)) for album in albums for shot in album.shots][:count]
    made = embedder.embed((path for _, path in shots if path), _PAIR_EDGE, _PAIR_BUDGET // 2)
    return [(shot, made[path]) for shot, path in shots if path in made]


def _newest(album: Album, shot: Shot) -> Path | None:
    tuned = album.tuned
    return (shot.files.get(tuned.name) if tuned else None) or shot.files.get(BASE)


def _shared(albums: Sequence[Album]) -> list[tuple[Album, Sequence[Shot]]]:
    """Each album with those of its shots that are shown: the first album's first."""
    left, found = _PAIRS, []
    for album in albums:
        found.append((album, album.shots[:left]))
        left -= len(found[-1][1])
    return [(album, shots) for album, shots in found if shots]


def _columns(chosen: Sequence[tuple[Album, Sequence[Shot]]]) -> list[list[Column]]:
    """The steps that are shown of each album: all, or the first, the last, and some evenly between."""
    total = sum(len(album.columns) * len(shots) for album, shots in chosen)
    share = min(1.0, _IN_STRIPS / max(1, total))
    found = []
    for album, _ in chosen:
        count = max(3, round(len(album.columns) * share))
        picked = dict.fromkeys(round(index * (len(album.columns) - 1) / max(1, count - 1)) for index in range(count))
        found.append([album.columns[index] for index in picked])
    return found


def _of_pairs(chosen: Sequence[tuple[Album, Sequence[Shot]]]) -> Iterable[Path]:
    for album, shots in chosen:
        wanted = [BASE] if album.tuned is None else [BASE, album.tuned.name]
        yield from (shot.files[name] for shot in shots for name in wanted if name in shot.files)


def _of_strips(chosen: Sequence[tuple[Album, Sequence[Shot]]], columns: Sequence[Sequence[Column]]) -> Iterable[Path]:
    for (_, shots), picked in zip(chosen, columns, strict=True):
        if len(picked) > 2:
            yield from (shot.files[one.name] for shot in shots for one in picked if one.name in shot.files)


def _pair(album: Album, shot: Shot, made: dict[Path, Embedded]) -> Pair | None:
    tuned = album.tuned
    base_file, tuned_file = shot.files.get(BASE), shot.files.get(tuned.name) if tuned else None
    base, other = made.get(base_file) if base_file else None, made.get(tuned_file) if tuned_file else None
    if base is None and other is None:
        return None
    return Pair(shot.prompt, said(shot), base, other, f"fine-tuned, {tuned.title}" if tuned else "")


def _strip(shot: Shot, picked: Sequence[Column], made: dict[Path, Embedded]) -> Strip:
    files = ((one.title, shot.files.get(one.name)) for one in picked)
    frames = tuple(Frame(title, made[path]) for title, path in files if path is not None and path in made)
    return Strip(shot.prompt, said(shot), frames)


def said(shot: Shot) -> str:
    """A shot's seed and size in words."""
    parts = [f"seed {shot.seed}" if shot.seed else "", shot.size]
    return ", ".join(part for part in parts if part)


def _left_out(album: Album, shots: Sequence[Shot], picked: Sequence[Column]) -> str:
    more = []
    if len(shots) < len(album.shots):
        more.append(f"{len(album.shots) - len(shots):,} more pictures a step")
    if len(picked) < len(album.columns):
        more.append(f"{len(album.columns) - len(picked):,} more steps")
    return f"In the folder, and not shown here: {' and '.join(more)}." if more else ""
