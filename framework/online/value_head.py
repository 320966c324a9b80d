"""Hidden states of the policy -> how much reward is still to come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from framework.core.batch import Batch
from framework.models.policy import plain_model

NAME = "value_head"


def add_value_head(model: Module) -> None:
    """A linear layer on what the output layer reads; it starts at 0, so nothing is drawn."""
    plain: Any = plain_model(model)
    weight = plain.get_input_embeddings().weight
    head = Linear(weight.shape[1], 1, device=weight.device, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    model.add_module(NAME, head)


def remove_value_head(model: Module) -> None:
    """The model without it, as it is saved."""
    delattr(model, NAME)


class Values:
    """Reads the hidden states of a forward pass, and gives the values at its labels.

    Args:
        model: not wrapped, with its value head.
    """

    def __init__(self, model: Module) -> None:
        self._head = model.get_submodule(NAME)
        self._seen: list[Tensor] = []
        plain: Any = plain_model(model)
        self._hook = plain.get_output_embeddings().register_forward_pre_hook(self._see)

    def _see(self, _: Module, arguments: tuple[Any, ...]) -> None:
        self._seen.append(arguments[0])

    def forget(self) -> None:
        """Before a pass whose values are asked for."""
        self._seen.clear()

    def of(self, batch: Batch) -> Tensor:
        """float32 [L]: the value before each label, from the pass that was just made."""
        seen = torch.cat([one[0] for one in self._seen])
        self._seen.clear()
        if len(seen) != len(batch.labels):  # a model whose output layer runs everywhere
            seen = seen.index_select(0, batch.label_positions)
        return self._head(seen.float()).squeeze(-1)

    def close(self) -> None:
        """Reads no more."""
        self._hook.remove()
