"""Environment -> the user's cache directory: the one place that reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from framework.core import atomic
from framework.core.problems import Problem, RunFailed, warn


def cache_directory() -> Path:
    """Folder for what can be made again: `$XDG_CACHE_HOME/framework`, else `~/.cache/framework`."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "framework"


def find_folder(kind: str, key: str, *, hashes: bool = False) -> Path | None:
    """The complete folder of this content key, None when it is still to be made.

    Args:
        hashes: read every byte, which for gigabytes takes seconds; else only sizes are compared.
    """
    folder = cache_directory() / kind / key
    return None if atomic.damage(folder, hashes=hashes) else folder


def cached_folder(
    kind: str, key: str, make: Callable[[Path], None], *, hashes: bool = False
) -> Path:
    """The folder of this content key, filled by `make` unless it is there.

    Several processes may ask at once: one makes it, the others wait. An interrupted folder is never
    used: it appears under its name only when all of it is on disk. A damaged one is made again.

    Args:
        hashes: see `find_folder`.

    Raises:
        RunFailed: the cache can't be written.
    """
    from filelock import FileLock

    found = find_folder(kind, key, hashes=hashes)
    if found is not None:
        return found
    folder = cache_directory() / kind / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{key}.lock")):
            if find_folder(kind, key, hashes=hashes) is None:
                if folder.exists():
                    fault = atomic.damage(folder, hashes=hashes)
                    warn(
                        [
                            Problem(
                                file=str(folder), what=f"is damaged, so it is made again: {fault}"
                            )
                        ]
                    )
                atomic.replace_folder(folder, make)
    except OSError as error:
        raise RunFailed(
            f"the cache {str(folder)!r} can't be written: {error}",
            hint="free some space, or set XDG_CACHE_HOME to a directory with room",
        ) from error
    return folder
