"""A model whose weights are shared out -> the same model with all of them, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn import Module, Parameter


@contextmanager
def whole_parameters(
    model: Module, gather: Callable[[Parameter], Tensor | None], *, keep: bool
) -> Iterator[None]:
    """Weights that are shared out stand in the model whole, on the CPU; afterwards as before.

    One after the other, so that no device holds all of them.

    Args:
        gather: a weight with all of its numbers, which processes collect together; None for one
            that each of them holds whole. Called for every weight, once, in the same order.
        keep: False where a process only takes part.
    """
    gathered: dict[int, Parameter | None] = {}
    replaced: list[tuple[Module, str, Parameter]] = []
    try:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if id(parameter) not in gathered:
                    gathered[id(parameter)] = _whole(parameter, gather(parameter), keep=keep)
                whole = gathered[id(parameter)]
                if whole is not None:
                    replaced.append((module, name, parameter))
                    module._parameters[name] = whole
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter


def _whole(parameter: Parameter, gathered: Tensor | None, *, keep: bool) -> Parameter | None:
    if gathered is None or not keep:
        return None
    return Parameter(gathered.detach().cpu(), requires_grad=parameter.requires_grad)
