"""Where a recipe stands in its repository, without running anything of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from framework.runs.git_state import git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    ended = subprocess.run(
        ["git", *settings, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "base.yaml").write_text("model: {source: ./m}\n")
    (tmp_path / "recipe.yaml").write_text("extends: base.yaml\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "recipes")
    return tmp_path


def test_files_that_are_not_as_committed_are_named(repository):
    files = [repository / "recipe.yaml", repository / "base.yaml"]
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(files) == {"commit": commit, "dirty": []}
    (repository / "base.yaml").write_text("model: {source: ./other}\n")
    (repository / "new.yaml").write_text("{}\n")
    changed = [str(repository / "base.yaml"), str(repository / "new.yaml")]
    assert git_state([*files, repository / "new.yaml"]) == {"commit": commit, "dirty": changed}


def test_outside_of_a_repository_there_is_nothing_to_say(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{}\n")
    assert git_state([tmp_path / "recipe.yaml"]) is None
    assert git_state([]) is None


def test_programs_that_a_repository_names_do_not_run(repository):
    canary = repository / "canary"
    plant = f"touch {canary}; cat"
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    for key in ("core.fsmonitor", "filter.evil.clean", "diff.evil.textconv", "core.pager"):
        git(repository, "config", key, plant)
    (repository / "recipe.yaml").write_text("extends: other.yaml\n")
    git(repository, "config", "core.sshCommand", plant)
    state = git_state([repository / "recipe.yaml"])
    assert state is not None and state["dirty"] == [str(repository / "recipe.yaml")]
    assert not canary.exists()
    git(repository, "status")
    assert canary.exists(), "git itself would have run one"
