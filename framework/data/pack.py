"""Lengths -> packs: which samples share a row, by best-fit decreasing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

LEAST_PACKS = 8
"""Packs over which a sample's repetitions are spread; the last of so many may be half empty."""


@dataclass(frozen=True, kw_only=True)
class Packs:
    """Samples gathered into packs."""

    members: NDArray[np.int64]
    """Indices of samples, pack after pack."""
    ends: NDArray[np.int64]
    """Number of members up to and including each pack."""
    shared: NDArray[np.int64]
    """Beside the members: tokens with which each begins as the member before it in its pack does,
    and which count once in the pack's size."""

    def __len__(self) -> int:
        return len(self.ends)


def single(num_samples: int) -> Packs:
    """Every sample by itself."""
    return alone(members=np.arange(num_samples), ends=np.arange(1, num_samples + 1))


def alone(*, members: NDArray[np.int64], ends: NDArray[np.int64]) -> Packs:
    """Packs whose members share nothing."""
    return Packs(members=members, ends=ends, shared=np.zeros_like(members))


def pack(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> Packs:
    """Indices of `lengths` gathered so that no pack's sum exceeds `capacity` tokens.

    Longest first, each into the fullest pack that still has room (best-fit decreasing); the result
    depends on the lengths alone. All samples of one length are dealt out together: one big integer
    has a bit for every amount of room that some pack has, so the fullest packs with room are found
    without a search.

    Raises:
        AssertionError: a length is 0 or exceeds the capacity; the over-length policy comes before.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert sizes.size == 0 or sizes.max() <= capacity, "over-length documents reach packing"
    assert sizes.size == 0 or sizes.min() > 0, "a sample without tokens can't be packed"
    order = np.argsort(-sizes, kind="stable")
    descending, counts = np.unique(-sizes, return_counts=True)
    pack_of = np.empty(sizes.size, dtype=np.int64)
    packing = _Packing(capacity)
    start = 0
    for size, count in zip((-descending).tolist(), counts.tolist(), strict=True):
        pack_of[order[start : start + count]] = packing.place(size, count)
        start += count
    members = np.argsort(pack_of, kind="stable")
    sums = np.bincount(pack_of, minlength=packing.num_packs)
    return alone(members=members, ends=np.cumsum(sums))


def apart(samples: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """The samples in as few groups as keep the repetitions of each apart, but at most `most`.

    Every group gets as many of those that stand once, so that each can be packed well.
    """
    unique, inverse, counts = np.unique(samples, return_inverse=True, return_counts=True)
    number = min(int(counts.max(initial=1)), max(most, 1))
    if number == 1:
        return [samples]
    order = np.argsort(inverse, kind="stable")
    firsts = np.cumsum(counts) - counts
    repetition = np.arange(len(samples)) - np.repeat(firsts, counts)
    group = (np.repeat(np.arange(len(unique)), counts) + repetition) % number
    return [samples[order][group == at] for at in range(number)]


def pack_apart(
    samples: NDArray[np.int64], most: int, pack_group: Callable[[NDArray[np.int64]], Packs]
) -> Packs:
    """Packs of some of the samples, in which repetitions are `apart` as far as `most` allows.

    Args:
        pack_group: packs of some samples, whose members are indices of what it is given.
    """
    found: list[Packs] = []
    num_members = 0
    for group in apart(samples, most):
        packs = pack_group(group)
        members, ends = group[packs.members], packs.ends + num_members
        found.append(replace(packs, members=members, ends=ends))
        num_members += len(group)
    return Packs(
        members=np.concatenate([packs.members for packs in found]),
        ends=np.concatenate([packs.ends for packs in found]),
        shared=np.concatenate([packs.shared for packs in found]),
    )


class _Packing:
    """Packs so far, by the room that they have left."""

    def __init__(self, capacity: int) -> None:
        self.num_packs = 0
        self._capacity = capacity
        self._with_room: dict[int, list[NDArray[np.int64]]] = {}
        self._rooms = 0
        """Bit r is set when some pack has room r."""

    def place(self, size: int, count: int) -> NDArray[np.int64]:
        """The packs of `count` samples of `size` tokens."""
        placed: list[NDArray[np.int64]] = []
        left = count
        while left:
            room, packs = self._fullest(size, left)
            each = room // size
            needed = min(len(packs), -(-left // each))
            used, rest = packs[:needed], packs[needed:]
            self._put(room, rest)
            taken = np.repeat(used, each)[:left]
            placed.append(taken)
            full = len(taken) // each
            self._put(room - each * size, used[:full])
            self._put(room - (len(taken) - full * each) * size, used[full:])
            left -= len(taken)
        return np.concatenate(placed)

    def _fullest(self, size: int, count: int) -> tuple[int, NDArray[np.int64]]:
        """(room, packs) of the least room that holds `size`; new packs where none does."""
        fitting = self._rooms >> size
        if fitting:
            room = (fitting & -fitting).bit_length() - 1 + size
            self._rooms ^= 1 << room
            return room, np.concatenate(self._with_room.pop(room))
        number = -(-count // (self._capacity // size))
        self.num_packs += number
        return self._capacity, np.arange(self.num_packs - number, self.num_packs)

    def _put(self, room: int, packs: NDArray[np.int64]) -> None:
        if len(packs):
            self._with_room.setdefault(room, []).append(packs)
            self._rooms |= 1 << room
