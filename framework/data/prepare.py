"""Plan -> tokenized, masked, packed data on disk, made once for each content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framework.chat.lazy_chat import LazyChat
from framework.chat.tokens import BackendDisagrees
from framework.cleaning.passes import Cleaning
from framework.core.cache import cached_folder, find_folder
from framework.core.cleaning import Finding
from framework.core.problems import Problem, RunFailed, UserError, warn
from framework.core.protocols.data import Tallied
from framework.core.protocols.training import Online, Selective
from framework.core.samples import (
    Completion,
    Conversation,
    NumberedSample,
    RowError,
    Sample,
    TooLong,
)
from framework.data.cache_key import cache_key
from framework.data.counts import MOST_LISTED, Counts, note
from framework.data.encode import EncodedRow
from framework.data.mix import Ingredient, Mixed, mix
from framework.data.pack import LEAST_PACKS, Packs, pack, pack_apart, single
from framework.data.prefixes import pack_sharing
from framework.data.progress import Progress, silent
from framework.data.proof_counts import ProofCounts
from framework.data.proof_store import StoreProof
from framework.data.row_problems import RowProblems
from framework.data.store import Store, StoreWriter
from framework.data.workers import Encoding, start_encoding
from framework.proofs.prover import Prover
from framework.reading.held_out import held_out_samples, refusal
from framework.reading.parts import named_datasets
from framework.reading.rows import (
    BadRow,
    decided_format,
    expected_rows,
    read_samples,
    row_problem,
)
from framework.reading.split_parts import empty_part
from framework.reading.unread_columns import ColumnWatch
from framework.recipe.sharing import shares_prefixes

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Part, Recipe


def prepare(
    recipe: Recipe,
    part: Part,
    lazy_chat: LazyChat,
    progress: Progress = silent,
    workers: int = 1,
    *,
    verify: bool = False,
) -> Store | None:
    """The part's data, from the cache or made now; None when the recipe has no such part.

    Safe under concurrent processes: one makes it, the others wait and open it.

    Args:
        progress: told of every row that is read.
        workers: processes that encode; the result doesn't depend on their number.
        verify: read every byte of what the cache has; damaged data are made again.

    Raises:
        UserError: rows that don't fit, each with file and line.
    """
    datasets = named_datasets(recipe, part)
    if not datasets:
        return None
    key = cache_key(recipe, part, list(datasets.values()), lazy_chat.fingerprint)

    def make(folder: Path, difference: str = "") -> None:
        num_rows = sum(expected_rows(one) or 0 for one in datasets.values())
        try:
            with (
                start_encoding(lazy_chat, workers, difference, num_rows=num_rows) as encoding,
                StoreWriter(folder) as writer,
            ):
                warn(encoding.backend.warnings())
                _Preparation(recipe, part, datasets, folder, encoding, writer, progress).run()
        except BackendDisagrees as error:
            make(folder, str(error))

    return Store(cached_folder("data", key, make, hashes=verify))


def find_prepared(recipe: Recipe, part: Part, lazy_chat: LazyChat) -> Store | None:
    """The part's data if they were prepared before; nothing is made.

    Raises:
        UserError: a source can't be read.
    """
    datasets = named_datasets(recipe, part)
    key = cache_key(recipe, part, list(datasets.values()), lazy_chat.fingerprint)
    folder = find_folder("data", key)
    return None if folder is None else Store(folder)


def read_test_samples(recipe: Recipe, num_rows: int) -> tuple[Sample, ...]:
    """The first samples of `data.test`.

    Raises:
        UserError: rows that don't fit, each with file and line.
    """
    samples: list[Sample] = []
    problems = RowProblems(recipe.data.max_length)
    datasets = named_datasets(recipe, "test")
    skip = recipe.data.on_bad_row == "skip"
    for name, dataset in datasets.items():
        for result in read_samples(dataset, name, recipe.data):
            if len(samples) == num_rows:
                break
            if isinstance(result, BadRow):
                problems.add(dataset, result.row, result.error, skippable=not skip)
            elif not isinstance(result.sample, Conversation | Completion):
                problems.add(dataset, result.row, _unanswerable(result), skippable=not skip)
            elif (error := _unjudgeable(recipe, result, len(samples))) is not None:
                problems.add(dataset, result.row, error, skippable=not skip)
            else:
                samples.append(result.sample)
    if problems.num_rows and not skip:
        raise UserError(problems.problems())
    empty = None if samples or problems.num_rows else empty_part("test", datasets)
    if empty is not None:
        raise UserError(empty)
    warn([replace(one, what=f"skipped: {one.what}") for one in problems.problems()])
    return tuple(samples)


def _unjudgeable(recipe: Recipe, numbered: NumberedSample, at: int) -> RowError | None:
    """Why an evaluator that asks the sample as its row `at` can't judge the answer."""
    try:
        for evaluator in recipe.evaluation.evaluators:
            if isinstance(evaluator, Selective) and at < evaluator.num_rows:
                evaluator.check_sample(numbered.sample)
    except RowError as error:
        return error
    return None


