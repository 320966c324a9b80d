"""Folder on this machine -> model folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.atomic import known_sha256
from framework.core.problems import Problem, UserError
from framework.core.settings import setting
from framework.models.folder import (
    WANTED_FILES,
    checked_folder,
    config_problems,
    folder_problems,
)

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

LOCAL_STARTS = ("./", "../", "/", "~/")
"""How a path is told from a Hub name."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """Reads a model folder on this machine: config.json, *.safetensors and a tokenizer."""

    path: str = setting(path=True, not_empty=True)
    """The folder."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes paths that start with `./`, `../`, `/` or `~/`, except `.gguf` files."""
        is_path = locator.startswith(LOCAL_STARTS) or locator in {".", ".."}
        return {"path": locator} if is_path and not locator.endswith(".gguf") else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What the folder lacks."""
        return folder_problems(Path(self.path), key="model.source")

    def config_problems(self) -> Iterable[Problem]:
        """See `protocols.Configured`."""
        return config_problems(Path(self.path), key="model.source")

    def fetch_config(self) -> Path:
        """See `protocols.Configured`: the folder itself, whatever else it has."""
        if problems := tuple(self.config_problems()):
            raise UserError(problems)
        return Path(self.path)

    def fetch(self) -> Path:
        """The folder itself.

        Raises:
            UserError: it can't be loaded, with everything that is missing.
        """
        return checked_folder(Path(self.path))

    def fingerprint(self) -> str:
        """Hash of the bytes of every file that is loaded.

        Raises:
            UserError: it can't be loaded, with everything that is missing.
        """
        folder = self.fetch()
        whole = hashlib.sha256()
        for file in sorted({file for pattern in WANTED_FILES for file in folder.glob(pattern)}):
            whole.update(f"{file.name}\0{known_sha256(file)}\n".encode())
        return f"local:{whole.hexdigest()}"
