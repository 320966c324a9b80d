"""pyproject.toml and constraints.txt agree."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import framework

ROOT = Path(framework.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(name): version
    for name, separator, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
    if separator and not name.startswith("#")
}
NOT_INSTALLED_BY_MAKE = {"flash-attn", "liger-kernel", "vllm"}
"""Need a GPU."""


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    written = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    found = [Requirement(line) for line in written]
    return [one for one in found if one.name not in {"framework", *NOT_INSTALLED_BY_MAKE}]


def test_every_dependency_is_pinned_to_a_version_that_its_range_allows():
    assert len(requirements()) > 20
    wrong = [
        f"{one}: pinned {PINS.get(canonicalize_name(one.name))}"
        for one in requirements()
        if PINS.get(canonicalize_name(one.name), "") not in one.specifier
    ]
    assert wrong == []


@pytest.mark.parametrize("extra", ["test", "dev"])
def test_everything_that_dependencies_bring_is_pinned_too(extra):
    """Walks what is installed, so an unpinned indirect dependency is found."""
    seen: set[str] = set()
    left = [
        Requirement(line)
        for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]
    ]
    while left:
        one = left.pop()
        key = canonicalize_name(one.name) + "".join(sorted(one.extras))
        if key in seen or (one.marker and not _applies(one)):
            continue
        seen.add(key)
        if one.name == "framework":
            lines = [line for part in one.extras for line in _own_extra(part)]
        else:
            try:
                lines = importlib.metadata.requires(one.name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # a developer's tool where only the tests' packages are installed
        left += [_under(Requirement(line), one.extras) for line in lines]
        assert one.name == "framework" or canonicalize_name(one.name) in PINS, str(one)
    assert len(seen) > 60


def _own_extra(name: str) -> list[str]:
    return PROJECT["optional-dependencies"][name]


def _applies(one: Requirement) -> bool:
    assert one.marker is not None
    return one.marker.evaluate({"extra": ""})


def _under(one: Requirement, extras: set[str]) -> Requirement:
    """The requirement without a marker that these extras make true."""
    if one.marker and any(one.marker.evaluate({"extra": extra}) for extra in extras):
        one.marker = None
    return one
