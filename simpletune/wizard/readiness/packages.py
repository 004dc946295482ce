"""Python and the packages: versions against the ranges that simpletune itself asks for, nothing imported."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from simpletune.wizard.readiness.check import FAILED, OK, SKIPPED, WARNING, Check

_DISTRIBUTION = "simpletune"
_DEVELOPMENT = "dev"


@dataclass(frozen=True)
class _Wanted:
    """A requirement of simpletune: as it is written, the extra it belongs to, and what is installed."""

    text: str
    extra: str | None
    installed: str | None
    fits: bool

    @property
    def name(self) -> str:
        return self.text.rstrip("0123456789.,<>=!~*").strip()

    @property
    def complaint(self) -> str:
        return f"{self.name} {self.installed} (needed: {self.text.removeprefix(self.name)})"


def package_checks() -> Iterator[Check]:
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
        needed = metadata.metadata(_DISTRIBUTION)["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Check("python", OK, f"{platform.python_version()} ({sys.executable})")
        message = "simpletune runs from its source folder, so its requirements aren't known"
        yield Check("packages", SKIPPED, message, "pip install --editable FOLDER")
        return
    yield _python(needed)
    wanted = [_look(text) for text in requirements]
    yield _required([one for one in wanted if one.extra is None])
    optional = [one for one in wanted if one.extra not in (None, _DEVELOPMENT)]
    if optional:
        yield _optional(optional)


def _python(needed: str | None) -> Check:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if needed and not SpecifierSet(needed).contains(version, prereleases=True):
        return Check(
            "python", FAILED, f"{version}, and simpletune needs {needed}", "make an environment with a newer one"
        )
    if sys.maxsize < 2**32:
        return Check("python", FAILED, f"{version}, 32-bit, for which there is no PyTorch", "install a 64-bit Python")
    return Check("python", OK, f"{version} ({sys.executable})")


def _look(text: str) -> _Wanted:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    extra = next((name for name in _extras() if requirement.marker and _is_of(requirement.marker, name)), None)
    shown = f"{requirement.name}{requirement.specifier}"
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return _Wanted(shown, extra, None, False)
    return _Wanted(shown, extra, installed, requirement.specifier.contains(installed, prereleases=True))


def _extras() -> list[str]:
    return metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []


def _is_of(marker: object, extra: str) -> bool:
    evaluate = marker.evaluate  # type: ignore[attr-defined]
    return bool(evaluate({"extra": extra})) and not evaluate({"extra": ""})


def _required(wanted: list[_Wanted]) -> Check:
    missing = [one for one in wanted if one.installed is None]
    unfit = [one for one in wanted if one.installed is not None and not one.fits]
    if not missing and not unfit:
        return Check("packages", OK, f"all {len(wanted)} that simpletune needs, in versions it knows")
    parts = [f"missing: {', '.join(one.name for one in missing)}"] if missing else []
    parts += [f"other versions than needed: {', '.join(one.complaint for one in unfit)}"] if unfit else []
    install = " ".join(f"'{one.text}'" for one in (*missing, *unfit))
    return Check("packages", FAILED, "; ".join(parts), f"pip install {install}")


def _optional(wanted: list[_Wanted]) -> Check:
    """Extras that are there, and those that could be; one that is there in a version nobody tested is a warning."""
    there = [f"{one.name} {one.installed}" for one in wanted if one.installed is not None]
    absent = [one for one in wanted if one.installed is None]
    unfit = [one for one in wanted if one.installed is not None and not one.fits]
    if unfit:
        install = " ".join(f"'{one.text}'" for one in unfit)
        return Check("optional", WARNING, f"{', '.join(one.complaint for one in unfit)}", f"pip install {install}")
    without = ", ".join(f"{one.name} (pip install '{_DISTRIBUTION}[{one.extra}]')" for one in absent)
    parts = [*there, f"not installed: {without}"] if absent else there
    return Check("optional", OK, "; ".join(parts))
