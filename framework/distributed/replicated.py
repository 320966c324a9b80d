"""Every process holds the whole model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from framework.distributed.state import capture_state, load_state


class Replicated:
    """The model on each process, gradients averaged; implements `protocols.Spread`."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> None:
        self._accelerator = accelerator
        self.plain = model
        self.optimizer = build_optimizer(model)
        with warnings.catch_warnings():
            # Accelerate 1.15 has no word for what PyTorch 2.13 wants in the place of this one.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            prepared: Any = accelerator.prepare(model, self.optimizer)
        if accelerator.scaler is not None:
            # Accelerate 1.15 takes the step that a schedule has made its own out of the optimizer
            # again; the schedule is right all the same.
            warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
        self.model: Module = prepared[0]
        self._scaled_optimizer: Optimizer = prepared[1]
        self._parameters = [one for one in model.parameters() if one.requires_grad]

    def one_pass(self, *, last: bool) -> AbstractContextManager[None]:
        """See `protocols.Spread`."""
        return nullcontext() if last else self._accelerator.no_sync(self.model)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `protocols.Spread`."""
        self._accelerator.backward(loss)

    def step(self, max_norm: float | None, refuse: Callable[[float], None]) -> float:
        """See `protocols.Spread`; a norm that is refused leaves the weights as they are."""
        limit = float("inf") if max_norm is None else max_norm
        norm = self._accelerator.clip_grad_norm_(self._parameters, limit)
        before = 0.0 if norm is None else float(norm)
        refuse(before)
        self._scaled_optimizer.step()
        return before

    def zero_grad(self) -> None:
        """See `protocols.Spread`."""
        self.optimizer.zero_grad()

    @contextmanager
    def whole(self) -> Iterator[Module]:
        """See `protocols.Spread`."""
        yield self.plain

    def capture(self) -> Callable[[Path], None]:
        """See `protocols.Spread`; the main process has all of it."""
        if not self._accelerator.is_main_process:
            return lambda folder: None
        return capture_state(self.plain, self.optimizer, rank=0)

    def load(self, folder: Path) -> None:
        """See `protocols.Spread`."""
        load_state(self.plain, self.optimizer, folder)
