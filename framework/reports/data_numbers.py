"""Prepared data -> what is counted of every sample, and how the counts are distributed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from framework.data.preview import Histogram, histogram
from framework.data.store import Store

_STRETCH_TOKENS = 1 << 21
"""Tokens that are looked at in one go: what bounds the memory, whatever the size of the data."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Samples that stand one after the other in the store."""

    first: int
    """Sample."""
    starts: NDArray[np.int64]
    """Where each sample's tokens begin in `tokens`; a last entry is where all end."""
    tokens: NDArray[np.uint32]
    trained: NDArray[np.uint8]

    @cached_property
    def places(self) -> NDArray[np.uint64]:
        """Of each token: its place in its sample, from 0."""
        lengths = np.diff(self.starts)
        before = np.repeat(self.starts[:-1], lengths)
        return (np.arange(len(self.tokens)) - before).astype(np.uint64)

    def only(self, chosen: NDArray[np.bool_]) -> tuple[Stretch, NDArray[np.int64]]:
        """(Those of its samples that are chosen, in one stretch; their numbers in the store)."""
        lengths = np.diff(self.starts)
        here = chosen[self.first : self.first + len(lengths)]
        kept = np.repeat(here, lengths)
        reduced = Stretch(
            first=self.first,
            starts=np.concatenate([[0], np.cumsum(lengths[here])]),
            tokens=self.tokens[kept],
            trained=self.trained[kept],
        )
        return reduced, self.first + np.flatnonzero(here)


def stretches(store: Store) -> Iterator[Stretch]:
    """All samples in their order; a sample is never cut."""
    ends = store.sample_ends()
    first = 0
    while first < len(ends):
        start = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, start + _STRETCH_TOKENS, side="right")), first + 1)
        stop = int(ends[last - 1])
        yield Stretch(
            first=first,
            starts=np.concatenate([[0], ends[first:last] - start]),
            tokens=np.asarray(store.tokens[start:stop]),
            trained=np.asarray(store.trained[start:stop]),
        )
        first = last


@dataclass(frozen=True, kw_only=True)
class SampleNumbers:
    """One number of each kind for every sample, in the store's order."""

    lengths: NDArray[np.int64]
    """In tokens."""
    num_trained: NDArray[np.int64]
    num_turns: NDArray[np.int64]
    """Stretches of trained tokens: the answers that are learned."""
    hashes: NDArray[np.uint64]
    """Of the token ids and their places: equal for equal samples."""

    @property
    def trained_shares(self) -> NDArray[np.float64]:
        """Trained tokens per token."""
        return self.num_trained / self.lengths


def sample_numbers(store: Store) -> SampleNumbers:
    """Counts every sample of the store."""
    num_trained, num_turns, hashes = [], [], []
    for stretch in stretches(store):
        firsts = stretch.starts[:-1]
        trained = stretch.trained.astype(np.int64)
        # The first token of a document is never trained, so no turn goes on in the next sample.
        begins = trained.copy()
        begins[1:] *= 1 - trained[:-1]
        num_trained.append(np.add.reduceat(trained, firsts))
        num_turns.append(np.add.reduceat(begins, firsts))
        placed = stretch.places << np.uint64(32) | stretch.tokens
        hashes.append(np.add.reduceat(mixed(placed), firsts))
    return SampleNumbers(
        lengths=np.diff(store.sample_ends(), prepend=0),
        num_trained=np.concatenate(num_trained),
        num_turns=np.concatenate(num_turns),
        hashes=np.concatenate(hashes),
    )


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Another number for each, all bits of which depend on all of its bits.

    The finaliser of SplitMix64: https://doi.org/10.1145/2714064.2660195
    """
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    return numbers


def compressed_ratios(store: Store, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bytes of each sample's token ids once zlib has packed them, per byte before.

    The lower, the more the sample repeats itself.
    """
    ends = store.sample_ends()
    ratios = np.empty(len(samples))
    for number, sample in enumerate(samples):
        start = int(ends[sample - 1]) if sample else 0
        written = store.tokens[start : int(ends[sample])].tobytes()
        ratios[number] = len(zlib.compress(written, 1)) / len(written)
    return ratios


class Summary(TypedDict):
    """Where the numbers of a distribution lie."""

    minimum: float
    median: float
    mean: float
    percentile_90: float
    percentile_99: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How one number is spread over the data."""

    name: str
    unit: str
    """What is measured."""
    of: str
    """What has it: documents, or samples."""
    summary: Summary
    histogram: Histogram


def distributions(store: Store, numbers: SampleNumbers) -> tuple[Distribution, ...]:
    """Length, trained tokens, trained turns and trained share."""
    return (
        _distribution("length", "tokens", "documents", store.document_lengths()),
        _distribution("trained_tokens", "trained tokens", "samples", numbers.num_trained),
        _distribution("trained_turns", "trained turns", "samples", numbers.num_turns),
        _distribution("trained_share", "% trained", "samples", 100 * numbers.trained_shares),
    )


def _distribution(
    name: str, unit: str, of: str, values: NDArray[np.int64] | NDArray[np.float64]
) -> Distribution:
    median, nine_tenths, most = np.percentile(values, (50, 90, 99), method="lower")
    summary = Summary(
        minimum=float(values.min()),
        median=float(median),
        mean=float(values.mean()),
        percentile_90=float(nine_tenths),
        percentile_99=float(most),
        maximum=float(values.max()),
    )
    bars = histogram(np.floor(values).astype(np.int64))
    return Distribution(name=name, unit=unit, of=of, summary=summary, histogram=bars)
