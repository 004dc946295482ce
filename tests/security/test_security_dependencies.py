"""No version that is known to be vulnerable can be installed by our ranges, and none is in the tested set."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from vulnerable_versions import ACCEPTED, VULNERABLE, Vulnerable

ROOT = Path(__file__).parents[2]


def requirements() -> list[Requirement]:
    """Every requirement of pyproject.toml, the extras' too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    return [Requirement(text) for group in groups for text in group]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in pairs}


def candidates(one: Vulnerable) -> list[Version]:
    """Versions in and around an affected range: its bounds, and one just below and above each."""
    bounds = [Version(found.version) for found in SpecifierSet(one.versions)]
    near = []
    for bound in bounds:
        major, minor, micro = (*bound.release, 0, 0)[:3]
        near += [bound, Version(f"{major}.{minor}.{micro + 1}"), Version(f"{major}.{minor + 1}.0")]
        near += [Version(f"{major}.{minor}.{micro - 1}")] if micro else []
        near += [Version(f"{major}.{minor - 1}.{last}") for last in (0, 9, 99)] if minor else []
        near += [Version(f"{major - 1}.{last}.0") for last in (0, 9, 99)] if major else []
    return near


@pytest.mark.parametrize("one", VULNERABLE, ids=lambda one: f"{one.package}-{one.advisory}")
def test_a_vulnerable_version_is_outside_of_our_ranges(one):
    affected = SpecifierSet(one.versions)
    ours = [found for found in requirements() if canonicalize_name(found.name) == one.package]
    assert ours, f"{one.package} is no requirement of ours: remove its line"
    tried = [version for version in candidates(one) if version in affected]
    assert tried
    for requirement in ours:
        inside = [str(version) for version in tried if version in requirement.specifier]
        assert not inside, f"{requirement} allows {inside[0]}: {one.advisory}, {one.why}"


@pytest.mark.parametrize("one", VULNERABLE, ids=lambda one: f"{one.package}-{one.advisory}")
def test_the_tested_versions_are_none_of_them(one):
    version = pinned().get(one.package)
    assert version is None or version not in SpecifierSet(one.versions)


def test_each_line_says_what_and_why():
    for one in VULNERABLE:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}", one.advisory)
        assert one.package == canonicalize_name(one.package)
        assert len(one.why) > 20
    assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}", name) and why for name, why in ACCEPTED.items())
    assert {requirement.name for requirement in requirements()} >= {"torch", "pillow", "pyarrow", "aiohttp"}
