"""Documents of a row -> pieces of about the same length, which are computed together.

Shapes: pieces of D documents padded to L tokens, K key heads with G query heads each, E numbers per
head, T tokens in the row, S segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from framework.attention.constants import kept_constant
from framework.core.batch import Segment

LONGEST_KEPT = 512
"""Of tokens that see more, the softmax's weights aren't kept for the backward pass: what they take
grows with the square of a document's length."""
PIECE_LENGTH = 128
"""Tokens of a longer document whose scores are computed together: with those before them, and not
with those after them, which they don't see."""
SHORTEST_PIECE = 64
"""Fewer last ones belong to the piece before."""
LENGTH_STEP = 32
"""Pieces whose lengths, rounded up to this, are equal are computed together."""
CACHED_SCORES = 1 << 18
"""Scores that are computed together, of one document at least: 1 MiB, which fits a core's cache."""
MOST_SCORES = 1 << 24
"""Scores of one piece that are computed together, of one key head at least: 64 MiB."""
MOST_WAITING = 8
"""Gradients of keys, for each row of them, that wait to be added up; a beginning that many
documents continue has one from each piece of each of them."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pieces of documents that are computed together: L tokens of each, after `start` others."""

    query_rows: Tensor
    """int64 [D * K * G * L]: rows of [T * H, E]; padding repeats the piece's last token."""
    key_rows: Tensor
    """int64 [D * K * (start + L)]: rows of [T * K, E]. K may be some of the heads."""
    query_padding: Tensor
    """int64: which of `query_rows` are padding."""
    num_batches: int
    """D * K"""
    start: int
    """Tokens of each document before these, all of which they see."""
    length: int
    """L"""

    @property
    def keeps_weights(self) -> bool:
        """Whether the backward pass finds the softmax's weights, or makes them again."""
        return self.start + self.length <= LONGEST_KEPT


@dataclass(frozen=True, kw_only=True)
class KeySums:
    """Which rows of gradients, of some groups laid end to end, are added up to those of keys."""

    num_parts: int
    """Of how many groups and long documents, following those of the sums before."""
    places: Tensor
    """int64: where they are, by the row of keys; once for each piece that sees it."""
    starts: Tensor | None
    """int64 [T * K]: where those of each row begin in `places`; None: each has one."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the documents of a row are grouped, and how to come back."""

    groups: tuple[Group, ...]
    long: tuple[slice, ...]
    """The tokens of each document that is computed by itself, after the groups."""
    query_order: Tensor
    """int64 [T * H]: where each row of queries is in the groups, laid end to end."""
    key_sums: tuple[KeySums, ...]


@kept_constant(4)
def documents_layout(
    lengths: tuple[int, ...], num_heads: int, num_key_heads: int, longest: int
) -> Layout:
    """The layout of documents that lie end to end; the same for every layer of a batch.

    Args:
        longest: tokens of a document that is computed together with others, at most.
    """
    ends = accumulate(lengths, initial=0)
    segments = [Segment(start, stop, stop) for start, stop in pairwise(ends)]
    return _make_layout(segments, num_heads, num_key_heads, longest)


@kept_constant(4)
def forest_layout(segments: tuple[Segment, ...], num_heads: int, num_key_heads: int) -> Layout:
    """The layout of documents whose common beginnings stand once: a segment's tokens see those of
    all that it continues, and are computed together with others however many these are."""
    return _make_layout(segments, num_heads, num_key_heads, longest=None)


def _make_layout(
    segments: Sequence[Segment], num_heads: int, num_key_heads: int, longest: int | None
) -> Layout:
    num_tokens = segments[-1].stop
    paths = [torch.cat([torch.arange(*one) for one in path]) for path in _paths(segments)]
    lengths = torch.tensor([len(path) for path in paths])
    tokens_of, origins = torch.cat(paths), lengths.cumsum(0) - lengths
    sizes = torch.tensor([one.stop - one.start for one in segments])
    together = lengths <= (int(lengths.max()) if longest is None else longest)
    group_size = num_heads // num_key_heads
    groups: list[Group] = []
    query_order = torch.empty(num_tokens * num_heads, dtype=torch.int64)
    keys = _Keys(num_tokens * num_key_heads)
    num_queries = 0
    for piece in _pieces(lengths - sizes, sizes, together, num_heads, num_key_heads):
        start, own_sizes, heads = piece.start, piece.sizes, piece.key_heads
        length, stops = int(own_sizes.max()), start + own_sizes[:, None]
        positions = torch.arange(start + length)
        real = positions < stops
        tokens = tokens_of[origins[piece.members, None] + torch.minimum(positions, stops - 1)]
        query_heads = (heads[:, None] * group_size + torch.arange(group_size)).flatten()
        query_rows = _rows(tokens[:, start:], query_heads, num_heads)
        key_rows = _rows(tokens, heads, num_key_heads)
        own = _each(real[:, start:], len(query_heads))
        query_order[query_rows[own]] = num_queries + own.nonzero().flatten()
        num_queries += len(query_rows)
        keys.add(key_rows, _each(real, len(heads)))
        groups.append(
            Group(
                query_rows=query_rows,
                key_rows=key_rows,
                query_padding=(~own).nonzero().flatten(),
                num_batches=len(own_sizes) * len(heads),
                start=start,
                length=length,
            )
        )
    long = [slice(*segments[at][:2]) for at in (~together).nonzero().flatten().tolist()]
    for one in long:
        query_rows = torch.arange(one.start * num_heads, one.stop * num_heads)
        key_rows = torch.arange(one.start * num_key_heads, one.stop * num_key_heads)
        query_order[query_rows] = num_queries + torch.arange(len(query_rows))
        num_queries += len(query_rows)
        keys.add(key_rows, torch.ones_like(key_rows, dtype=torch.bool))
    return Layout(
        groups=tuple(groups),
        long=tuple(long),
        query_order=query_order,
        key_sums=tuple(keys.sums()),
    )


