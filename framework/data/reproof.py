"""Rows read again and what is on disk of them -> every place where a rule is broken."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from framework.chat.lazy_chat import LazyChat
from framework.cleaning.passes import Cleaning
from framework.core import cleaning
from framework.core.batch import Encoded, Features
from framework.core.problems import Problem
from framework.core.protocols.training import Online
from framework.core.samples import NumberedSample, RowError
from framework.data.encode import EncodedRow, RowEncoder
from framework.data.proof_store import ArrayNumbers, StoreProof
from framework.data.store import Store
from framework.proofs.findings import Disproven, Finding, around
from framework.proofs.prover import Prover, first_difference
from framework.reading.held_out import held_out_samples
from framework.reading.parts import named_datasets
from framework.reading.rows import BadRow, read_samples

if TYPE_CHECKING:
    from framework.recipe.schema import Part, Recipe

MOST_PROBLEMS = 1000
"""Problems that are kept; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class RowFinding:
    """A rule that a row breaks, or with neither dataset nor row, the arrays as a whole."""

    dataset: str | None
    row: int | None
    rule: str
    detail: str


@dataclass(kw_only=True)
class Reproof:
    """What was proven from scratch, and what was found wrong."""

    num_rows: int = 0
    """Rows that were read again."""
    num_skipped_rows: int = 0
    """Of those, rows that are left out as they do not fit."""
    num_dropped_rows: int = 0
    """Of those, rows of which nothing is trained: dropped for their length, or untrained."""
    num_cleaned_rows: int = 0
    num_documents: int = 0
    num_cut_answers: int = 0
    num_unproven_documents: int = 0
    """Documents that a trainer makes otherwise than by the encoder; equal to those made now."""
    arrays: ArrayNumbers = field(default_factory=ArrayNumbers)
    problems: list[RowFinding] = field(default_factory=list)
    num_problems: int = 0

    def add(self, problem: RowFinding) -> None:
        """Counts a problem, and keeps it unless there are many."""
        self.num_problems += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


