"""Layers that several processes compute together -> what they exchange around a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Module

from framework.distributed.pieces import Within
from framework.distributed.state import Places
from framework.models.tensor_parallel import Cut, TensorGroup

_WHOLE = Cut(dimension=None)


class Together:
    """A model whose layers were cut for a group of processes; shared out by others besides.

    Args:
        cuts: name of a weight -> how the group holds it; others are whole on each process.
        device: what exchanges.
    """

    def __init__(
        self, model: Module, group: TensorGroup, cuts: Mapping[str, Cut], device: torch.device
    ) -> None:
        self._model, self._group, self._cuts, self._device = model, group, cuts, device

    @property
    def note(self) -> str:
        """For the log."""
        cut = sum(one.dimension is not None for one in self._cuts.values())
        number = sum(1 for _ in self._model.parameters())
        return f"computed together by {self._group.size}: {cut} of {number} weights are cut"

    @property
    def places(self) -> Places:
        """Where what this process has of each weight stands in the model's."""
        rank, size = self._group.rank, self._group.size
        return {
            name: Within(dimension=self._of(name).dimension, rank=rank, size=size)
            for name, _ in self._model.named_parameters()
        }

    def agree(self, gradients: Mapping[str, Tensor]) -> None:
        """Gradients of weights that all of the group have: where each found a part, their sum; else
        their mean, so that what a device rounds by chance doesn't let the copies drift apart."""
        for name, gradient in gradients.items():
            cut = self._of(name)
            if cut.dimension is None:
                total = self._group.sum(gradient.to(self._device))
                gradient.copy_(total if cut.adds_up else total / self._group.size)

    def add_up(self, squares: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """[number of gradients]: of those that are cut, the sum over the group."""
        cut = [self._of(name).dimension is not None for name in gradients]
        mask = torch.tensor(cut, device=squares.device)
        squares.copy_(torch.where(mask, self._group.sum(squares), squares))

    def gathered(self, name: str, part: Tensor) -> Tensor:
        """All of a weight, of which the group's processes each have a part."""
        dimension = self._of(name).dimension
        return part if dimension is None else self._group.gather(part, dimension)

    def _of(self, name: str) -> Cut:
        return self._cuts.get(name, _WHOLE)