class _Keys:
    """What groups see of the rows of keys -> how the gradients that they give are added up."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._sums: list[KeySums] = []
        self._rows: list[Tensor] = []
        self._places: list[Tensor] = []
        self._num_places = 0

    def add(self, rows: Tensor, real: Tensor) -> None:
        """One more group sees these rows, but for its padding."""
        if self._num_places + len(rows) > MOST_WAITING * self._num_rows:
            self._add_up()
        self._rows.append(rows[real])
        self._places.append(self._num_places + real.nonzero().flatten())
        self._num_places += len(rows)

    def sums(self) -> list[KeySums]:
        """Of all groups."""
        self._add_up()
        return self._sums

    def _add_up(self) -> None:
        if not self._rows:
            return
        rows, starts = torch.cat(self._rows), None
        counts = torch.bincount(rows, minlength=self._num_rows)
        if len(rows) > self._num_rows or int(counts.min()) == 0:
            starts = counts.cumsum(0) - counts
        places = torch.cat(self._places)[rows.argsort(stable=True)]
        self._sums.append(KeySums(num_parts=len(self._rows), places=places, starts=starts))
        self._rows, self._places, self._num_places = [], [], 0


def _paths(segments: Sequence[Segment]) -> Iterator[list[tuple[int, int]]]:
    """First row, and the row after the last, of all that each segment continues, and its own."""
    path: list[Segment] = []
    for segment in segments:
        while path and path[-1].last <= segment.start:
            path.pop()
        path.append(segment)
        yield [(one.start, one.stop) for one in path]


class _Pieces(NamedTuple):
    """Pieces of about the same length that are computed together."""

    start: int
    """Tokens that each sees before its own."""
    members: Tensor
    """int64 [D]: whose they are."""
    sizes: Tensor
    """int64 [D]: their lengths."""
    key_heads: Tensor
    """int64: the heads that are computed."""


def _pieces(
    before: Tensor, sizes: Tensor, together: Tensor, num_heads: int, num_key_heads: int
) -> Iterator[_Pieces]:
    """All pieces, so few together that their scores stay in the cache, where one's do.

    Args:
        before: int64 [S]: tokens of what each segment continues.
        sizes: int64 [S]: its own.
        together: bool [S]: whether it is computed together with others.
    """
    for first in range(0, int(sizes[together].max()) if together.any() else 0, PIECE_LENGTH):
        left = sizes - first
        lengths = torch.where(left < PIECE_LENGTH + SHORTEST_PIECE, left, PIECE_LENGTH)
        steps = (lengths + LENGTH_STEP - 1) // LENGTH_STEP
        chosen = (together & (left >= (SHORTEST_PIECE if first else 1))).nonzero().flatten()
        kinds = torch.stack([before[chosen] + first, steps[chosen]], 1)
        alike, kind_of = kinds.unique(dim=0, return_inverse=True)
        for kind, (start, step) in enumerate(alike.tolist()):
            length = step * LENGTH_STEP
            num_scores = num_heads * length * (start + length)
            heads_at_a_time = max(1, MOST_SCORES * num_key_heads // num_scores)
            for few in chosen[kind_of == kind].split(max(1, CACHED_SCORES // num_scores)):
                for heads in torch.arange(num_key_heads).split(heads_at_a_time):
                    yield _Pieces(start, few, lengths[few], heads)


def _rows(tokens: Tensor, heads: Tensor, num_heads: int) -> Tensor:
    """Tokens [D, L] -> rows of [T * num_heads, E], ordered by document, head, token."""
    return (tokens[:, None] * num_heads + heads[None, :, None]).flatten()


def _each(real: Tensor, num_heads: int) -> Tensor:
    """Bool [D, L] -> [D * heads * L]."""
    return real[:, None].expand(-1, num_heads, -1).flatten()
