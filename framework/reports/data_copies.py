"""Prepared data -> samples that are in it more than once, exactly or nearly."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framework.data.store import Store
from framework.reports.data_numbers import SampleNumbers, Stretch, mixed, stretches

MOST_COMPARED = 200_000
"""Samples among which near-duplicates are searched."""
SIMILARITY = 0.8
"""Estimated share of common pieces from which two samples are near-duplicates."""
PIECE_TOKENS = 5
COMMON_SHARE = 0.2
"""Pieces that more of the samples have, such as a system prompt, say nothing."""

_FEWEST_COMMON = 8
_MOST_PROBED = 2000
"""Samples whose pieces are counted to find the common ones."""
_MOST_GROUPS = 5
_MOST_IDS = 10
_NUM_PERMUTATIONS = 120
_BAND_ROWS = 5
"""Numbers of a signature in a band; two samples are compared if they agree in one of the 24 bands:
with a probability of 0.9999 at a similarity of 0.8, of 0.06 at 0.3."""
_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """Samples that are copies of each other."""

    size: int
    identifiers: tuple[str, ...]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What is in the data more than once."""

    threshold: float | None
    """Similarity from which samples count as copies; None: they are equal."""
    num_compared: int
    """Samples."""
    num_copies: int
    """Samples beyond the first of each group."""
    num_groups: int
    num_trained_tokens: int
    """Of the copies."""
    largest: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What could not be found out, because a package is not installed."""

    package: str
    extra: str

    def __str__(self) -> str:
        return f"needs the package {self.package!r}: pip install 'framework[{self.extra}]'"


def exact_copies(store: Store, numbers: SampleNumbers) -> Copies:
    """Samples of the same token ids."""
    _, groups = np.unique(numbers.hashes, return_inverse=True)
    return _copies(store, numbers, None, np.arange(len(groups)), groups)


def near_copies(store: Store, numbers: SampleNumbers, seed: int) -> Copies | Missing:
    """Samples that share most of their pieces of five tokens, exact copies aside.

    At most `MOST_COMPARED` samples are compared, drawn by `seed`. Estimated with MinHash; samples
    that have nothing but common pieces are not compared.
    """
    if importlib.util.find_spec("rensa") is None:
        return Missing(package="rensa", extra="cleaning")
    _, firsts = np.unique(numbers.hashes, return_index=True)
    random = np.random.default_rng(seed)
    if len(firsts) > MOST_COMPARED:
        firsts = random.choice(firsts, MOST_COMPARED, replace=False)
    chosen = np.zeros(store.num_samples, dtype=bool)
    chosen[firsts] = True
    probed = np.zeros(store.num_samples, dtype=bool)
    probed[random.permutation(firsts)[:_MOST_PROBED]] = True
    common = _common_pieces(store, probed)
    compared, signatures = _signatures(store, chosen, common)
    return _copies(store, numbers, SIMILARITY, compared, _grouped(signatures))


def _copies(
    store: Store,
    numbers: SampleNumbers,
    threshold: float | None,
    samples: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Copies:
    """What is in the data more than once.

    Args:
        samples: those that were compared, in rising order.
        groups: the number of each one's group.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    is_copy = np.ones(len(order), dtype=bool)
    is_copy[starts] = False
    largest = [at for at in np.argsort(-sizes, kind="stable")[:_MOST_GROUPS] if sizes[at] > 1]
    return Copies(
        threshold=threshold,
        num_compared=len(samples),
        num_copies=int(is_copy.sum()),
        num_groups=int((sizes > 1).sum()),
        num_trained_tokens=int(numbers.num_trained[samples[order[is_copy]]].sum()),
        largest=tuple(
            Group(
                size=int(sizes[at]),
                identifiers=tuple(
                    store.sample_id(int(samples[one]))
                    for one in order[starts[at] : starts[at] + min(sizes[at], _MOST_IDS)]
                ),
            )
            for at in largest
        ),
    )


# ---- near-duplicates


