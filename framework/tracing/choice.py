"""`strategy: auto` -> the cheapest strategy whose planned memory fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from framework.core.problems import Problem, UserError
from framework.core.protocols.strategies import Choice, Choosing, Strategy
from framework.core.registries import component_name
from framework.core.world import World
from framework.distributed.peers import Peers
from framework.planning.changes import free_changes
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
        needs = _Needs(traces=Traces(folder), lengths=lengths_of(plan, folder), room=room)
        decided = json.dumps(_decide(possible, needs))
    number, why = json.loads(peers.from_main("strategy", decided))
    return _noted(plan, possible[number], why)


def choose_planned(
    plan: Plan, traces: Traces, lengths: Lengths, memory_bytes: int, context_bytes: int
) -> Plan:
    """The same for devices of so much memory; the last choice where none fits."""
    strategy = plan.recipe.strategy
    if not isinstance(strategy, Choosing):
        return plan
    room = _room(strategy) or memory_bytes
    needs = _Needs(traces=traces, lengths=lengths, room=room, context_bytes=context_bytes)
    possible = _possible(plan, strategy)
    number, why = _choice(possible, needs)
    return _noted(plan, possible[-1 if number is None else number], why)


@dataclass(frozen=True, kw_only=True)
class _Possible:
    plan: Plan
    last_resort: bool

    @property
    def text(self) -> str:
        """As a recipe writes it."""
        recipe = self.plan.recipe
        again = " with model.gradient_checkpointing" if recipe.model.checkpointing else ""
        return f"{strategy_text(recipe.strategy)}{again}"


@dataclass(frozen=True, kw_only=True)
class _Needs:
    """What a plan needs, and what there is."""

    traces: Traces
    lengths: Lengths
    room: int
    context_bytes: int = 0

    def peak(self, plan: Plan, lengths: Lengths | None = None) -> int:
        traced = self.traces.heaviest(plan, lengths or self.lengths)
        return peak_memory(traced.memory, shares_of(plan), self.context_bytes).peak

    def fits(self, peak: int) -> bool:
        return peak <= NEAR * self.room


def _decide(possible: Sequence[_Possible], needs: _Needs) -> tuple[int, str]:
    """The choice's number, and why it is that one."""
    number, why = _choice(possible, needs)
    if number is not None:
        return number, why
    last = possible[-1].plan.recipe
    again = ", model.gradient_checkpointing: true" if last.model.checkpointing else ""
    raise UserError(
        Problem(
            key="strategy",
            what=f"auto: nothing fits; {why}",
            hint="`framework plan` lists what needs less; to try it all the same, write "
            f"strategy: {strategy_text(last.strategy)}{again}",
        )
    )


def _choice(possible: Sequence[_Possible], needs: _Needs) -> tuple[int | None, str]:
    """The number of the first that fits, and why it is that one."""
    if len(possible) == 1:
        return 0, ONLY
    peaks: dict[int, int] = {}
    fitting = None
    for number, one in enumerate(possible):
        try:
            peaks[number] = needs.peak(one.plan)
        except UserError:
            if one.plan.recipe.model.checkpointing is None:
                raise
            continue  # There are architectures whose layers can't be computed again.
        if needs.fits(peaks[number]):
            fitting = number
            break
    said = [f"{possible[at].text} needs {peak / GIB:.3g} GiB" for at, peak in peaks.items()]
    why = f"{', '.join(said)}; a device has {needs.room / GIB:.3g} GiB"
    if fitting is None or possible[fitting].last_resort:
        quick = [at for at in peaks if not possible[at].last_resort]
        why += "".join(_cheaper(possible[min(quick, key=peaks.__getitem__)], needs))
    return fitting, why


def _cheaper(one: _Possible, needs: _Needs) -> Iterator[str]:
    """What to write that would let this fit, and that changes no result."""
    for change in free_changes(one.plan.recipe):
        try:
            plan = make_plan(replace(one.plan.resolved, recipe=change.recipe), one.plan.world)
            peak = needs.peak(plan, lengths_of(plan, needs.traces.folder))
        except UserError:
            continue
        if needs.fits(peak):
            yield f"; with {change.lines[0]} {one.text} would fit, {peak / GIB:.3g} GiB"


def _possible(plan: Plan, strategy: Choosing) -> tuple[_Possible, ...]:
    """The plan with each choice that can have it; the first is always one."""
    open_to = plan.recipe.model.gradient_checkpointing == "auto"
    found = [
        _Possible(plan=planned, last_resort=one.last_resort)
        for one in strategy.choices(plan.world)
        if (open_to or not one.gradient_checkpointing)
        and (planned := _planned(plan, one)) is not None
    ]
    assert found, "what `auto` may stand for first conflicts with nothing"
    return tuple(found)


def _planned(plan: Plan, choice: Choice) -> Plan | None:
    """None where the recipe, or what it is computed on, conflicts with this choice."""
    recipe = replace(plan.recipe, strategy=choice.strategy)
    if recipe.model.gradient_checkpointing == "auto":
        model = replace(recipe.model, gradient_checkpointing=choice.gradient_checkpointing)
        recipe = replace(recipe, model=model)
    known = {str(one) for one in conflicts_in(plan.recipe, config_only=True)}
    if not {str(one) for one in conflicts_in(recipe, config_only=True)} <= known:
        return None
    # Nobody has written what is chosen.
    written = {
        path: origin
        for path, origin in plan.resolved.origins.items()
        if path[:1] != ("strategy",) and path != ("model", "gradient_checkpointing")
    }
    try:
        return make_plan(replace(plan.resolved, recipe=recipe, origins=written), plan.world)
    except UserError:
        return None


def strategy_text(strategy: Strategy) -> str:
    """As a recipe writes it."""
    values = component_values(strategy)
    default = component_values(type(strategy)())
    changed = {key: value for key, value in values.items() if value != default[key]}
    if not changed:
        return values["type"]
    written = "".join(f", {key}: {json.dumps(value)}" for key, value in changed.items())
    return f"{{type: {values['type']}{written}}}"


def _noted(plan: Plan, chosen: _Possible, why: str) -> Plan:
    name = component_name(plan.recipe.strategy)
    note = f"strategy: {name} is {chosen.text}: {why}"
    return replace(chosen.plan, notes=(*plan.notes, note))


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
