"""Make the training set of the tiny base model from the Open Clip Art Library's pictures.

    python examples/tiny-model/prepare.py --png PNG_FOLDER --svg SVG_FOLDER OUT_FOLDER

OUT_FOLDER gets pictures.zip (128 x 128 WebP on white, stored) and captions.jsonl, a line a picture: name, category,
texts, and the split "train" or "held out". The same folders give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import drawing
import numpy as np
from captions import Categories, Category, texts
from look import Look, look
from PIL import Image
from styles import style_pictures
from titles import Metadata, Subjects, read_metadata, series_titles

from simpletune.progress import Reporter, terminal_reporter

SIDE, MARGIN, QUALITY = 128, 6, 90
HELD_OUT = 0.05
_SAME = 0.16  # pictures that differ by less than this share of their ink are duplicates
_ALIKE = 0.42  # up to this share they must not stand on both sides of the split
_WEAK = ("unsorted", "recreation/party", "recreation/holiday", "recreation", "shapes", "signs_and_symbols", "computer")


@dataclass(frozen=True)
class Candidate:
    path: str  # relative to the library, without ending
    subject: str
    category: Category
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Rendered:
    candidate: Candidate
    webp: bytes
    signature: drawing.Array
    seen: Look


def candidates(png: Path, svg: Path) -> tuple[list[Candidate], Counter[str]]:
    """All pictures whose subject can be told, and how many were left out for which reason."""
    paths = sorted(path.relative_to(png).with_suffix("").as_posix() for path in png.rglob("*.png"))
    metadata = {path: read_metadata(svg / f"{path}.svg") for path in paths}
    series = series_titles({path: metadata[path].title for path in paths})
    left: Counter[str] = Counter()
    styles = {picture.path.rpartition("/")[2] for picture in style_pictures()}
    own = [path for path in paths if path.rpartition("/")[2] not in styles]
    left["style sets"] = len(paths) - len(own)
    kept = list(_not_left_out(own, _rules()))
    left["by rule (left_out.txt)"] = len(own) - len(kept)
    subjects, categories = Subjects.load(), Categories.load()
    found = []
    for path in kept:
        candidate = _candidate(path, metadata[path], series, subjects, categories)
        if candidate:
            found.append(candidate)
        else:
            left["no subject"] += 1
    return found, left


def _candidate(
    path: str, metadata: Metadata, series: frozenset[str], subjects: Subjects, categories: Categories
) -> Candidate | None:
    folder, _, stem = path.rpartition("/")
    subject = subjects.subject(stem, metadata, series)
    creator = set(re.findall("[a-z]+", metadata.creator))
    keywords = tuple(word for word in metadata.keywords if categories.known(word) and word not in creator)
    if "aiga" in stem and "sign" not in subject:
        subject = f"{subject} sign"
    if not subject and not path.startswith("computer/"):
        subject = next(iter(keywords), "")
    if not subject or (path.startswith("computer/") and not categories.known(subject)):
        return None  # most names of icons are those of programs
    category = categories.of(folder, subject, keywords)
    if category.name == "flags" and "flag" not in subject.split():
        subject = f"flag of {subject}"
    return Candidate(path, subject, category, keywords)


def _rules() -> list[tuple[int, list[str]]]:
    lines = (Path(__file__).resolve().parent / "left_out.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("|") for line in lines if "|" in line and not line.startswith("#")]
    return [(int(count), patterns.split()) for count, patterns in pairs]


def _not_left_out(paths: list[str], rules: list[tuple[int, list[str]]]) -> Iterator[str]:
    matched: dict[int, list[str]] = {}
    for path in paths:
        rule = next((n for n, (_, patterns) in enumerate(rules) if _matches(path, patterns)), -1)
        matched.setdefault(rule, []).append(path)
    kept = set(matched.pop(-1, []))
    for rule, members in matched.items():
        count = min(rules[rule][0], len(members))
        kept.update(members[index * len(members) // count] for index in range(count))
    return (path for path in paths if path in kept)


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(path.lower(), pattern.lower()) for pattern in patterns)


def render(job: tuple[Path, Candidate]) -> Rendered | str:
    """The picture as it is to be learnt, or why it is left out."""
    png, candidate = job
    try:
        drawn = drawing.read(png / f"{candidate.path}.png", SIDE, MARGIN)
    except drawing.UnfitError as why:
        return str(why)
    seen = look(drawn)
    if seen.kind == "outline":
        return "held-out style, black line drawings"
    data = io.BytesIO()
    Image.fromarray(drawn.pixels).save(data, "WEBP", quality=QUALITY, method=6)
    return Rendered(candidate, data.getvalue(), drawing.signature(drawn.pixels), seen)


def style_signatures(png: Path) -> list[drawing.Array]:
    """Of both style sets' pictures, as far as they are in this library."""
    files = [png / f"{picture.path}.png" for picture in style_pictures()]
    return [drawing.signature(drawing.read(file, SIDE, MARGIN).pixels) for file in files if file.exists()]


