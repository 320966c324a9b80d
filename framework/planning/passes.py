"""Lengths of the units of a global batch -> which of them are in which forward pass."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from framework.core.world import World
from framework.recipe.micro_batches import units_of_a_pass
from framework.recipe.schema import Recipe

CPU_TOKENS = 2048
"""Of a forward pass on a CPU. Measured: SmolLM2-135M learns from more tokens in a CPU-second with
1,024 than with 512, and from more with 2,048; with 4,096 it is no faster, and takes more memory."""
ACCELERATOR_TOKENS = 4096
"""Those of an accelerator. Not measured: it has more arithmetic to keep busy than a CPU."""
UNITS_IN_TURN = 256
"""For each process, of held-out data and the like, that are dealt out together."""

Shares = Sequence[Sequence[Sequence[int]]]
"""Of each process, of each of its passes: places in the global batch, in ascending order."""


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """What a forward pass has of a global batch: so many units, or tokens."""

    num_units: int | None = None
    """None: as many as have `num_tokens` together."""
    num_tokens: int = 0
    """At most, but for a unit that has more by itself."""
    reason: str = ""
    """Why `auto` is a number of units."""

    def deal(self, lengths: Sequence[int], num_processes: int) -> Shares:
        """What each process has in each pass; some passes may be empty.

        Every process has the same number of passes, so that their collectives meet, and whatever
        follows from the lengths is the same on all.

        Args:
            lengths: tokens of each unit of the global batch.
        """
        if self.num_units is None:
            return _by_tokens(lengths, num_processes, self.num_tokens)
        return _by_number(len(lengths), num_processes, self.num_units)

    def in_turn(self, num_units: int, num_processes: int) -> Iterator[range]:
        """All units of some data, as many at a time as are to be dealt out together."""
        size = (self.num_units or UNITS_IN_TURN) * num_processes
        for start in range(0, num_units, size):
            yield range(start, min(start + size, num_units))

    def most_units(self, length: int, share: int) -> int:
        """Units of a pass where all have the same length, of so many that a process has."""
        number = self.num_units or max(1, self.num_tokens // max(1, length))
        return min(number, share)


def pass_size(recipe: Recipe, world: World) -> PassSize:
    """That of a recipe in this world."""
    units = units_of_a_pass(recipe)
    if units is not None:
        return PassSize(num_units=units.number, reason=units.reason)
    tokens = CPU_TOKENS if world.device == "cpu" else ACCELERATOR_TOKENS
    return PassSize(num_tokens=max(tokens, recipe.data.max_length))


def _by_number(num_units: int, num_processes: int, size: int) -> Shares:
    """Units as they follow each other."""
    starts = range(0, max(num_units, 1), size * num_processes)
    return [
        [range(num_units)[start + rank * size : start + (rank + 1) * size] for start in starts]
        for rank in range(num_processes)
    ]


def _by_tokens(lengths: Sequence[int], num_processes: int, most: int) -> Shares:
    """As few passes as keep to `most`, all of them about equally full.

    The longest unit first, each into the emptiest pass so far (longest processing time first,
    Graham 1969). Passes that are about equal are those of the same turn: processes wait for each
    other in each.
    """
    longest_first = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    num_tokens = sum(min(length, most) for length in lengths)
    num_passes = max(1, -(-num_tokens // (most * num_processes)))
    while True:
        found = _spread(lengths, longest_first, num_passes * num_processes)
        if all(total <= most or len(units) == 1 for total, units in found):
            break
        num_passes += 1
    found.sort(key=lambda one: (-one[0], one[1]))
    return [
        [sorted(units) for _, units in found[rank::num_processes]] for rank in range(num_processes)
    ]


def _spread(
    lengths: Sequence[int], longest_first: Sequence[int], number: int
) -> list[tuple[int, list[int]]]:
    """(Tokens, units) of each of so many passes."""
    heap: list[tuple[int, int]] = [(0, index) for index in range(number)]
    units: list[list[int]] = [[] for _ in range(number)]
    for at in longest_first:
        total, index = heap[0]
        units[index].append(at)
        heapq.heapreplace(heap, (total + lengths[at], index))
    return [(total, units[index]) for total, index in heap]
