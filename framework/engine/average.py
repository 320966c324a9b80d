"""Trained weights -> the averages of them that are evaluated and written in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from framework.core.problems import Problem, Refused
from framework.core.protocols.strategies import InParts, InRanges, Spread
from framework.core.protocols.training import AveragingWeights
from framework.distributed.pieces import ALONE, Piece, Pieces, capture_pieces, piece_of, read_like
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
        self._average: Average | None = None
        if trainer.ema is not None:
            self._held = _held(spread, rank)
            self._average = MovingAverage(trainer.ema, self._held, rank)
        elif isinstance(trainer.optimizer, AveragingWeights):
            self._held = _held(spread, rank)
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
        kept = {name: one.detach().clone() for name, one in self._held.tensors.items()}
        self._average.put()
        self._held.publish()
        try:
            yield
        finally:
            self._average.taken_away()
            with torch.no_grad():
                for name, one in self._held.tensors.items():
                    one.copy_(kept[name])
            self._held.publish()

    def finish(self, write_trained: Callable[[], None] | None) -> None:
        """Leaves the average in the model for good; before that, the trained weights can be
        written."""
        if self._average is not None:
            if write_trained is not None:
                write_trained()
            self._average.put()
            self._held.publish()

    def capture(self) -> Callable[[Path], None]:
        """What writes it, as it is now, beside the trained weights of a checkpoint."""
        return _write_nothing if self._average is None else self._average.capture()

    def load(self, folder: Path) -> None:
        """Puts back what was written; the trained weights and the optimizer are there already."""
        if self._average is not None:
            self._average.load(folder)


class _Held(Protocol):
    """What this process has of the trained weights."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By the parameters' names."""
        ...

    def publish(self) -> None:
        """Has passes compute with what the tensors say now."""
        ...

    def piece(self, name: str, values: Tensor) -> Piece | None:
        """What this process writes of values that lie as those of the name do."""
        ...

    def read(self, name: str, pieces: Pieces) -> Tensor:
        """What all processes wrote, as far as this one has it."""
        ...


class _Parameters:
    """Parameters: whole ones, or parts that are some themselves."""

    def __init__(self, spread: Spread, rank: int) -> None:
        self._parts = spread if isinstance(spread, InParts) else None
        self._rank = rank
        self.publish()
        self.tensors = held_by(spread.optimizer, spread.plain)
        self._places = {} if self._parts is None else self._parts.places

    def publish(self) -> None:
        """See `_Held`: a pass may have left the whole collected."""
        if self._parts is not None:
            self._parts.share_out()

    def piece(self, name: str, values: Tensor) -> Piece | None:
        """See `_Held`."""
        return piece_of(values, self._rank, self._places.get(name, ALONE))

    def read(self, name: str, pieces: Pieces) -> Tensor:
        """See `_Held`."""
        return read_like(self.tensors[name], pieces, name, self._places.get(name, ALONE))


class _Ranges:
    """Ranges of numbers."""

    def __init__(self, spread: InRanges) -> None:
        self._ranges = spread.ranges()
        self.tensors = {name: one.values for name, one in self._ranges.items()}
        self.publish = spread.publish

    def piece(self, name: str, values: Tensor) -> Piece | None:
        """See `_Held`."""
        return replace(self._ranges[name], values=values) if values.numel() else None

    def read(self, name: str, pieces: Pieces) -> Tensor:
        """See `_Held`."""
        one = self._ranges[name]
        return pieces.read(name, one.start, one.start + one.values.numel())


def _held(spread: Spread, rank: int) -> _Held:
    return _Ranges(spread) if isinstance(spread, InRanges) else _Parameters(spread, rank)


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights, in float32."""

    def __init__(self, settings: WeightAverage, held: _Held, rank: int) -> None:
        self._settings, self._held, self._rank = settings, held, rank
        self._weights = {name: one.detach().float().clone() for name, one in held.tensors.items()}

    @torch.no_grad()
    def after_step(self, num_steps: int) -> None:
        """See `Average`."""
        decay = self._settings.decay
        if self._settings.warmup:
            decay = min(decay, (1 + num_steps) / (10 + num_steps))
        for name, one in self._held.tensors.items():
            self._weights[name].lerp_(one.float(), 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """See `Average`."""
        for name, one in self._held.tensors.items():
            one.copy_(self._weights[name])

    def taken_away(self) -> None:
        """See `Average`."""

    def capture(self) -> Callable[[Path], None]:
        """See `Average`."""
        pieces = {
            name: piece
            for name, one in self._weights.items()
            if (piece := self._held.piece(name, one)) is not None
        }
        return capture_pieces(self._rank, pieces, {}, AVERAGE) if pieces else _write_nothing

    def load(self, folder: Path) -> None:
        """See `Average`.

        Raises:
            Refused: another version wrote it.
        """
        pieces = Pieces(folder, AVERAGE)
        if pieces.shapes.keys() != self._weights.keys():
            raise Refused(
                Problem(
                    file=str(next(folder.glob(f"{AVERAGE}*.safetensors"), folder)),
                    what="holds no average of these weights: another version of framework saved it",
                    hint="go on with that version, which `state.json` beside it names, or write "
                    "another output.dir",
                )
            )
        for name, one in self._weights.items():
            local = one.to_local() if isinstance(one, DTensor) else one
            local.copy_(self._held.read(name, pieces))


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
