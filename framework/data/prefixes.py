"""Documents that begin alike -> clusters that are packed together, their beginning counted once.

Shapes: N documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framework.attention.forest import MIN_SHARED_LENGTH
from framework.core.batch import Features
from framework.data.pack import Packs, pack

Numbers = NDArray[np.int64]

_ELEMENTS = 1 << 15
"""Tokens that are compared at a time: few enough for a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Documents somewhere in an array of tokens."""

    tokens: NDArray[np.uint32]
    starts: Numbers
    """[N]: where each begins."""
    lengths: Numbers
    """[N]"""
    alone: NDArray[np.bool_]
    """[N]: shares its beginning with no other, whatever it is."""

    @classmethod
    def of(cls, samples: Sequence[Features]) -> Self:
        """Samples; those of several documents share nothing with others."""
        lengths = np.array([one.num_tokens for one in samples], dtype=np.int64)
        tokens = (document.tokens for one in samples for document in one.documents)
        return cls(
            tokens=np.fromiter(chain.from_iterable(tokens), dtype=np.uint32),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            alone=np.array([len(one.documents) > 1 for one in samples]),
        )


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Groups of documents that begin with the same tokens."""

    documents: Numbers
    """Those that are in a group of several, in the order of their groups."""
    groups: Numbers
    """The group of each, from 0 on."""
    common: Numbers
    """Of each group: tokens that all of it have in common."""


def pack_sharing(documents: Documents, capacity: int) -> Packs:
    """Packs whose documents have at most `capacity` tokens together, a beginning that several of
    them have in common counted once.

    From the longest beginnings to the shortest, what has one in common becomes one cluster, or as
    many as are needed for none to exceed the capacity; clusters are packed like single documents.
    """
    number = len(documents.lengths)
    ranks = np.zeros(number, dtype=np.int64)
    levels = list(_levels(documents, ranks))
    cluster_of, sizes = np.arange(number), documents.lengths.copy()
    for level in reversed(levels):
        _join(level, cluster_of, sizes, capacity)
    clusters, inverse = np.unique(cluster_of, return_inverse=True)
    pack_of = _pack_of_each(pack(sizes[clusters], capacity))[inverse]
    members = np.lexsort((ranks, pack_of))
    ends = np.cumsum(np.bincount(pack_of))
    shared = np.zeros(number, dtype=np.int64)
    if levels:
        before, after = members[:-1], members[1:]
        same = pack_of[before] == pack_of[after]
        may = same & ~documents.alone[before] & ~documents.alone[after]
        common = _num_common(documents, before[may], after[may])
        shared[1:][may] = np.where(common >= MIN_SHARED_LENGTH, common, 0)
    return Packs(members=members, ends=ends, shared=shared)


def _pack_of_each(packs: Packs) -> Numbers:
    """The pack of each member, by its index."""
    found = np.empty(len(packs.members), dtype=np.int64)
    found[packs.members] = np.repeat(np.arange(len(packs)), np.diff(packs.ends, prepend=0))
    return found


# ---- what begins alike


def _levels(documents: Documents, ranks: Numbers) -> Iterator[_Level]:
    """Groups by ever longer beginnings; each lies within one of the level before.

    Args:
        ranks: [N] zeros, which become places of an order in which every group lies together.
    """
    number = len(documents.lengths)
    active = np.flatnonzero(~documents.alone)
    hashes = np.zeros(number, dtype=np.uint64)
    group_sizes = np.full(number, number)
    longest = int(documents.lengths.max(initial=0))
    bounds = _bounds(longest)
    for before, length, after in zip((0, *bounds), bounds, (*bounds[1:], longest), strict=False):
        active = active[documents.lengths[active] >= length]
        _hash_on(documents, active, hashes, before, length)
        active = active[np.lexsort((active, hashes[active], ranks[active]))]
        groups = _runs(hashes[active], ranks[active])
        active = active[np.bincount(groups)[groups] > 1]
        if not len(active):
            return
        groups = _runs(hashes[active], ranks[active])
        sizes = np.bincount(groups)
        # The order within a group of the level before: what is in no group now, then the groups.
        firsts = np.cumsum(sizes) - sizes
        outer = _runs(ranks[active])
        num_inner = np.bincount(outer)
        left_over = group_sizes[active] - num_inner[outer]
        start = firsts[groups] - (np.cumsum(num_inner) - num_inner)[outer]
        ranks[active] += left_over + start
        group_sizes[active] = sizes[groups]
        common = _common(documents, active, groups, after)
        yield _Level(documents=active, groups=groups, common=common)


