"""A fault in one process of a run, in an exact optimizer step: which rank, which step, which kind.

    FRAMEWORK_FAULT="rank=1 step=4 kind=dies" framework train recipe.yaml

Whatever `warm_start` runs obeys the variable; other programs call `install`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

VARIABLE = "FRAMEWORK_FAULT"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, where and when."""

    rank: int
    """The process that it befalls."""
    step: int
    """Optimizer step that it is in, counted from 1 since this start."""
    kind: str
    """One of `KINDS`."""
    in_window: bool = False
    """Not in the step's first pass, but in a later one, when gradients of the first are there."""

    @staticmethod
    def read(text: str) -> Fault:
        """What a variable says."""
        written = dict(one.split("=") for one in text.split())
        return Fault(
            rank=int(written["rank"]),
            step=int(written["step"]),
            kind=written["kind"],
            in_window=written.get("in_window") == "true",
        )


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _fail() -> None:
    from framework.core.problems import RunFailed

    raise RunFailed("the disk is full", "free space")


def _run_out_of_memory() -> None:
    raise MemoryError("as the test wants")


def _have_a_bug() -> None:
    raise ZeroDivisionError("nobody thought of that")


KINDS: Mapping[str, Callable[[], None]] = {
    "asked to stop": _signal(signal.SIGTERM),
    "interrupted": _signal(signal.SIGINT),
    "dies": _signal(signal.SIGKILL),
    "stops": _signal(signal.SIGSTOP),
    "hangs": lambda: time.sleep(10_000),
    "fails": _fail,
    "memory": _run_out_of_memory,
    "has a bug": _have_a_bug,
}


def befall(kind: str) -> None:
    """It happens, here and now."""
    KINDS[kind]()


@contextmanager
def installed(fault: Fault, rank: int) -> Iterator[None]:
    """Within, the process of this rank has the fault, if it is the one."""
    remove = install(fault, rank)
    try:
        yield
    finally:
        remove()


def install(fault: Fault, rank: int) -> Callable[[], None]:
    """From now on; what takes it away again.

    Through hooks that PyTorch calls in every optimizer's step and before every module: what is
    tested is as it is.
    """
    if rank != fault.rank:
        return lambda: None
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    waiting = _Waiting(fault)
    handles = [
        register_optimizer_step_post_hook(waiting.after_step),
        register_module_forward_pre_hook(waiting.before_module),
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def install_from(environment: Mapping[str, str]) -> None:
    """What the variable says, if it says anything."""
    if VARIABLE in environment:
        install(Fault.read(environment[VARIABLE]), int(environment.get("RANK", "0")))


class _Waiting:
    def __init__(self, fault: Fault) -> None:
        self._fault, self._num_steps, self._is_over = fault, 0, False

    def after_step(self, *_: Any) -> None:
        self._num_steps += 1

    def before_module(self, module: Any, inputs: Any) -> None:
        if self._is_over or self._num_steps != self._fault.step - 1 or not module.training:
            return
        if self._fault.in_window and all(one.grad is None for one in module.parameters()):
            return
        self._is_over = True
        befall(self._fault.kind)
