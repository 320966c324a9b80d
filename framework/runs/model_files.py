"""Models and other files that a recipe names -> what a lock says of them, and what has changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.atomic import MANIFEST, known_sha256
from framework.models.folder import WANTED_FILES
from framework.runs.other_files import other_places

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

LOCK = "lock.json"
"""All that decides what a run computes, as it was, in its folder."""
MODEL = "model.source"
_DECIDING = (
    ".",  # A file that a recipe names by itself.
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    "quant*_config.json",
)
"""What is computed with; a tokenizer that makes other rows is found by its rows."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_CONTENT = re.compile(rf"\w+:{_SHA256.pattern}")
"""A source's fingerprint that names its bytes, not where they are from."""
_SNAPSHOT = re.compile(r".*/snapshots/([0-9a-f]{40})")
"""Where the Hub's cache has a commit."""


@dataclass(frozen=True, kw_only=True)
class ChangedFile:
    """A file of a model, or a single one, that is not as it was when the run was started."""

    key: str
    """Of the recipe, that names it or its folder."""
    path: Path
    how: str
    """`changed`, `missing` or `new`."""
    decides: bool
    """Whether something else would be computed with it."""

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"

    @property
    def what(self) -> str:
        """The same without the key."""
        return f"{str(self.path)!r} is {self.how} since the run was started"


def locked_models(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What a lock says of the recipe's models and other files.

    Args:
        folder: the model's.
    """
    return {
        "model": {
            "fingerprint": recipe.model.source.fingerprint(),
            "path": str(folder),
            "files": model_files(folder),
        },
        "other_files": {
            key: {"path": str(path), "files": model_files(path)}
            for key, path in other_places(recipe).items()
        },
    }


def locked_keys(lock: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the recipe that say where something is whose bytes the lock knows."""
    return (MODEL, *lock.get("other_files", {}))


def changed_model_files(lock: Mapping[str, Any], recipe: Recipe) -> list[ChangedFile]:
    """What of the models and other files that both name is not as the lock has it, wherever it is
    now.

    A file of the size and time that it had is not read; others are, once in a process.

    Raises:
        UserError: a model can't be fetched.
    """
    found = changed_base_files(lock, recipe, recipe.model.source.fetch())
    before = lock.get("other_files", {})
    for key, place in other_places(recipe).items():
        if key in before:
            found += _changed(key, before[key]["files"], place)
    return found


def changed_base_files(lock: Mapping[str, Any], recipe: Recipe, folder: Path) -> list[ChangedFile]:
    """The same of the model alone, which is in `folder`."""
    found = list(_changed(MODEL, lock["model"]["files"], folder))
    fingerprint = lock["model"]["fingerprint"]
    if any(one.decides for one in found) and _OF_CONTENT.fullmatch(fingerprint):
        # Another version may have made other files of the same one.
        return found if recipe.model.source.fingerprint() != fingerprint else []
    return found


def way_back(lock: Mapping[str, Any], changed: ChangedFile) -> str:
    """What to do, or to write, so that it is again as it was."""
    before = lock["model"] if changed.key == MODEL else lock["other_files"][changed.key]
    commit = _SNAPSHOT.fullmatch(before["path"])
    if commit is not None and Path(before["path"]) != changed.path.parent:
        return f"write `{changed.key}.revision: {commit[1]}`"
    if changed.how == "new":
        return "move it out of the folder"
    return f"put it back as it was ({LOCK} has its SHA-256)"


def model_files(path: Path) -> list[dict[str, Any]]:
    """Size, time and SHA-256 of every file of a model or an adapter, or of a single file; what is
    known without reading it is not read."""
    known = _of_manifest(path / MANIFEST)
    return [
        {
            "name": name,
            "size_bytes": file.stat().st_size,
            "modified_ns": file.stat().st_mtime_ns,
            "sha256": known.get(file) or _hub_sha256(file),
        }
        for name, file in _files(path).items()
    ]


def _files(path: Path) -> dict[str, Path]:
    """Name -> file, sorted; a single file is called `.`."""
    wanted = {file for pattern in WANTED_FILES for file in path.glob(pattern)}
    files = [path] if path.is_file() else sorted(wanted - {path / MANIFEST})
    return {file.relative_to(path).as_posix(): file for file in files}


def _changed(key: str, locked: list[dict[str, Any]], place: Path) -> Iterator[ChangedFile]:
    before, now = {one["name"]: one for one in locked}, _files(place)
    known = _of_manifest(place / MANIFEST)
    for name in sorted(before.keys() | now.keys()):
        if name in before and name in now:
            if _is_same(before[name], now[name], known):
                continue
            how = "changed"
        else:
            how = "missing" if name in before else "new"
        decides = any(fnmatch(name, pattern) for pattern in _DECIDING)
        yield ChangedFile(key=key, path=place / name, how=how, decides=decides)


def _is_same(locked: Mapping[str, Any], file: Path, known: Mapping[Path, str]) -> bool:
    state = file.stat()
    if state.st_size != locked["size_bytes"]:
        return False
    # Locks of earlier versions have no times.
    if state.st_mtime_ns == locked.get("modified_ns"):
        return True
    return (known.get(file) or _hub_sha256(file)) == locked["sha256"]


def _of_manifest(manifest: Path) -> dict[Path, str]:
    """File -> SHA-256, of those that nobody has changed since it was written.

    A file that is moved into the place of another may be older by its time of modification, but
    has been changed later than the manifest.
    """
    if not manifest.is_file():
        return {}
    written = json.loads(manifest.read_text(encoding="utf-8")).get("files", {})
    found: dict[Path, str] = {}
    for name, one in written.items():
        file = manifest.with_name(name)
        if not file.is_file():
            continue
        state = file.stat()
        as_written = state.st_ctime_ns <= manifest.stat().st_ctime_ns
        if as_written and state.st_size == one["size_bytes"]:
            found[file] = one["sha256"]
    return found


def _hub_sha256(file: Path) -> str:
    """The Hub's cache names large files by their SHA-256."""
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    return known_sha256(file)
