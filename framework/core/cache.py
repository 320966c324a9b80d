"""Environment -> the user's cache directory: the one place that reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from framework.core import atomic
from framework.core.problems import RunFailed


def cache_directory() -> Path:
    """Folder for what can be made again: `$XDG_CACHE_HOME/framework`, else `~/.cache/framework`."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "framework"


def find_folder(kind: str, key: str) -> Path | None:
    """The complete folder of this content key, None when it is still to be made."""
    folder = cache_directory() / kind / key
    # Sizes only: hashing gigabytes at every start would cost more than it finds.
    return None if atomic.damage(folder, hashes=False) else folder


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of this content key, filled by `make` unless it is there.

    Several processes may ask at once: one makes it, the others wait. An interrupted folder is never
    used: it appears under its name only when all of it is on disk.

    Raises:
        RunFailed: the cache can't be written.
    """
    from filelock import FileLock

    found = find_folder(kind, key)
    if found is not None:
        return found
    folder = cache_directory() / kind / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{key}.lock")):
            if find_folder(kind, key) is None:
                atomic.replace_folder(folder, make)
    except OSError as error:
        raise RunFailed(
            f"the cache {str(folder)!r} can't be written: {error}",
            hint="free some space, or set XDG_CACHE_HOME to a directory with room",
        ) from error
    return folder
