"""Repository on the Hugging Face Hub -> model folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.settings import setting
from framework.models.folder import checked_folder
from framework.models.hub import REPOSITORY, download_model, find_or_fetch_config, token_problems

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Downloads a model from the Hugging Face Hub: safetensors and tokenizer, never pickles."""

    repo: str = setting(not_empty=True)
    """`owner/name`."""
    revision: str = setting("main", not_empty=True)
    """Branch, tag or commit; only a full commit hash names the same weights for ever."""
    token_env: str = ""
    """Environment variable that holds an access token, to be allowed with `--allow-env`. Empty: the
    Hub's own login, if any."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `owner/name` and `owner/name@revision`."""
        match = REPOSITORY.fullmatch(locator)
        if match is None or locator.endswith(".gguf"):
            return None
        return {name: value for name, value in match.groupdict().items() if value}

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """A name that is no Hub name, a token variable that is not set."""
        return self.config_problems()

    def config_problems(self) -> Iterable[Problem]:
        """See `protocols.Configured`."""
        if not REPOSITORY.fullmatch(self.repo) or "@" in self.repo:
            yield Problem(
                key="model.source.repo",
                what=f"{self.repo!r} is not a Hub name",
                hint="write `owner/name`; a local folder is written `./folder`",
            )
        yield from token_problems(self.token_env)

    def fetch(self) -> Path:
        """The folder in the Hub's own cache.

        Raises:
            UserError: it does not exist, may not be read, or holds no safetensors.
            RunFailed: the Hub can't be reached.
        """
        return checked_folder(download_model(self.repo, self.revision, self.token_env))

    def fetch_config(self) -> Path:
        """See `protocols.Configured`; all of the model's files where they are on this machine."""
        return find_or_fetch_config(self.repo, self.revision, self.token_env)

    def fingerprint(self) -> str:
        """Repository and revision, as they are written."""
        return f"hub:{self.repo}@{self.revision}"
