"""Plan -> tokenized, masked, packed data on disk, made once for each content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.core.batch import Features
from framework.core.cache import cached_folder
from framework.core.problems import Problem, UserError
from framework.core.protocols import Chat
from framework.core.samples import RowError, Sample
from framework.data.over_length import POLICIES
from framework.data.pack import pack
from framework.data.rows import BadRow, NumberedSample, read_samples, row_problem
from framework.data.store import Store, StoreWriter

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe

Part = Literal["train", "eval"]

MOST_PROBLEMS = 20
"""Bad rows that are reported in full; the rest are counted."""
MOST_LISTED = 1000
"""Row ids that the report keeps of each kind."""


@dataclass(kw_only=True)
class Counts:
    """What became of one dataset's rows."""

    name: str
    num_rows: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_skipped_rows: int = 0
    num_over_length_rows: int = 0
    num_untrained_rows: int = 0
    skipped_rows: list[str] = field(default_factory=list)
    """The first of them, with file, line and reason."""
    over_length_rows: list[int] = field(default_factory=list)
    untrained_rows: list[int] = field(default_factory=list)
    """Rows with no token to train; they are left out."""


def prepare(recipe: Recipe, part: Part, chat: Chat, chat_fingerprint: str) -> Store | None:
    """The part's data, from the cache or made now; None when the recipe has no such part.

    Safe under concurrent processes: one makes it, the others wait and open it.

    Args:
        chat_fingerprint: changes when the tokenizer, the template or the mask would.

    Raises:
        UserError: rows that don't fit, each with file and line.
    """
    datasets = recipe.data.train if part == "train" else recipe.data.eval
    if not datasets:
        return None
    key = _cache_key(recipe, datasets, chat_fingerprint)

    def make(folder: Path) -> None:
        _Preparation(recipe, datasets, part, chat, folder).run()

    return Store(cached_folder("data", key, make))


def read_test_samples(recipe: Recipe, num_rows: int) -> tuple[Sample, ...]:
    """The first samples of `data.test`.

    Raises:
        UserError: rows that don't fit, each with file and line.
    """
    samples: list[Sample] = []
    problems: list[Problem] = []
    for dataset in recipe.data.test:
        for result in read_samples(dataset):
            if len(samples) == num_rows or len(problems) == MOST_PROBLEMS:
                break
            if isinstance(result, BadRow):
                problems.append(row_problem(dataset, result))
            else:
                samples.append(result.sample)
    if problems and recipe.data.on_bad_row == "error":
        raise UserError(problems)
    return tuple(samples)