def reprove(recipe: Recipe, part: Part, lazy_chat: LazyChat, store: Store | None) -> Reproof:
    """Reads, renders, tokenizes and masks all rows again, by the `tokenizers` library alone.

    Args:
        store: what was prepared of the part; None where rows kept it from being prepared: they are
            all among the problems.

    Raises:
        UserError: a source can't be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Reproof(recipe, part, lazy_chat, store, Path(folder)).run()


class _Reproof:
    """One pass over the rows of a part."""

    def __init__(
        self,
        recipe: Recipe,
        part: Part,
        lazy_chat: LazyChat,
        store: Store | None,
        folder: Path,
    ) -> None:
        self.recipe = recipe
        self.lazy_chat = lazy_chat
        self.stored = None if store is None else _StoredRows(store)
        self.datasets = named_datasets(recipe, part)
        cleaners = recipe.data.cleaners if part == "train" else ()
        self.cleaning = Cleaning(
            cleaners, lambda: held_out_samples(recipe), folder, dry_run=recipe.data.dry_run
        )
        self.encode = RowEncoder.of(recipe, lazy_chat.chat)
        self.prover = Prover.of(lazy_chat.chat)
        self.num_open = 0
        self.num_untrained = 0
        self.done = Reproof()

    def run(self) -> Reproof:
        with contextlib.closing(self.cleaning):
            for index, name in enumerate(self.datasets):
                for numbered in self.cleaning(self._samples(name), self._refused):
                    self._row(index, numbered, self.encode(numbered))
        self.done.num_cleaned_rows = self.cleaning.num_dropped.total()
        if self.stored is not None:
            self._arrays(self.stored)
        return self.done

    def _samples(self, name: str) -> Iterator[NumberedSample]:
        for result in read_samples(self.datasets[name], name, self.recipe.data):
            self.done.num_rows += 1
            if isinstance(result, BadRow):
                self._bad_row(name, result.row, result.error)
            else:
                yield result

    def _bad_row(self, dataset: str, row: int, error: RowError | Problem) -> None:
        if isinstance(error, Disproven):
            finding = error.finding
        else:
            finding = Finding(rule="refused", detail=f"{error.what}; {error.hint}".rstrip("; "))
        if self.recipe.data.on_bad_row == "error":
            self._broken(dataset, row, finding)
        else:
            self.done.num_skipped_rows += 1

    def _refused(self, numbered: NumberedSample, finding: cleaning.Finding) -> None:
        refusal = Finding(rule="refused", detail=finding.reason)
        self._broken(numbered.dataset, numbered.row, refusal)

    def _broken(self, dataset: str | None, row: int | None, finding: Finding) -> None:
        problem = RowFinding(dataset=dataset, row=row, rule=finding.rule, detail=finding.detail)
        self.done.add(problem)

    # ---- a row

    def _row(self, index: int, numbered: NumberedSample, encoded: EncodedRow) -> None:
        if encoded.error is not None:
            self._bad_row(numbered.dataset, numbered.row, encoded.error)
        elif not encoded.features:
            self.done.num_dropped_rows += 1
        self.num_open += encoded.num_open
        self.num_untrained += encoded.untrained
        self.done.num_documents += sum(len(one.documents) for one in encoded.features)
        self.done.num_unproven_documents += encoded.num_unproven
        if encoded.over_length is not None:
            self.done.num_cut_answers += encoded.over_length.num_cut_answers
        if self.stored is None:
            return
        stored = self.stored.take(index, numbered.row)
        if list(stored) != list(encoded.features):
            for finding in self._differences(numbered, encoded, stored):
                self._broken(numbered.dataset, numbered.row, finding)

    def _differences(
        self, numbered: NumberedSample, encoded: EncodedRow, stored: Sequence[Features]
    ) -> Sequence[Finding]:
        """Which rules the stored documents break; what is merely different is out of date."""
        has = [document for features in stored for document in features.documents]
        should = [document for features in encoded.features for document in features.documents]
        proves = isinstance(numbered.sample, Prover.proves)
        whole = proves and encoded.over_length is None and not encoded.num_unproven and should
        if whole and encoded.error is None:
            findings = self.prover(numbered.sample, has)
            if findings:
                return findings
        if len(has) != len(should):
            detail = f"the data has {len(has)} documents, the row becomes {len(should)}"
            return (Finding(rule="stale", detail=detail),)
        pairs = zip(has, should, strict=True)
        others = zip(stored, encoded.features, strict=False)
        if any(one.text != other.text for one, other in others):
            return (Finding(rule="stale", detail="the data has other columns than the row"),)
        return [self._difference(one, other) for one, other in pairs if one != other]

    def _difference(self, has: Encoded, should: Encoded) -> Finding:
        vocabulary = self.lazy_chat.chat.vocabulary
        what, place = "tokens", first_difference(has.tokens, should.tokens)
        if place is None:
            what, place = "a mask", first_difference(has.trained, should.trained)
        assert place is not None
        detail = f"the data has other {what} than the row becomes; {around(has, place, vocabulary)}"
        return Finding(rule="stale", detail=detail)

    # ---- the whole

    def _arrays(self, stored: _StoredRows) -> None:
        for sample in stored.left_over():
            detail = "the data has a sample of a row that is not there"
            self._broken(*stored.place(sample), Finding(rule="stale", detail=detail))
        details = stored.store.details
        proof = StoreProof(
            store=stored.store,
            ends=self.prover.ends,
            num_vocabulary=self.lazy_chat.chat.vocabulary.size,
            max_length=self.recipe.data.max_length,
            packing=self.recipe.data.packing,
            num_open=self.num_open,
            datasets=details["datasets"],
            numbers=self.done.arrays,
            only_prompts=isinstance(self.recipe.trainer.method, Online),
        )
        for finding in proof.findings():
            self._broken(None, None, finding)
        listed = sum(counts["num_untrained_rows"] for counts in details["datasets"])
        if listed != self.num_untrained:
            detail = f"{self.num_untrained} rows train nothing, {listed} are listed"
            self._broken(None, None, Finding(rule="zero_trained", detail=detail))


class _StoredRows:
    """What a store has of each row, and of which rows nobody asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._taken = np.zeros(store.num_samples, dtype=bool)

    def take(self, dataset: int, row: int) -> Sequence[Features]:
        """The samples of a row, in order."""
        samples = self.store.samples_of_row(dataset, row)
        self._taken[samples] = True
        return [self.store.features(int(sample)) for sample in samples]

    def left_over(self) -> Iterator[int]:
        """Samples of rows that were not asked for."""
        yield from map(int, np.flatnonzero(~self._taken))

    def place(self, sample: int) -> tuple[str, int]:
        """Dataset and row of a sample."""
        arrays = self.store.arrays
        dataset = self.store.details["datasets"][arrays["datasets"][sample]]["name"]
        return dataset, int(arrays["rows"][sample])
