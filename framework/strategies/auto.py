"""The cheapest strategy that fits, by the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from framework.core.protocols.strategies import Choice, Setup
from framework.core.registries import registry
from framework.core.settings import setting
from framework.core.world import World

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer

    from framework.core.protocols.strategies import Strategy

_CHOSEN_BEFORE = "`auto` is what stands in a recipe; a run has the strategy that was chosen"


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The first of these whose planned memory fits the devices that are there: `ddp`; `fsdp` that
    keeps weights between the passes; `fsdp` within each node; `fsdp`; the same four with
    `model.gradient_checkpointing`, where the recipe leaves that `auto`; `fsdp` with `cpu_offload`,
    without and with it. None of them changes what is computed. What was chosen, and why, is printed
    and stands in the run's plan.json."""

    keeps_parameters_whole: ClassVar[bool] = True
    parts_are_parameters: ClassVar[bool] = True

    device_memory_gib: float | None = setting(None, above=0)
    """What a process may take of its device. Default: what is free there when the run starts, on a
    CPU each process's part of it."""

    def choices(self, world: World) -> Iterator[Choice]:
        """See `protocols.Choosing`: sending more hides behind computing, computing a third more
        doesn't, and stepping in the machine's memory takes longer than both."""
        for again in (False, True):
            for strategy in _on_devices(world):
                yield Choice(strategy=strategy, gradient_checkpointing=again)
        if world.num_processes > 1 and world.device != "cpu":
            offloading = _strategy("fsdp", cpu_offload=True)
            for again in (False, True):
                yield Choice(strategy=offloading, gradient_checkpointing=again, last_resort=True)

    def accelerator(self, setup: Setup) -> Accelerator:
        """None: see `choices`."""
        _refuse()

    def spread(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> NoReturn:
        """None: see `choices`."""
        _refuse()


def _on_devices(world: World) -> Iterator[Strategy]:
    """Each sends more than the one before it."""
    yield _strategy("ddp")
    if world.num_processes == 1:
        return
    yield _strategy("fsdp", reshard_after_forward=False)
    if 1 < world.num_nodes < world.num_processes:
        yield _strategy("fsdp", num_replicas=world.num_nodes)
    yield _strategy("fsdp")


def _strategy(name: str, **settings: Any) -> Any:
    return registry("strategies").get(name)(**settings)


def _refuse() -> NoReturn:
    raise AssertionError(_CHOSEN_BEFORE)
