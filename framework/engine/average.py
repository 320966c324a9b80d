"""Trained weights -> the averages of them that are evaluated and written in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from framework.core.protocols.training import AveragingWeights
from framework.distributed.state import held_by
from framework.recipe.schema import Trainer, WeightAverage

WEIGHTS = "average.safetensors"


class Average(Protocol):
    """What stands in for the trained weights."""

    def after_step(self, num_steps: int) -> None:
        """Takes in the weights after so many optimizer steps."""
        ...

    def put(self) -> None:
        """Writes the average over the trained weights."""
        ...

    def taken_away(self) -> None:
        """Called when the trained weights stand in their place again."""
        ...

    def capture(self) -> Callable[[Path], None]:
        """What writes, as it is now, whatever the trained weights and the optimizer's state don't
        say."""
        ...

    def load(self, folder: Path) -> None:
        """Puts back what was written."""
        ...


class Averaging:
    """The weights of a run that averages them, or of one that doesn't."""

    def __init__(self, trainer: Trainer, model: Module, optimizer: Optimizer) -> None:
        """
        Args:
            optimizer: what the optimizer component made, not wrapped.
        """
        self._parameters = held_by(optimizer, model)
        self._average: Average | None = None
        if trainer.ema is not None:
            self._average = MovingAverage(trainer.ema, self._parameters)
        elif isinstance(trainer.optimizer, AveragingWeights):
            self._average = OptimizersAverage(trainer.optimizer, optimizer)

    def after_step(self, num_steps: int) -> None:
        """Takes in the weights after so many optimizer steps."""
        if self._average is not None:
            self._average.after_step(num_steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with its average; afterwards bit for bit as it was."""
        if self._average is None:
            yield
            return
        kept = {name: one.detach().clone() for name, one in self._parameters.items()}
        self._average.put()
        try:
            yield
        finally:
            self._average.taken_away()
            with torch.no_grad():
                for name, one in self._parameters.items():
                    one.copy_(kept[name])

    def finish(self, write_trained: Callable[[], None] | None) -> None:
        """Leaves the average in the model for good; before that, the trained weights can be
        written."""
        if self._average is not None:
            if write_trained is not None:
                write_trained()
            self._average.put()

    def capture(self) -> Callable[[Path], None]:
        """What writes it, as it is now, beside the trained weights of a checkpoint."""
        return _write_nothing if self._average is None else self._average.capture()

    def load(self, folder: Path) -> None:
        """Puts back what was written; the trained weights and the optimizer are there already."""
        if self._average is not None:
            self._average.load(folder)


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights, in float32."""

    def __init__(self, settings: WeightAverage, parameters: Mapping[str, Parameter]) -> None:
        self._settings, self._parameters = settings, parameters
        self._weights = {name: one.detach().float().clone() for name, one in parameters.items()}

    @torch.no_grad()
    def after_step(self, num_steps: int) -> None:
        """See `Average`."""
        decay = self._settings.decay
        if self._settings.warmup:
            decay = min(decay, (1 + num_steps) / (10 + num_steps))
        for name, one in self._parameters.items():
            self._weights[name].lerp_(one.float(), 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """See `Average`."""
        for name, one in self._parameters.items():
            one.copy_(self._weights[name])

    def taken_away(self) -> None:
        """See `Average`."""

    def capture(self) -> Callable[[Path], None]:
        """See `Average`."""
        weights: dict[str, Tensor] = {
            name: one.to("cpu", copy=True).contiguous() for name, one in self._weights.items()
        }
        return lambda folder: save_file(weights, folder / WEIGHTS)

    def load(self, folder: Path) -> None:
        """See `Average`."""
        saved = load_file(folder / WEIGHTS)
        assert saved.keys() == self._weights.keys(), sorted(saved.keys() ^ self._weights.keys())[:5]
        for name, weight in self._weights.items():
            weight.copy_(saved[name])


class OptimizersAverage:
    """What the optimizer's own state says."""

    def __init__(self, component: AveragingWeights, optimizer: Optimizer) -> None:
        self._component, self._optimizer = component, optimizer

    def after_step(self, num_steps: int) -> None:
        """See `Average`."""

    def put(self) -> None:
        """See `Average`."""
        self._component.use_average(self._optimizer)

    def taken_away(self) -> None:
        """See `Average`."""
        self._component.use_trained(self._optimizer)

    def capture(self) -> Callable[[Path], None]:
        """See `Average`."""
        return _write_nothing

    def load(self, folder: Path) -> None:
        """See `Average`."""


def _write_nothing(folder: Path) -> None:
    """For a checkpoint that needs nothing more."""
