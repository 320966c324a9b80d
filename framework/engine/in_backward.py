"""Optimizer -> steps of single parameters while the backward pass goes on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from framework.core.spans import span


class StepsInBackward:
    """Steps each parameter as soon as its gradient is complete, and frees the gradient.

    By then nothing in the backward pass reads the parameter any more. A gradient that is not finite
    is not applied, nor any that comes after it in the same step.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._square = torch.zeros((), dtype=torch.float64)
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._hook(number))

    def take_grad_norm(self) -> float:
        """The norm of all gradients since it was last asked."""
        norm = float(self._square.sqrt())
        self._square = torch.zeros((), dtype=torch.float64)
        return norm

    def _hook(self, number: int):  # noqa: ANN202 - what PyTorch calls with the parameter
        @span("optimizer")
        def stepped(parameter: Tensor) -> None:
            assert isinstance(parameter, Parameter) and parameter.grad is not None
            norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            self._square += norm.cpu().double().square()
            if bool(self._square.isfinite()):
                self._step(parameter, number)
            parameter.grad = None

        return stepped

    def _step(self, parameter: Parameter, number: int) -> None:
        """The optimizer's own step, over one group of one parameter."""
        groups = self._optimizer.param_groups
        self._optimizer.param_groups = [{**groups[number], "params": [parameter]}]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = groups
