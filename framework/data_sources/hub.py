"""Datasets of the Hugging Face Hub -> rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.consent import token_of
from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.files import source_of

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Reads a dataset of the Hugging Face Hub, downloaded once and then cached."""

    repo: str = setting(not_empty=True)
    """The dataset's name on the Hub, `owner/name`."""
    name: str | None = None
    """Its configuration, when it has several."""
    split: str = "train"
    """Which split; slices such as `train[:10%]` are allowed."""
    revision: str | None = None
    """Commit, tag or branch; only a commit (40 hex digits) never changes."""
    token_env: str | None = None
    """Environment variable that holds the access token, to be allowed with `--allow-env`. None: the
    login of `hf auth login`."""
    streaming: bool = False
    """Read rows while they are downloaded, and keep none on disk; for `data.streaming`."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `owner/name` unless it ends like a file."""
        takes = source_of(locator) is None and _REPOSITORY.fullmatch(locator)
        return {"repo": locator} if takes else None

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(row number in the split from 1, values by column).

        Raises:
            UserError: the dataset, split or revision does not exist, is not readable with this
                token, can't be reached, or has no rows.
        """
        builder = self._builder()
        number = start - 1
        try:
            read = self._streamed if self.streaming else self._kept
            for row in read(builder, number):
                assert isinstance(row, dict), "a dataset without a format yields dictionaries"
                number += 1
                yield number, row
        except Exception as error:  # anything the library raises becomes one line for the user
            what = f"split {self.split!r} can't be read after row {number}: {error}"
            raise UserError(self._problem(what)) from error
        if number == 0 and start == 1:
            raise UserError(self._problem(f"split {self.split!r} holds no rows"))

    def _kept(self, builder: DatasetBuilder, skipped: int) -> Iterable[object]:
        """The rows after the first ones, of the whole split on disk."""
        from datasets import Dataset

        builder.download_and_prepare()
        dataset = builder.as_dataset(split=self.split)
        assert isinstance(dataset, Dataset), "a named split is one dataset"
        wanted = range(skipped, len(dataset))
        return dataset.select(wanted) if wanted else ()

    def _streamed(self, builder: DatasetBuilder, skipped: int) -> Iterable[object]:
        """The rows after the first ones, as they come."""
        from datasets import IterableDataset

        dataset = builder.as_streaming_dataset(split=self.split)
        assert isinstance(dataset, IterableDataset), "a named split is one dataset"
        return dataset.skip(skipped)

    def place(self, number: int) -> tuple[str, int]:
        """(dataset, row in its split) of a row number."""
        return self.repo, number

    def fingerprint(self) -> str:
        """Repository, configuration and split at the commit that is read.

        Raises:
            UserError: an unpinned dataset can't be reached and is not cached.
        """
        commit = self.revision or ""
        if not _COMMIT.fullmatch(commit):
            commit = self._builder().hash or ""
        return f"{self.repo}/{self.name or ''}/{self.split}@{commit}"

    def _builder(self) -> DatasetBuilder:
        """What downloads or finds the dataset.

        Raises:
            UserError: see `rows`.
        """
        if not _REPOSITORY.fullmatch(self.repo):
            raise UserError(
                f"{self.repo!r} is not the name of a Hub dataset",
                hint="write owner/name; a local folder is written ./folder",
            )
        token = self._token()
        from datasets import load_dataset_builder

        try:
            builder = load_dataset_builder(
                # The prefix keeps a local folder of the same name from being read instead.
                f"hf://datasets/{self.repo}",
                self.name,
                revision=self.revision,
                token=token,
            )
        except Exception as error:  # network, access and format faults have no common class
            hint = (
                f"if this is a local path, write ./{self.repo}; offline, only cached datasets load"
            )
            raise UserError(self._problem(f"can't be loaded: {_one_line(error)}", hint)) from error
        self._refuse_other_revision(builder)
        return builder

    def _refuse_other_revision(self, builder: DatasetBuilder) -> None:
        """Without the Hub, datasets reads the newest cached revision, whatever was asked."""
        from datasets.packaged_modules.cache.cache import Cache

        if self.revision and isinstance(builder, Cache) and builder.hash != self.revision:
            what = f"revision {self.revision!r} can't be had: the Hub can't be reached"
            hint = f"the cache holds `revision: {builder.hash}`"
            raise UserError(self._problem(what, hint))

    def _token(self) -> str | None:
        return None if self.token_env is None else token_of(self.token_env)

    def _problem(self, what: str, hint: str = "") -> Problem:
        return Problem(what=f"Hub dataset {self.repo!r}: {what}", hint=hint)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
