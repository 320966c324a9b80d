"""What strategies must offer: one model, spread over the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from framework.attention.sequence_parallel import SequenceGroup
    from framework.core.world import World
    from framework.distributed.pieces import Piece, Within


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a strategy has to know of a run."""

    autocast_dtype: str | None
    """dtype that matrix products are computed in; None: the weights' own."""
    parameters_change: bool
    """Steps differ in which parameters have a gradient."""
    micro_batch_size: int | None
    """Samples of each process and forward pass; None: it differs."""
    num_accumulation_steps: int | None
    """Forward passes of each process and optimizer step; None: it differs."""


class Strategy(Protocol):
    """How one model is spread over the processes."""

    keeps_parameters_whole: ClassVar[bool]
    """Whether every process holds each parameter, its gradient and its optimizer state as they are;
    what reads or changes them one by one needs it."""
    parts_are_parameters: ClassVar[bool]
    """Whether what a process holds of a parameter is one itself, so that what treats each number
    apart from all others can treat it."""

    def accelerator(self, setup: Setup) -> Accelerator:
        """The processes, set up for this strategy."""
        ...

    def spread(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> Spread:
        """The model over all processes; every process calls it.

        Args:
            build_optimizer: called once, with the model as its optimizer finds it.
        """
        ...


@runtime_checkable
class ComputingTogether(Protocol):
    """A strategy in which several processes, whose numbers follow each other, may have the same
    data."""

    tensor_parallel_size: int
    """How many compute each layer together."""
    sequence_parallel_size: int
    """How many compute each row together, a slice of its tokens each."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A strategy that another may stand for, and what goes with it."""

    strategy: Strategy
    gradient_checkpointing: bool = False
    """Compute activations again, where the recipe leaves that open."""
    last_resort: bool = False
    """Far slower than those before it."""


@runtime_checkable
class Choosing(Protocol):
    """A strategy that stands for others, of which the plan takes the first that fits."""

    device_memory_gib: float | None
    """What a process may take of its device; None: all that is free."""

    def choices(self, world: World) -> Iterable[Choice]:
        """For so many processes and nodes, the cheapest first."""
        ...


@runtime_checkable
class Noting(Protocol):
    """A spread model that says how it is spread."""

    notes: tuple[str, ...]
    """For the log."""


@runtime_checkable
class InParts(Protocol):
    """A spread model of whose parameters each process holds a part, which is a parameter itself."""

    @property
    def places(self) -> Mapping[str, Within]:
        """Name -> where the parameter stands in a larger one, if it does."""
        ...

    def share_out(self) -> None:
        """Forgets what a forward pass has collected: the next one collects what the parts are."""
        ...


@runtime_checkable
class InSlices(Protocol):
    """A spread model of whose rows each process may compute a slice."""

    sequence: SequenceGroup | None
    """Those that compute a row together; None: each computes its own."""


@runtime_checkable
class InRanges(Protocol):
    """A spread model whose optimizer has, of each trained parameter, a range of its numbers on each
    process, in float32; passes compute with a copy of them."""

    def ranges(self) -> Mapping[str, Piece]:
        """Name -> this process's range, maybe an empty one. Its values are the optimizer's."""
        ...

    def publish(self) -> None:
        """Has passes compute with what the ranges of all processes say."""
        ...


class Spread(Protocol):
    """A model and its optimizer over all processes, each of which calls every method."""

    model: Module
    """What a forward pass calls."""
    plain: Module
    """The model inside, an adapter included."""
    optimizer: Optimizer
    """What a schedule sets the learning rates of."""

    def one_pass(self, *, last: bool) -> AbstractContextManager[None]:
        """A forward pass and its `backward`; only the last of a step has to complete gradients."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradients of `loss`; after the last pass they are the processes' mean."""
        ...

    def step(self, max_norm: float | None, refuse: Callable[[float], None]) -> float:
        """One optimizer step, with gradients cut to `max_norm`; the norm that they had before.

        Args:
            refuse: raises where the step must not be taken; no state is saved then.
        """
        ...

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        ...

    def whole(self) -> AbstractContextManager[Module]:
        """`plain` with all of every parameter, at least on the main process."""
        ...

    def capture(self) -> Callable[[Path], None]:
        """What writes this process's part of trained weights and optimizer state, as they are now,
        into a folder that all processes share; waits for no other process."""
        ...

    def load(self, folder: Path) -> None:
        """Puts back what was written, by any strategy and any number of processes."""
        ...
