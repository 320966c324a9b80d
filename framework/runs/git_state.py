"""The recipe's files -> their commit, asked so that nothing of the repository runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

_SECONDS = 10
_HARMLESS = {
    # A repository's own settings can name programs; none of what is asked here may start one.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


class GitState(TypedDict):
    """Where a recipe stands in its repository."""

    commit: str
    dirty: list[str]
    """The recipe's files that are not as the commit has them."""


def git_state(files: Sequence[Path]) -> GitState | None:
    """Of the repository around the first file; None where there is none, or no git.

    Only objects are read, never the working tree through git: its filters and monitors are programs
    that a stranger's repository may bring.
    """
    if not files or shutil.which("git") is None:
        return None
    folder = files[0].resolve().parent
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return None
    return GitState(commit=commit, dirty=[str(one) for one in files if _differs(one.resolve())])


def _differs(file: Path) -> bool:
    listed = _git(file.parent, "ls-tree", "HEAD", "--", file.name)
    if not listed:
        return True
    content = file.read_bytes()
    name = listed.split()[2]
    kind = hashlib.sha256 if len(name) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(content) + content).hexdigest() != name


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails, or takes too long."""
    command = ["git", "-c", "core.fsmonitor=false", "--no-pager", *arguments]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **_HARMLESS},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