def _bounds(longest: int) -> tuple[int, ...]:
    """Lengths of beginnings at which documents are compared: 16, 24, 32, 48, 64 ..."""
    found: list[int] = []
    length = MIN_SHARED_LENGTH
    while length <= longest:
        found += [length, length * 3 // 2]
        length *= 2
    return tuple(one for one in found if one <= longest)


def _runs(*keys: NDArray[Any]) -> Numbers:
    """Numbers, from 0 on, of stretches in which no key changes."""
    changes = np.zeros(max(len(keys[0]) - 1, 0), dtype=bool)
    for key in keys:
        changes |= key[1:] != key[:-1]
    return np.cumsum(np.concatenate(([False], changes)))[: len(keys[0])]


def _hash_on(
    documents: Documents, chosen: Numbers, hashes: NDArray[np.uint64], first: int, last: int
) -> None:
    """Takes tokens `first` to `last` - 1 of each chosen document into its hash.

    Documents of one hash are compared token by token before anything depends on it.
    """
    found = hashes[chosen]
    starts = documents.starts[chosen]
    for place in range(first, last):
        found ^= documents.tokens[starts + place]
        found *= np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(32)
    hashes[chosen] = found


def _common(documents: Documents, members: Numbers, groups: Numbers, limit: int) -> Numbers:
    """Of each group, the tokens that all have in common; not more than `limit` are looked for."""
    firsts = np.searchsorted(groups, np.arange(groups[-1] + 1))
    alike = _num_common(documents, members[firsts][groups], members, limit)
    return np.minimum.reduceat(alike, firsts)


def _num_common(
    documents: Documents, ones: Numbers, others: Numbers, limit: int | None = None
) -> Numbers:
    """With how many of the same tokens the documents of each pair begin."""
    most = np.minimum(documents.lengths[ones], documents.lengths[others])
    if limit is not None:
        most = np.minimum(most, limit)
    found = most.copy()
    left = np.arange(len(ones))
    place, width = 0, 32
    while len(left):
        step = max(1, _ELEMENTS // width)
        going: list[Numbers] = []
        for part in (left[at : at + step] for at in range(0, len(left), step)):
            columns = place + np.arange(width)
            within = np.minimum(columns, most[part, None] - 1)
            same = (
                documents.tokens[documents.starts[ones[part], None] + within]
                == documents.tokens[documents.starts[others[part], None] + within]
            )
            differs = ~same.all(1)
            found[part[differs]] = place + (~same[differs]).argmax(1)
            going.append(part[~differs & (most[part] > place + width)])
        left = np.concatenate(going)
        place += width
    return found


# ---- clusters


def _join(level: _Level, cluster_of: Numbers, sizes: Numbers, capacity: int) -> None:
    """Makes one cluster of each group's, as far as the capacity allows.

    Args:
        cluster_of: [N]: the cluster of each document, named by one of its documents.
        sizes: [N]: tokens of the cluster of this name.
    """
    # A cluster lies in one group as a whole: it was made of a longer beginning.
    clusters, places = np.unique(cluster_of[level.documents], return_index=True)
    groups = level.groups[places]
    order = np.argsort(groups, kind="stable")
    clusters, groups = clusters[order], groups[order]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    # Everything has a token of its own, even a document that is there twice.
    common = np.minimum(level.common, np.minimum.reduceat(sizes[clusters], starts) - 1)
    beyond = sizes[clusters] - common[groups]
    totals = np.add.reduceat(beyond, starts) + common
    joined = np.arange(len(sizes))
    fits = totals <= capacity
    names = np.repeat(clusters[starts], np.diff(starts, append=len(groups)))
    within = np.repeat(fits, np.diff(starts, append=len(groups)))
    joined[clusters[within]] = names[within]
    sizes[clusters[starts[fits]]] = totals[fits]
    stops = np.append(starts[1:], len(groups))
    for start, stop in zip(starts[~fits].tolist(), stops[~fits].tolist(), strict=True):
        beginning = int(common[groups[start]])
        own, some = clusters[start:stop], beyond[start:stop]
        packs = pack(some, capacity - beginning)
        for members in np.split(packs.members, packs.ends[:-1]):
            joined[own[members]] = own[members[0]]
            sizes[own[members[0]]] = beginning + int(some[members].sum())
    cluster_of[:] = joined[cluster_of]
