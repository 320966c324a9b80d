"""Trained weights -> the averages of them that are evaluated and written in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from framework.core.protocols.strategies import InParts, Spread
from framework.core.protocols.training import AveragingWeights
from framework.distributed.pieces import ALONE, Pieces, Within, capture_pieces, piece_of, read_like
from framework.distributed.state import held_by
from framework.recipe.schema import Trainer, WeightAverage

AVERAGE = "average"
"""How the files of a checkpoint begin that hold it."""


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

    def __init__(self, trainer: Trainer, spread: Spread, rank: int) -> None:
        """
        Args:
            rank: this process's number.
        """
        self._spread = spread
        self._share_out()
        self._parameters = held_by(spread.optimizer, spread.plain)
        self._average: Average | None = None
        if trainer.ema is not None:
            places = spread.places if isinstance(spread, InParts) else {}
            self._average = MovingAverage(trainer.ema, self._parameters, rank, places)
        elif isinstance(trainer.optimizer, AveragingWeights):
            self._average = OptimizersAverage(trainer.optimizer, spread.optimizer)

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
        self._share_out()
        try:
            yield
        finally:
            self._average.taken_away()
            with torch.no_grad():
                for name, one in self._parameters.items():
                    one.copy_(kept[name])
            self._share_out()

    def finish(self, write_trained: Callable[[], None] | None) -> None:
        """Leaves the average in the model for good; before that, the trained weights can be
        written."""
        if self._average is not None:
            if write_trained is not None:
                write_trained()
            self._average.put()
            self._share_out()

    def _share_out(self) -> None:
        """Parts have changed, of which a pass may have left the whole collected."""
        if isinstance(self._spread, InParts):
            self._spread.share_out()

    def capture(self) -> Callable[[Path], None]:
        """What writes it, as it is now, beside the trained weights of a checkpoint."""
        return _write_nothing if self._average is None else self._average.capture()

    def load(self, folder: Path) -> None:
        """Puts back what was written; the trained weights and the optimizer are there already."""
        if self._average is not None:
            self._average.load(folder)


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights, in float32."""

    def __init__(
        self,
        settings: WeightAverage,
        parameters: Mapping[str, Parameter],
        rank: int,
        places: Mapping[str, Within],
    ) -> None:
        self._settings, self._parameters = settings, parameters
        self._rank, self._places = rank, places
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
        pieces = {
            name: piece
            for name, one in self._weights.items()
            if (piece := piece_of(one, self._rank, self._places.get(name, ALONE))) is not None
        }
        return capture_pieces(self._rank, pieces, {}, AVERAGE) if pieces else _write_nothing

    def load(self, folder: Path) -> None:
        """See `Average`."""
        pieces = Pieces(folder, AVERAGE)
        assert pieces.shapes.keys() == self._weights.keys(), "others were averaged"
        for name, one in self._weights.items():
            local = one.to_local() if isinstance(one, DTensor) else one
            local.copy_(read_like(one, pieces, name, self._places.get(name, ALONE)))


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
