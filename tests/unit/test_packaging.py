"""pyproject.toml, constraints.txt and requirements.txt agree."""

from __future__ import annotations

import importlib.metadata
import re
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


def hashed() -> dict[str, tuple[str, int]]:
    """Package of requirements.txt -> (version, number of files whose SHA-256 is there)."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[^\s#])", text)[1:]
    found = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
        assert len(hashes) == entry.count("--hash="), name
        found[canonicalize_name(name)] = (version, len(hashes))
    return found


def test_what_the_quickstart_installs_is_pinned_with_hashes():
    found = hashed()
    assert len(found) > 50
    assert [name for name, (_, number) in found.items() if not number] == []
    # What only other systems need has no pin of the environment that is tested.
    elsewhere = {"colorama", "httpx2-jsfetch"}
    wrong = {
        name: version
        for name, (version, _) in found.items()
        if PINS.get(name) != version and name not in elsewhere
    }
    assert wrong == {}


def test_nothing_but_torch_is_installed_by_the_quickstart_without_a_hash():
    found, seen = hashed(), set()
    left = [Requirement(line) for line in PROJECT["dependencies"]]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in seen or (one.marker and not _applies(one)):
            continue
        seen.add(name)
        left += [
            _under(Requirement(line), one.extras)
            for line in importlib.metadata.requires(name) or []
        ]
    for_gpus = ("triton", "nvidia-", "cuda-")
    assert {name for name in seen - found.keys() if not name.startswith(for_gpus)} == {"torch"}
    assert len(seen) > 40


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
