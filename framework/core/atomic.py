"""Folders and files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_SETTLED_SECONDS = 2.0
"""After so long a second change to a file also changes its time: file systems count coarsely."""


def write_folder(
    folder: Path, make: Callable[[Path], None], details: Mapping[str, Any] | None = None
) -> None:
    """Fills `folder`, which must not exist, so that it appears only when all of it is on disk.

    `make` writes into a folder beside it; a manifest with size and SHA-256 of every file, and
    `details`, is added; everything is synced before the rename.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    try:
        make(part)
        files = {
            str(path.relative_to(part)): {
                "sha256": file_sha256(path),
                "size_bytes": path.stat().st_size,
            }
            for path in sorted(part.rglob("*"))
            if path.is_file()
        }
        manifest = {**(details or {}), "files": files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in part.rglob("*"):
            _sync(path)
        part.chmod(0o755)
        part.replace(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """Like `write_folder`, in the place of whatever stands there; for one writer at a time."""
    for part in folder.parent.glob(f".{folder.name}.part-*"):
        shutil.rmtree(part, ignore_errors=True)
    if not folder.exists():
        write_folder(folder, make)
        return
    fresh = folder.with_name(f".{folder.name}.part-fresh")
    write_folder(fresh, make)
    # The old folder leaves only now that the new one is whole.
    old = folder.with_name(f".{folder.name}.part-old")
    folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Replaces a text file in one step.

    Raises:
        OSError: the old content is still there.
    """
    write_with(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file in one step by what `write` writes into a file beside it.

    Raises:
        OSError: the old content is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as one:
        part = Path(one.name)
    try:
        write(part)
        _sync(part)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def damage(folder: Path, *, hashes: bool = True) -> str:
    """What is wrong with a folder that `write_folder` made, empty when it is whole.

    With `hashes` every byte is read, else only the sizes are compared.
    """
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        files = {name: (int(one["size_bytes"]), one["sha256"]) for name, one in written.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"no readable {MANIFEST}: {type(error).__name__}: {error}"
    for name, (size_bytes, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size_bytes:
            return f"{name} has {path.stat().st_size:,} of {size_bytes:,} bytes"
        if hashes and file_sha256(path) != sha256:
            return f"{name} has changed since it was written"
    return ""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """The same, read once in a process as long as the file stays as it is.

    Raises:
        OSError: it can't be read.
    """
    state = path.stat()
    if time.time() - state.st_mtime < _SETTLED_SECONDS:
        return file_sha256(path)
    return _remembered_sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, *_: int) -> str:
    return file_sha256(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