def unique(pictures: list[Rendered], styles: list[drawing.Array], left: Counter[str]) -> list[list[Rendered]]:
    """Pictures without near duplicates of each other and of the style sets, in groups that look alike."""
    ordered = sorted(pictures, key=lambda picture: _preference(picture.candidate))
    signatures = np.stack([*styles, *(picture.signature for picture in ordered)])
    same = drawing.duplicates(signatures, _SAME)[len(styles) :]
    kept = [index for index in range(len(ordered)) if not same[index]]
    left["near duplicates"] = len(ordered) - len(kept)
    alike = drawing.duplicates(signatures[len(styles) :][kept], _ALIKE)
    group = list(range(len(kept)))
    for index, others in enumerate(alike):
        for other in others:
            _join(group, index, other)
    groups: dict[int, list[Rendered]] = {}
    for index, number in enumerate(kept):
        groups.setdefault(_root(group, index), []).append(ordered[number])
    return list(groups.values())


def _preference(candidate: Candidate) -> tuple[bool, int, str]:
    """Of duplicates the first is kept: the one in the folder that says most."""
    weak = candidate.path.startswith(_WEAK)
    return weak, -candidate.path.count("/"), candidate.path


def _root(group: list[int], index: int) -> int:
    while group[index] != index:
        index = group[index]
    return index


def _join(group: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(group, one), _root(group, other)))
    group[second] = first


def held_out(group: list[Rendered]) -> bool:
    """A group goes to one side of the split as a whole, by the hash of its names."""
    first = min(picture.candidate.path for picture in group)
    return int.from_bytes(hashlib.sha256(first.encode()).digest()[:4], "big") < HELD_OUT * 2**32


def write(groups: Iterable[list[Rendered]], out: Path) -> Counter[tuple[str, str]]:
    """Write both files, whole or not at all; returns how many pictures each category has on each side."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [(picture, "held out" if held_out(group) else "train") for group in groups for picture in group]
    rows.sort(key=lambda row: row[0].candidate.path)
    counts: Counter[tuple[str, str]] = Counter()
    lines = []
    with zipfile.ZipFile(out / "pictures.zip.part", "w", zipfile.ZIP_STORED) as archive:
        for picture, split in rows:
            name = re.sub(r"[^a-z0-9/_-]+", "-", picture.candidate.path.lower()) + ".webp"
            archive.writestr(zipfile.ZipInfo(name), picture.webp)
            category = picture.candidate.category
            said = texts(picture.candidate.subject, category, picture.candidate.keywords, picture.seen)
            lines.append(json.dumps({"name": name, "category": category.name, "texts": said, "split": split}))
            counts[category.name, split] += 1
    (out / "captions.jsonl.part").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("pictures.zip", "captions.jsonl"):
        (out / f"{name}.part").replace(out / name)
    return counts


def prepare(png: Path, svg: Path, out: Path, reporter: Reporter, processes: int) -> None:
    """All of it; `processes` work side by side, each with 2 GB for the largest pictures."""
    found, left = candidates(png, svg)
    rendered = []
    with ProcessPoolExecutor(processes) as pool, reporter.phase("Drawing", len(found), "image") as phase:
        each = pool.map if processes > 1 else map
        for result in each(render, [(png, candidate) for candidate in found]):
            phase.advance()
            if isinstance(result, Rendered):
                rendered.append(result)
            else:
                left[result] += 1
    counts = write(unique(rendered, style_signatures(png), left), out)
    for reason, count in left.most_common():
        reporter.note(f"left out, {reason}: {count}")
    for category in sorted({name for name, _ in counts}):
        reporter.note(f"{category}: {counts[category, 'train']} train, {counts[category, 'held out']} held out")
    reporter.note(f"{sum(counts.values())} pictures in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny base model's training set from openclipart's pictures.")
    parser.add_argument("--png", type=Path, required=True, help="folder of the library's PNG files")
    parser.add_argument("--svg", type=Path, required=True, help="folder of its SVG files, for titles and keywords")
    parser.add_argument("out", type=Path, help="folder for pictures.zip and captions.jsonl")
    arguments = parser.parse_args()
    for folder in (arguments.png, arguments.svg):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder")
    prepare(arguments.png, arguments.svg, arguments.out, terminal_reporter(), os.cpu_count() or 1)


if __name__ == "__main__":
    main()
