"""Lengths -> packs: which samples share a row, by best-fit decreasing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Indices of `lengths` gathered so that no pack's sum exceeds `capacity` tokens.

    Longest first, each into the fullest pack that still has room (best-fit decreasing); the result
    depends on the lengths alone. One big integer has a bit for every amount of room that some pack
    has, so the fullest pack with room is found without a search.

    Raises:
        AssertionError: a length exceeds the capacity; the over-length policy comes before.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert sizes.size == 0 or int(sizes.max()) <= capacity, "over-length documents reach packing"
    packs: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    order = np.argsort(-sizes, kind="stable")
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = rooms >> size
        if fitting:
            room = (fitting & -fitting).bit_length() - 1 + size
            number = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, number = capacity, len(packs)
            packs.append([])
        packs[number].append(index)
        left = room - size
        with_room[left].append(number)
        rooms |= 1 << left
    return packs
