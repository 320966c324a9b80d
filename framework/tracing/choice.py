"""`strategy: auto` -> the cheapest strategy whose planned memory fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from framework.core.problems import Problem, UserError
from framework.core.protocols.strategies import Choosing, Strategy
from framework.core.registries import component_name
from framework.core.world import World
from framework.distributed.peers import Peers
from framework.planning.devices import GIB
from framework.planning.memory import peak_memory
from framework.planning.plan import Plan, make_plan
from framework.recipe.dump import component_values
from framework.recipe.resolve import conflicts_in
from framework.tracing.lengths import Lengths, lengths_of
from framework.tracing.peak import NEAR, Traces
from framework.tracing.shares import shares_of

ONLY = "this recipe and its number of processes allow no other"


def choose_strategy(plan: Plan, folder: Path, peers: Peers) -> Plan:
    """The plan of a run with a strategy in the place of `auto`; any other plan as it is.

    The main process plans, with the data that are prepared and the memory that is free there, and
    tells the others.

    Args:
        folder: the model's.

    Raises:
        UserError: no strategy fits.
    """
    strategy = plan.recipe.strategy
    if not isinstance(strategy, Choosing):
        return plan
    possible = _possible(plan, strategy)
    decided = ""
    if plan.world.is_main:
        room = _room(strategy) or _free_bytes(plan.world)
        decided = json.dumps(_decide(possible, Traces(folder), lengths_of(plan, folder), room))
    number, why = json.loads(peers.from_main("strategy", decided))
    return _noted(plan, possible[number], why)


def choose_planned(
    plan: Plan, traces: Traces, lengths: Lengths, memory_bytes: int, context_bytes: int
) -> Plan:
    """The same for devices of so much memory; the last choice where none fits."""
    strategy = plan.recipe.strategy
    if not isinstance(strategy, Choosing):
        return plan
    possible = _possible(plan, strategy)
    if len(possible) == 1:
        return _noted(plan, possible[0], ONLY)
    room = _room(strategy) or memory_bytes
    needs = _needs(possible, traces, lengths, context_bytes)
    number = _first_that_fits(needs, room)
    number = len(possible) - 1 if number is None else number
    return _noted(plan, possible[number], _reason(possible[: number + 1], needs, room))


def _decide(
    possible: Sequence[Plan], traces: Traces, lengths: Lengths, room: int
) -> tuple[int, str]:
    """The choice's number, and why it is that one."""
    if len(possible) == 1:
        return 0, ONLY
    needs = _needs(possible, traces, lengths, 0)
    number = _first_that_fits(needs, room)
    if number is None:
        last = strategy_text(possible[-1].recipe.strategy)
        raise UserError(
            Problem(
                key="strategy",
                what=f"auto: nothing fits; {_reason(possible, needs, room)}",
                hint="`framework plan` lists what needs less; to try it all the same, write "
                f"strategy: {last}",
            )
        )
    return number, _reason(possible[: number + 1], needs, room)


def _possible(plan: Plan, strategy: Choosing) -> tuple[Plan, ...]:
    """The plan with each choice that can have it; the first is always one."""
    first, *others = (_planned(plan, one) for one in strategy.choices(plan.world))
    assert first is not None, "what `auto` may stand for first conflicts with nothing"
    return (first, *(one for one in others if one is not None))


def _planned(plan: Plan, strategy: Strategy) -> Plan | None:
    """None where the recipe, or what it is computed on, conflicts with this strategy."""
    recipe = replace(plan.recipe, strategy=strategy)
    known = {str(one) for one in conflicts_in(plan.recipe, config_only=True)}
    if not {str(one) for one in conflicts_in(recipe, config_only=True)} <= known:
        return None
    # Nobody has written the settings of this strategy.
    written = {
        path: origin for path, origin in plan.resolved.origins.items() if path[:1] != ("strategy",)
    }
    try:
        return make_plan(replace(plan.resolved, recipe=recipe, origins=written), plan.world)
    except UserError:
        return None


def _needs(
    possible: Sequence[Plan], traces: Traces, lengths: Lengths, context_bytes: int
) -> list[int]:
    """The peak of each."""
    return [
        peak_memory(traces.heaviest(one, lengths).memory, shares_of(one), context_bytes).peak
        for one in possible
    ]


def _first_that_fits(needs: Sequence[int], room: int) -> int | None:
    return next((at for at, peak in enumerate(needs) if peak <= NEAR * room), None)


def _reason(tried: Sequence[Plan], needs: Sequence[int], room: int) -> str:
    said = [
        f"{strategy_text(one.recipe.strategy)} needs {peak / GIB:.3g} GiB"
        for one, peak in zip(tried, needs, strict=False)
    ]
    return f"{', '.join(said)}; a device has {room / GIB:.3g} GiB"


def strategy_text(strategy: Strategy) -> str:
    """As a recipe writes it."""
    values = component_values(strategy)
    default = component_values(type(strategy)())
    changed = {key: value for key, value in values.items() if value != default[key]}
    if not changed:
        return values["type"]
    written = "".join(f", {key}: {json.dumps(value)}" for key, value in changed.items())
    return f"{{type: {values['type']}{written}}}"


def _noted(plan: Plan, chosen: Plan, why: str) -> Plan:
    name = component_name(plan.recipe.strategy)
    note = f"strategy: {name} is {strategy_text(chosen.recipe.strategy)}: {why}"
    return replace(chosen, notes=(*plan.notes, note))


def _room(strategy: Choosing) -> int | None:
    """What the recipe allows of a device."""
    written = strategy.device_memory_gib
    return None if written is None else round(written * GIB)


def _free_bytes(world: World) -> int:
    """What each process may take of its device."""
    if world.device == "cuda":
        import torch

        return torch.cuda.mem_get_info(torch.device(world.torch_device))[0]
    import psutil

    return psutil.virtual_memory().available // (world.num_local_processes or world.num_processes)