def _unanswerable(numbered: NumberedSample) -> RowError:
    what = f"a {type(numbered.sample).__name__} sample has no prompt and answer to be tested on"
    return RowError(what, "test on conversations or completions")


class _Preparation:
    """One pass over the datasets of a part; holds the writer and what was found wrong."""

    def __init__(
        self,
        recipe: Recipe,
        part: Part,
        datasets: dict[str, Dataset],
        folder: Path,
        encoding: Encoding,
        writer: StoreWriter,
        progress: Progress,
    ) -> None:
        self.recipe = recipe
        self.part: Part = part
        self.datasets = datasets
        self.encoding = encoding
        self.writer = writer
        self.progress = progress
        cleaners = recipe.data.cleaners if part == "train" else ()
        self.cleaning = Cleaning(
            cleaners, lambda: held_out_samples(recipe), folder, dry_run=recipe.data.dry_run
        )
        self.problems = RowProblems(recipe.data.max_length)
        self.proof = ProofCounts()
        self.folder = folder

    def run(self) -> None:
        """Reads, cleans and encodes every row; then mixes and packs what they became."""
        try:
            counts = [self._dataset(at, name) for at, name in enumerate(self.datasets)]
        except UserError as error:  # what ends the reading comes after what was found before it
            found = self.problems.problems(skip_helps=False)
            raise type(error)([*found, *error.problems]) from error
        finally:
            # What is buffered in a file left open would be written into whatever takes its place.
            self.cleaning.close()
        if self.problems.num_rows:
            raise UserError(self.problems.problems())
        if not self.writer.lengths:
            raise UserError(self._nothing_left(counts))
        mixed = self._mixed()
        stages = [self._pack(samples) for samples in mixed.stages]
        details = {
            "datasets": [asdict(count) for count in counts],
            "cleaners": self.cleaning.counts(),
            "sources": self._tallies(),
            "tokenizer": self.encoding.backend.record(),
            "mixing": mixed.details(self.recipe.data.mixing_unit) if self.part == "train" else None,
            "packing_efficiency": self._efficiency(stages),
            "num_shared_tokens": sum(int(packs.shared.sum()) for packs in stages),
        }
        self.writer.write_units(stages)
        self.writer.write_details({**details, "proof": self._proof(details)})

    def _proof(self, details: Mapping[str, Any]) -> dict[str, Any]:
        """What was proven of how much; the arrays are proven here, every row was before.

        Raises:
            RunFailed: the arrays break a rule.
        """
        chat = self.encoding.backend.chat
        arrays = StoreProof(
            store=Store(self.folder),
            ends=Prover.of(chat).ends,
            num_vocabulary=chat.vocabulary.size,
            max_length=self.recipe.data.max_length,
            packing=self.recipe.data.packing,
            num_open=self.proof.num_open_runs,
            datasets=details["datasets"],
            only_prompts=isinstance(self.recipe.trainer.method, Online),
        )
        findings = tuple(arrays.findings())
        if findings:
            raise RunFailed(
                [
                    Problem(
                        what=f"the prepared arrays break the rule {one}",
                        hint="a fault of the framework and not of your rows, please report it; "
                        "nothing of it is kept",
                    )
                    for one in findings
                ]
            )
        return {**asdict(self.proof), "num_trained_runs": arrays.numbers.num_trained_runs}

    # ---- rows

    def _dataset(self, index: int, name: str) -> Counts:
        chosen = decided_format(self.datasets[name])
        counts = Counts(name=name, format=chosen.name, format_reason=chosen.reason)
        samples = self.cleaning(self._samples(name, counts), self._refused)
        for encoded in self.encoding.encode(samples):
            self._add(index, counts, encoded)
        counts.num_cleaned_rows = self.cleaning.num_dropped[name]
        return counts

    def _samples(self, name: str, counts: Counts) -> Iterator[NumberedSample]:
        """The samples of a dataset that fit their format."""
        dataset = self.datasets[name]
        total = None if self.progress is silent else expected_rows(dataset)
        watch = ColumnWatch(dataset)
        for result in read_samples(dataset, name, self.recipe.data, watch=watch):
            counts.num_rows += 1
            self.progress(name, counts.num_rows, total)
            if isinstance(result, BadRow):
                self._bad_row(counts, result.row, result.error)
            else:
                yield result
        counts.unread_columns = watch.unread()

    def _refused(self, numbered: NumberedSample, finding: Finding) -> None:
        if self.problems.full:  # finding the other row's line takes time
            error = RowError(finding.reason, finding.hint)
        else:
            error = refusal(finding, self.recipe)
        self.problems.add(self.datasets[numbered.dataset], numbered.row, error)

    def _add(self, index: int, counts: Counts, encoded: EncodedRow) -> None:
        self.proof.add(encoded)
        if encoded.over_length is not None:
            counts.add_over_length(encoded.row, encoded.over_length)
        if encoded.error is not None:
            self._bad_row(counts, encoded.row, encoded.error)
            return
        for part, features in enumerate(encoded.features):
            self.writer.add(features, dataset=index, row=encoded.row, part=part)
            counts.num_samples += 1
            counts.num_tokens += self.writer.lengths[-1]
            counts.num_trained_tokens += self.writer.num_trained[-1]
        if encoded.untrained:
            counts.num_untrained_rows += 1
            note(counts.untrained_rows, encoded.row)

    def _tallies(self) -> dict[str, dict[str, int]]:
        """Dataset -> the numbers of its source, where that has some."""
        sources = {name: dataset.source for name, dataset in self.datasets.items()}
        return {
            name: dict(source.tally())
            for name, source in sources.items()
            if isinstance(source, Tallied)
        }

    # ---- units

    def _mixed(self) -> Mixed:
        """The samples of each stage of the run; held-out data are one."""
        datasets = np.frombuffer(self.writer.datasets, dtype=np.int32)
        trained = np.frombuffer(self.writer.num_trained, dtype=np.int64)
        # Nothing of a prompt is trained: all count alike.
        by_tokens = self.recipe.data.mixing_unit == "trained_tokens"
        prompts = isinstance(self.recipe.trainer.method, Online)
        costs = trained if by_tokens and not prompts else None
        ingredients: list[Ingredient] = []
        for index, (name, dataset) in enumerate(self.datasets.items()):
            samples = np.flatnonzero(datasets == index)
            one = np.ones(len(samples), dtype=np.int64)
            ingredients.append(
                Ingredient(
                    name=name,
                    weight=dataset.weight,
                    epochs=1.0 if dataset.epochs is None else dataset.epochs,
                    costs=one if costs is None else costs[samples],
                    samples=samples,
                )
            )
        return mix(ingredients, self.recipe.data.mixture if self.part == "train" else None)

    def _pack(self, samples: NDArray[np.int64]) -> Packs:
        data = self.recipe.data
        if not data.packing:
            return replace(single(len(samples)), members=samples)
        num_tokens = int(self.writer.lengths_of(samples).sum())
        most = num_tokens // (data.max_length * LEAST_PACKS)
        return pack_apart(samples, most, self._pack_group)

    def _pack_group(self, samples: NDArray[np.int64]) -> Packs:
        longest = self.recipe.data.max_length
        if shares_prefixes(self.recipe):
            return pack_sharing(self.writer.documents_of(samples), longest)
        return pack(self.writer.lengths_of(samples), longest)

    def _efficiency(self, stages: Sequence[Packs]) -> float | None:
        """Share of all packs that is filled."""
        if not self.recipe.data.packing:
            return None
        num_tokens = sum(
            int((self.writer.lengths_of(packs.members) - packs.shared).sum()) for packs in stages
        )
        return num_tokens / (sum(map(len, stages)) * self.recipe.data.max_length)

    # ---- problems

    def _bad_row(self, counts: Counts, row: int, error: RowError | Problem) -> None:
        skippable = not isinstance(error, TooLong)
        if self.recipe.data.on_bad_row == "error" or not skippable:
            self.problems.add(self.datasets[counts.name], row, error, skippable=skippable)
            return
        counts.num_skipped_rows += 1
        if len(counts.skipped_rows) < MOST_LISTED:
            bad = BadRow(row=row, error=error)
            counts.skipped_rows.append(str(row_problem(self.datasets[counts.name], bad)))

    def _nothing_left(self, counts: Sequence[Counts]) -> Problem:
        if not any(count.num_rows for count in counts):
            empty = empty_part(self.part, self.datasets)
            if empty is not None:
                return empty
        return Problem(
            key=f"data.{self.part}",
            what=f"no row is left to use ({'; '.join(map(str, counts))})",
            hint="`framework preview` shows rows as they would be trained",
        )