def _pieces(stretch: Stretch) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(Hash, sample of the stretch) of every five tokens in a row."""
    tokens = mixed(stretch.tokens.astype(np.uint64))
    count = len(tokens) - PIECE_TOKENS + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = np.zeros(count, np.uint64)
    for place in range(PIECE_TOKENS):
        hashes = hashes * np.uint64(0xD6E8FEB86659FD93) + tokens[place : place + count]
    owners = np.repeat(np.arange(len(stretch.starts) - 1), np.diff(stretch.starts))
    whole = owners[:count] == owners[PIECE_TOKENS - 1 :]
    return mixed(hashes[whole]), owners[:count][whole]


def _common_pieces(store: Store, probed: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Sorted hashes of the pieces that too many of the probed samples have."""
    found = [np.empty(0, np.uint64)]
    for stretch in stretches(store):
        hashes, owners = _pieces(stretch.only(probed)[0])
        _, once = np.unique(hashes ^ mixed(owners.astype(np.uint64)), return_index=True)
        found.append(hashes[once])
    pieces, counts = np.unique(np.concatenate(found), return_counts=True)
    return pieces[counts > max(_FEWEST_COMMON, COMMON_SHARE * probed.sum())]


def _signatures(
    store: Store, chosen: NDArray[np.bool_], common: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """(Samples that have pieces of their own, their MinHash signatures)."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] - no stubs

    samples, signatures = [np.empty(0, np.int64)], [np.empty((0, _NUM_PERMUTATIONS), np.uint32)]
    for stretch in stretches(store):
        reduced, originals = stretch.only(chosen)
        hashes, owners = _pieces(reduced)
        telling = ~_are_in(hashes, common)
        hashes, owners = hashes[telling], owners[telling]
        here, counts = np.unique(owners, return_counts=True)
        if not len(here):
            continue
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets, _NUM_PERMUTATIONS, _SEED
        )
        samples.append(originals[here])
        signatures.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(samples), np.concatenate(signatures)


def _are_in(hashes: NDArray[np.uint64], few: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the hashes are among the few, which are sorted."""
    low_bits = np.uint64((1 << 16) - 1)
    possible = np.zeros(1 << 16, dtype=bool)
    possible[few & low_bits] = True
    found = possible[hashes & low_bits]  # few are looked up: a search for each takes longer
    at = np.flatnonzero(found)
    found[at] = few[np.minimum(np.searchsorted(few, hashes[at]), len(few) - 1)] == hashes[at]
    return found


def _grouped(signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Of each signature the number of its group: the first signature in it."""
    groups = _Groups(len(signatures))
    for start in range(0, _NUM_PERMUTATIONS, _BAND_ROWS):
        band = signatures[:, start : start + _BAND_ROWS].astype(np.uint64)
        hashes = np.zeros(len(band), np.uint64)
        for column in range(_BAND_ROWS):
            hashes = mixed(hashes ^ band[:, column])
        for left, right in _similar(signatures, hashes):
            groups.join(left, right)
    return np.array([groups.first(number) for number in range(len(signatures))], dtype=np.int64)


def _similar(
    signatures: NDArray[np.uint32], hashes: NDArray[np.uint64]
) -> Iterator[tuple[int, int]]:
    """Pairs of equal hash that are similar: each signature with the first of its hash and with the
    one before it."""
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    firsts = np.searchsorted(hashes[order], hashes[order[equal]])
    for others in (firsts, equal - 1):
        left, right = order[others], order[equal]
        for start in range(0, len(left), _MOST_PROBED):
            part = slice(start, start + _MOST_PROBED)
            agreement = (signatures[left[part]] == signatures[right[part]]).mean(axis=1)
            alike = agreement >= SIMILARITY
            yield from zip(left[part][alike].tolist(), right[part][alike].tolist(), strict=True)


class _Groups:
    """Numbers that are joined into groups; a group is named by its smallest number."""

    def __init__(self, count: int) -> None:
        self._towards = list(range(count))

    def first(self, number: int) -> int:
        while self._towards[number] != number:
            self._towards[number] = self._towards[self._towards[number]]
            number = self._towards[number]
        return number

    def join(self, left: int, right: int) -> None:
        left, right = sorted((self.first(left), self.first(right)))
        self._towards[right] = left
