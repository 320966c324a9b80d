"""The images install what is pinned, from files that are there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BASES = {"cpu": "python:3.11-slim", "cuda": "nvidia/cuda:", "rocm": "rocm/pytorch:"}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments), with continued lines joined."""
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_there_is_an_image_for_each_kind_of_device_and_compose_runs_all():
    names = [path.suffix.removeprefix(".") for path in DOCKERFILES]
    assert names == sorted(BASES) == sorted(COMPOSE["services"])
    images = {name: service["image"] for name, service in COMPOSE["services"].items()}
    assert images == {name: f"framework:{name}" for name in names}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_an_image_installs_pinned_versions_of_extras_that_exist(dockerfile):
    found = instructions(dockerfile)
    arguments = dict(rest.partition("=")[::2] for name, rest in found if name == "ARG")
    assert arguments["BASE"].startswith(BASES[dockerfile.suffix[1:]])
    assert set(arguments["EXTRAS"].split(",")) <= EXTRAS.keys()
    (install,) = [rest for name, rest in found if name == "RUN" and "pip install" in rest]
    assert '--constraint constraints.txt ".[${EXTRAS}]"' in install


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_what_an_image_copies_exists_and_is_sent_to_docker(dockerfile):
    copied = [
        source
        for name, rest in instructions(dockerfile)
        if name == "COPY"
        for source in rest.split()[:-1]
    ]
    assert set(copied) == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "framework"}
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_the_development_container_is_built_from_a_stage_that_exists():
    file = ROOT / ".devcontainer" / "devcontainer.json"
    container = json.loads(file.read_text(encoding="utf-8"))
    dockerfile = file.parent / container["build"]["dockerfile"]
    stages = [rest.split(" AS ")[1] for name, rest in instructions(dockerfile) if name == "FROM"]
    assert container["build"]["target"] in stages
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(f"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
