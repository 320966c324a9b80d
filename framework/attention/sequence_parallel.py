"""A row of tokens -> slices of it that several processes compute, and heads of it in attention.

Between layers a process has consecutive tokens of the row. Attention gets some heads of all its
tokens by an exchange, and gives them back by another (DeepSpeed-Ulysses, Jacobs et al., 2023:
https://arxiv.org/abs/2309.14509). So it is computed as it would be anywhere: documents, common
beginnings and windows are those of the whole row.

Shapes: N processes, T tokens in the row, S of them in a slice, H query heads, K key and value
heads, E numbers per head, L labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import Module

from framework.core.problems import Problem, UserError

KEY = "strategy.sequence_parallel_size"


@dataclass(kw_only=True)
class SequenceGroup:
    """Processes that each compute a slice of the same rows."""

    rank: int
    """This process's number among them, from 0; their slices follow each other."""
    size: int
    processes: torch.distributed.ProcessGroup | None = None
    """None: nothing is exchanged, for planning."""
    exchanged_bytes: int = 0
    """Of activations and their gradients that this process gave into exchanges so far."""
    num_attended: int = 0
    """How often attention was computed so far."""


@dataclass(frozen=True, kw_only=True)
class SlicedRow:
    """The tokens that a group computes at a time."""

    group: SequenceGroup
    num_tokens: int
    """T; every process has one of them at least."""

    @property
    def sizes(self) -> list[int]:
        """Tokens of each slice: as many, or one more."""
        each, more = divmod(self.num_tokens, self.group.size)
        return [each + (rank < more) for rank in range(self.group.size)]

    @property
    def own(self) -> slice:
        """This process's slice."""
        ends = list(accumulate(self.sizes))
        size = self.sizes[self.group.rank]
        return slice(ends[self.group.rank] - size, ends[self.group.rank])

    def labels(self, rows: Tensor) -> OwnLabels:
        """Of labels whose predictions stand in these rows, int64 [L], those in the own slice."""
        own = self.own
        places = ((rows >= own.start) & (rows < own.stop)).nonzero().flatten()
        return OwnLabels(
            rows=rows[places] - own.start,
            places=places,
            num_labels=len(rows),
            group=self.group,
        )

    def to_heads(self, *slices: Tensor) -> list[Tensor]:
        """[S, heads, E] of all heads -> [T, heads / N, E] of this process's, in one exchange."""
        number = self.group.size
        parts = [one.unflatten(1, (number, -1)).transpose(0, 1).flatten(2) for one in slices]
        sizes = self.sizes
        given = torch.cat(parts, -1).flatten(0, 1)
        found = self._exchange(given, [sizes[self.group.rank]] * number, sizes)
        widths = [one.shape[-1] for one in parts]
        return [
            part.unflatten(1, (-1, one.shape[-1]))
            for part, one in zip(found.split(widths, -1), slices, strict=True)
        ]

    def to_tokens(self, *heads: Tensor) -> list[Tensor]:
        """The way back: [T, heads / N, E] -> [S, heads, E]."""
        number, sizes = self.group.size, self.sizes
        parts = [one.flatten(1) for one in heads]
        own = [sizes[self.group.rank]] * number
        found = self._exchange(torch.cat(parts, -1), sizes, own).unflatten(0, (number, -1))
        widths = [one.shape[-1] for one in parts]
        return [
            part.unflatten(2, (-1, one.shape[-1])).transpose(0, 1).flatten(1, 2)
            for part, one in zip(found.split(widths, -1), heads, strict=True)
        ]

    def _exchange(self, given: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows for each process, one after the other -> those of each for this one."""
        group = self.group
        group.exchanged_bytes += given.numel() * given.element_size()
        found = given.new_empty(sum(received), *given.shape[1:])
        if group.processes is not None:
            torch.distributed.all_to_all_single(found, given, received, sent, group=group.processes)
        return found


# ---- labels


@dataclass(frozen=True, kw_only=True)
class OwnLabels:
    """Labels whose predictions this process computes: all of a row's, or those in its slice."""

    rows: Tensor
    """int64 [own labels]: where among the tokens that it computes."""
    places: Tensor | None = None
    """int64 [own labels]: which of all labels they are; None: all of them."""
    num_labels: int = 0
    """L, where they are not all."""
    group: SequenceGroup | None = None

    def select(self, values: Tensor) -> Tensor:
        """[L, ...] -> [own labels, ...]"""
        return values if self.places is None else values[self.places]

    def of_all(self, values: Tensor) -> Tensor:
        """[own labels, ...] -> [L, ...], what all processes of the group found."""
        if self.places is None:
            return values
        return _OfAll.apply(values, self.places, self.num_labels, self.group)


class _OfAll(torch.autograd.Function):
    """Every process derives the same loss from what all found, and a step takes the mean of their
    gradients: of the sum of N equal losses, each one's own values have N times the gradient."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, places: Tensor, number: int, group: SequenceGroup
    ) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = group.size
        total = values.new_zeros(number, *values.shape[1:]).index_copy_(0, places, values)
        if group.processes is not None:
            torch.distributed.all_reduce(total, group=group.processes)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(0, places) * ctx.size, None, None, None


# ---- attention


def sequence_attention(
    attend: Callable[..., tuple[Tensor, Any]],
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliced_row: SlicedRow | None = None,
    **settings: Any,
) -> tuple[Tensor, Any]:
    """Attention over the whole row, of which this process has a slice.

    Args:
        attend: computes [1, H / N, T, E] as transformers calls it.
        query: [1, H, S, E]
        key: [1, K, S, E]
        value: [1, K, S, E]
        sliced_row: None: what is given already is all of it.

    Returns:
        [1, S, H, E], and what else `attend` says.

    Raises:
        UserError: heads can't be shared, or attention depends on more than `attend` is given.
    """
    if sliced_row is None:
        return attend(module, query, key, value, attention_mask, **settings)
    _refuse(sliced_row.group.size, (query, key), attention_mask, settings)
    sliced_row.group.num_attended += 1
    settings.pop("position_ids", None)  # of the slice; documents have their boundaries
    # Where products are rounded by autocast, rotary embeddings leave what they turn in float32.
    by_token = (one[0].transpose(0, 1).to(value.dtype) for one in (query, key, value))
    heads = (one.transpose(0, 1)[None] for one in _ToHeads.apply(sliced_row, *by_token))
    output, beside = attend(module, *heads, attention_mask, **settings)
    return _ToTokens.apply(sliced_row, output[0])[None], beside


def _refuse(
    size: int, tensors: tuple[Tensor, ...], attention_mask: Tensor | None, settings: dict[str, Any]
) -> None:
    what = ""
    for one in tensors:
        if one.shape[1] % size:
            what = f"{size} processes can't share {one.shape[1]} attention heads"
    if attention_mask is not None and attention_mask.numel():
        what = "the model's attention has a mask of its own, of a slice's tokens alone"
    if any(settings.get(name) is not None for name in ("s_aux", "position_bias")):
        what = "the model's attention has numbers of each head, and a process has some heads"
    if what:
        raise UserError(Problem(key=KEY, what=what, hint="write sequence_parallel_size: 1"))


class _ToHeads(torch.autograd.Function):
    """The exchange before attention; gradients take the other one."""

    @staticmethod
    def forward(ctx: Any, row: SlicedRow, *slices: Tensor) -> tuple[Tensor, ...]:
        ctx.row = row
        return tuple(row.to_heads(*slices))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.row.to_tokens(*gradients)


class _ToTokens(torch.autograd.Function):
    """The exchange after attention; its gradient takes the one before."""

    @staticmethod
    def forward(ctx: Any, row: SlicedRow, heads: Tensor) -> Tensor:
        ctx.row = row
        return row.to_tokens(heads)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, ctx.row.to_heads(*gradients)[0]