class _Preparation:
    """One pass over the datasets of a part; holds the writer and what was found wrong."""

    def __init__(
        self, recipe: Recipe, datasets: Sequence[Dataset], part: Part, chat: Chat, folder: Path
    ) -> None:
        self.recipe = recipe
        self.datasets = datasets
        self.part = part
        self.chat = chat
        self.writer = StoreWriter(folder)
        self.problems: list[Problem] = []
        self.num_problems = 0

    def run(self) -> None:
        counts = [self._dataset(index) for index in range(len(self.datasets))]
        if self.problems:
            raise UserError(self._problems_with_rest())
        if not self.writer.lengths:
            raise UserError(self._nothing_left(counts))
        units = self._units()
        capacity = self.recipe.data.max_length if self.recipe.data.packing else 0
        efficiency = sum(self.writer.lengths) / (len(units) * capacity) if capacity else None
        details = {
            "datasets": [asdict(count) for count in counts],
            "packing_efficiency": efficiency,
        }
        self.writer.finish(units, details)

    def _dataset(self, index: int) -> Counts:
        dataset = self.datasets[index]
        counts = Counts(name=dataset.name or f"{self.part}{index}")
        for result in read_samples(dataset):
            counts.num_rows += 1
            if isinstance(result, BadRow):
                self._bad_row(dataset, counts, result)
                continue
            try:
                features = self.recipe.trainer.method.features(result.sample, self.chat)
            except RowError as error:
                self._bad_row(dataset, counts, BadRow(row=result.row, error=error))
                continue
            self._add(index, counts, result, features)
        return counts

    def _add(
        self, index: int, counts: Counts, numbered: NumberedSample, features: Sequence[Features]
    ) -> None:
        untrained = False
        fitting = self._fit(self.datasets[index], counts, numbered, features)
        for part, one in enumerate(fitting):
            num_trained = sum(sum(document.trained) for document in one.documents)
            if num_trained == 0:
                untrained = True
                continue
            self.writer.add(one, dataset=index, row=numbered.row, part=part)
            counts.num_samples += 1
            counts.num_tokens += self.writer.lengths[-1]
            counts.num_trained_tokens += num_trained
        if untrained:
            counts.num_untrained_rows += 1
            _list(counts.untrained_rows, numbered.row)

    def _fit(
        self,
        dataset: Dataset,
        counts: Counts,
        numbered: NumberedSample,
        features: Sequence[Features],
    ) -> Iterator[Features]:
        """The features within `max_length`, by the over-length policy."""
        longest = self.recipe.data.max_length
        over_length = False
        for one in features:
            length = sum(len(document.tokens) for document in one.documents)
            if length <= longest:
                yield one
                continue
            over_length = True
            if self.recipe.data.over_length == "error":
                self._problem(
                    dataset, BadRow(row=numbered.row, error=_over_length(length, longest))
                )
                continue
            policy = POLICIES[self.recipe.data.over_length]
            # A sample of several documents can't be cut without losing what ties them together.
            assert len(one.documents) == 1
            for document in policy(one.documents[0], longest):
                yield Features(documents=(document,))
        if over_length:
            counts.num_over_length_rows += 1
            _list(counts.over_length_rows, numbered.row)

    def _bad_row(self, dataset: Dataset, counts: Counts, bad: BadRow) -> None:
        if self.recipe.data.on_bad_row == "error":
            self._problem(dataset, bad)
            return
        counts.num_skipped_rows += 1
        if len(counts.skipped_rows) < MOST_LISTED:
            counts.skipped_rows.append(str(row_problem(dataset, bad)))

    def _problem(self, dataset: Dataset, bad: BadRow) -> None:
        self.num_problems += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(row_problem(dataset, bad))

    def _problems_with_rest(self) -> list[Problem]:
        rest = self.num_problems - len(self.problems)
        if not rest:
            return self.problems
        hint = "write data.on_bad_row: skip to leave such rows out, counted and listed"
        return [*self.problems, Problem(what=f"and {rest:,} more rows", hint=hint)]

    def _nothing_left(self, counts: Sequence[Counts]) -> Problem:
        reasons = [
            f"{count.name}: {count.num_rows} rows, {count.num_skipped_rows} skipped, "
            f"{count.num_over_length_rows} over length, "
            f"{count.num_untrained_rows} with nothing to train"
            for count in counts
        ]
        return Problem(
            key=f"data.{self.part}",
            what=f"no row is left to use ({'; '.join(reasons)})",
            hint="`framework preview` shows rows as they would be trained",
        )

    def _units(self) -> list[list[int]]:
        if self.recipe.data.packing:
            return pack(self.writer.lengths, self.recipe.data.max_length)
        return [[index] for index in range(len(self.writer.lengths))]


def _over_length(length: int, longest: int) -> RowError:
    return RowError(
        f"becomes {length:,} tokens, data.max_length is {longest:,}",
        hint=f"write data.max_length: {length}, or data.over_length: drop, truncate or split",
    )


def _list(rows: list[int], row: int) -> None:
    if len(rows) < MOST_LISTED:
        rows.append(row)


def _cache_key(recipe: Recipe, datasets: Sequence[Dataset], chat_fingerprint: str) -> str:
    """Hash of everything that the prepared data depends on, our own code included."""
    data = recipe.data
    parts = {
        "datasets": [
            [one.source.fingerprint(), repr(one.format), one.columns, one.rows, one.name]
            for one in datasets
        ],
        "limits": [data.max_length, data.over_length, data.packing, data.on_bad_row],
        "method": repr(recipe.trainer.method),
        "chat": chat_fingerprint,
        "code": _code_fingerprint(),
        "versions": [importlib.metadata.version(name) for name in ("transformers", "tokenizers")],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _code_fingerprint() -> str:
    """Hash of the source files that turn rows into tokens: a changed rule makes new data."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in ("core", "data", "data_sources", "formatters", "trainers"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
