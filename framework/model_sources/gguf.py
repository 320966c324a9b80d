"""GGUF file, on this machine or on the Hub -> model folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.atomic import known_sha256
from framework.core.problems import Problem, UserError
from framework.core.settings import setting
from framework.models.convert import convert_gguf, is_gguf
from framework.models.hub import NAME, download_file, token_problems

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

ON_HUB = re.compile(rf"(?P<repo>{NAME}/{NAME})/(?P<file>[^@]+\.gguf)(?:@(?P<revision>[\w./-]+))?")
"""`owner/name/file.gguf`, or the same with `@revision`."""


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """Converts a GGUF file, local or on the Hub, into float32 safetensors, once."""

    path: str | None = setting(None, path=True, not_empty=True)
    """A local `.gguf` file. None: `repo` and `file` say where it is."""
    repo: str | None = setting(None, not_empty=True)
    """Hub repository, `owner/name`."""
    file: str | None = setting(None, not_empty=True)
    """The file's name in that repository."""
    revision: str = setting("main", not_empty=True)
    """The repository's branch, tag or commit."""
    token_env: str = ""
    """Environment variable that holds an access token, to be allowed with `--allow-env`. Empty: the
    Hub's own login, if any."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `file.gguf`, any path to one, and `owner/name/file.gguf`."""
        match = ON_HUB.fullmatch(locator)
        if match is not None:
            return {name: value for name, value in match.groupdict().items() if value}
        is_path = locator.endswith(".gguf") and not locator.startswith("pypi:")
        return {"path": locator} if is_path else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Neither or both places, a missing file, a token variable that is not set."""
        if self.path is None:
            if self.repo is None or self.file is None:
                yield Problem(
                    key="model.source",
                    what="says neither where the file is on this machine nor on the Hub",
                    hint="write `path: file.gguf`, or `repo: owner/name` and `file: name.gguf`",
                )
            yield from token_problems(self.token_env)
            return
        if self.repo is not None or self.file is not None:
            yield Problem(
                key="model.source",
                what="names a local file and one on the Hub",
                hint="keep `path`, or keep `repo` and `file`",
            )
        yield from _file_problems(Path(self.path))

    def fetch(self) -> Path:
        """The converted folder in the cache.

        Raises:
            UserError: the file does not exist or is not GGUF.
            RunFailed: the Hub can't be reached, or the cache can't be written.
        """
        return convert_gguf(self._file())

    def fingerprint(self) -> str:
        """Hash of a local file's bytes; the name and revision of one on the Hub.

        Raises:
            UserError: the local file does not exist.
        """
        if self.path is None:
            return f"gguf:{self.repo}/{self.file}@{self.revision}"
        return f"gguf:{known_sha256(self._file())}"

    def _file(self) -> Path:
        if self.path is None:
            assert self.repo is not None and self.file is not None, "check() found this"
            return download_file(self.repo, self.file, self.revision, self.token_env)
        problems = tuple(_file_problems(Path(self.path)))
        if problems:
            raise UserError(problems)
        return Path(self.path)


def _file_problems(file: Path) -> Iterable[Problem]:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        hint = (
            "write a path to one file; one on the Hub is written `owner/name/file.gguf`"
            if what == "does not exist"
            else "name one .gguf file in it"
        )
        yield Problem(key="model.source", what=f"GGUF file {str(file)!r} {what}", hint=hint)
    elif not is_gguf(file):
        yield Problem(
            key="model.source",
            what=f"{str(file)!r} is not a GGUF file (it does not start with `GGUF`)",
            hint="download it again; a page or a Git LFS pointer may have been saved in its place",
        )
