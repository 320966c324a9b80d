"""Content key -> folder made once: the cache of converted models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from framework.core.cache import cache_directory
from framework.core.problems import RunFailed

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def models_directory() -> Path:
    """Where converted models are kept, one folder for each content key."""
    return cache_directory() / "models"


def find_folder(key: str) -> Path | None:
    """The complete folder of this key, None when it is still to be made."""
    folder = models_directory() / key
    return folder if _is_complete(folder) else None


def make_folder(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of this key, filled by `make` unless it is there.

    Several processes may ask at once: one makes it, the others wait. The folder appears under its
    name only when every file of it is on disk, so one that was interrupted is never used.

    Raises:
        RunFailed: the cache can't be written.
    """
    from filelock import FileLock

    folder = models_directory() / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{key}.lock")):
            if not _is_complete(folder):
                _make_under_lock(folder, make)
    except OSError as error:
        raise RunFailed(
            f"the model cache {str(folder)!r} can't be written: {error}",
            hint="free some space, or set XDG_CACHE_HOME to a directory with room",
        ) from error
    return folder


def _make_under_lock(folder: Path, make: Callable[[Path], None]) -> None:
    for abandoned in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        make(part)
        _write_manifest(part)
        part.chmod(0o755)
        part.replace(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _is_complete(folder: Path) -> bool:
    """Whether every file of the manifest is there with its size.

    Content is not hashed again: that would cost seconds at every start, and the folder was renamed
    into place only after its files had been synced.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(
            (folder / name).stat().st_size == entry["size_bytes"] for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
