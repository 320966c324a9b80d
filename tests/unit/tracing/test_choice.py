"""`strategy: auto`: the first strategy that fits, and why it is that one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from framework.core.problems import UserError
from framework.core.world import World
from framework.distributed.peers import ALONE
from framework.planning.devices import GIB
from framework.planning.plan import make_plan
from framework.recipe.dump import recipe_values
from framework.recipe.explain import explain_all
from framework.recipe.resolve import resolve_with_origins
from framework.strategies.ddp import DDP
from framework.strategies.fsdp import FSDP
from framework.tracing.choice import choose_planned, choose_strategy
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import NEAR, Traces, predicted_memory

FOUR = World(num_processes=4, num_local_processes=2, device="cuda", fast_bfloat16=True)
ON_DEVICES = (DDP(), FSDP(reshard_after_forward=False), FSDP(num_replicas=2), FSDP())
OFFLOADING = FSDP(cpu_offload=True)
ORDER = (
    *((one, False) for one in ON_DEVICES),
    *((one, True) for one in ON_DEVICES),
    (OFFLOADING, False),
    (OFFLOADING, True),
)
"""Strategy, and whether activations are computed again."""


@pytest.fixture
def planned(write_recipe, tiny_model_dir):
    """A plan of four devices on two nodes, and what each strategy needs."""
    recipe = write_recipe(
        strategy="auto",
        model={"source": str(tiny_model_dir), "dtype": "float32"},
        trainer={"global_batch_size": 4, "micro_batch_size": 1},
    )

    def plan(*overrides, world=FOUR):
        return make_plan(resolve_with_origins(recipe, overrides, {"ROOM"}), world)

    return plan


def needs(plan, folder: Path, strategy, *, again=False) -> int:
    model = replace(plan.recipe.model, gradient_checkpointing=again)
    plan = replace(plan, recipe=replace(plan.recipe, strategy=strategy, model=model))
    return predicted_memory(plan, folder, lengths_of(plan, folder)).peak


def chosen(plan):
    return plan.recipe.strategy, plan.recipe.model.checkpointing is not None


def room_for(peak: int) -> int:
    """Of a device that a plan of this peak just fits."""
    return round(peak / NEAR) + 1


def test_each_choice_is_taken_where_the_ones_before_it_do_not_fit(planned, tiny_model_dir):
    plan = planned()
    lengths, traces = lengths_of(plan, tiny_model_dir), Traces(tiny_model_dir)
    peaks = [needs(plan, tiny_model_dir, one, again=again) for one, again in ORDER]
    assert peaks[-1] == min(peaks)
    taken = set()
    for free in (*peaks, 0):
        fitting = [one for one, peak in zip(ORDER, peaks, strict=True) if peak <= free]
        found = choose_planned(plan, traces, lengths, room_for(free), 0)
        assert chosen(found) == (fitting[0] if fitting else ORDER[-1])
        (why,) = found.notes
        assert why.count(" needs ") == ORDER.index(chosen(found)) + 1
        taken.add(chosen(found))
    assert {(DDP(), True), (FSDP(), True), (OFFLOADING, True)} <= taken


@pytest.mark.parametrize(("written", "again"), [("false", False), ("true", True)])
def test_what_a_recipe_says_of_checkpointing_is_kept(planned, tiny_model_dir, written, again):
    plan = planned(f"model.gradient_checkpointing={written}")
    lengths, traces = lengths_of(plan, tiny_model_dir), Traces(tiny_model_dir)
    for free in (1, GIB):
        found = choose_planned(plan, traces, lengths, free, 0)
        assert found.recipe.model.gradient_checkpointing is again
        assert found.notes[0].count(" needs ") == (1 if free == GIB else len(ON_DEVICES) + 1)


def test_a_last_resort_comes_with_the_line_that_spares_it(planned, tiny_model_dir):
    plan = planned("model.gradient_checkpointing=false", "trainer.micro_batch_size=1")
    lengths, traces = lengths_of(plan, tiny_model_dir), Traces(tiny_model_dir)
    spared = needs(plan, tiny_model_dir, FSDP(), again=True)
    offloading = needs(plan, tiny_model_dir, OFFLOADING)
    assert spared < offloading < needs(plan, tiny_model_dir, FSDP())
    line = f"with model.gradient_checkpointing: true fsdp would fit, {spared / GIB:.3g} GiB"
    for free, said in ((offloading, True), (spared, True), (spared - 2, False)):
        found = choose_planned(plan, traces, lengths, room_for(free), 0)
        assert chosen(found) == (OFFLOADING, False)
        assert (line in found.notes[0]) is said


def test_a_run_with_too_little_room_is_refused_with_what_each_needs(planned, tiny_model_dir):
    two = World(num_processes=2, device="cpu")
    plan = planned("strategy.device_memory_gib=1e-6", world=two)
    with pytest.raises(UserError, match=r"nothing fits; ddp needs 0\.00\d+ GiB, ") as refused:
        choose_strategy(plan, tiny_model_dir, ALONE)
    (problem,) = refused.value.problems
    assert "write strategy: fsdp" in problem.hint
    plan = planned("strategy.device_memory_gib=1", world=two)
    assert choose_strategy(plan, tiny_model_dir, ALONE).recipe.strategy == DDP()


def test_free_memory_is_shared_by_the_processes_of_a_node(planned, tiny_model_dir):
    one = World(num_processes=2, num_local_processes=1, device="cpu")
    both = World(num_processes=2, num_local_processes=2, device="cpu")
    free = []
    for world in (one, both):
        (why,) = choose_strategy(planned(world=world), tiny_model_dir, ALONE).notes
        free.append(float(why.rpartition("has ")[2].removesuffix(" GiB")))
    assert free[0] / free[1] == pytest.approx(2, rel=0.2)
    assert free[0] * GIB > 2**28


@pytest.mark.parametrize(
    ("overrides", "world"),
    [((), World()), (("trainer.optimizer=muon",), FOUR), (("adapter=ia3",), World())],
)
def test_what_only_whole_weights_allow_stays_whole(planned, tiny_model_dir, overrides, world):
    plan = planned(
        "strategy.device_memory_gib=1e-6",
        "model.gradient_checkpointing=false",
        *overrides,
        world=world,
    )
    chosen = choose_strategy(plan, tiny_model_dir, ALONE)
    assert chosen.recipe.strategy == DDP()
    assert "allow no other" in chosen.notes[0]


def test_what_the_device_does_not_allow_is_not_chosen(planned, tiny_model_dir):
    """float16 gradients are scaled as a whole, which only the planned world tells of."""
    old = World(num_processes=2, num_local_processes=2, device="cuda", fast_bfloat16=False)
    plan = planned(
        "strategy.device_memory_gib=1e-6",
        "model.dtype=auto",
        "model.gradient_checkpointing=false",
        world=old,
    )
    chosen = choose_strategy(plan, tiny_model_dir, ALONE)
    assert (plan.autocast_dtype, chosen.recipe.strategy) == ("float16", DDP())
    assert "allow no other" in chosen.notes[0]


def test_what_was_chosen_is_what_the_plan_says_of_itself(planned, tiny_model_dir, monkeypatch):
    monkeypatch.setenv("ROOM", "1")
    plan = planned("strategy.device_memory_gib=${oc.decode:${oc.env:ROOM}}")
    chosen = choose_strategy(plan, tiny_model_dir, ALONE)
    assert recipe_values(chosen.resolved)["strategy"] == {"type": "ddp"}
    settings = {one.key: one.value for one in explain_all(chosen.resolved)}
    assert settings["strategy.type"] == "ddp"
    assert "strategy.device_memory_gib" not in settings


def test_another_strategy_is_left_as_it_is(planned, tiny_model_dir):
    plan = planned("strategy=fsdp")
    assert choose_strategy(plan, tiny_model_dir, ALONE) is plan


def test_a_model_that_was_traced_before_gives_the_same_numbers(planned, tiny_model_dir):
    traces = Traces(tiny_model_dir)
    first = planned("adapter=lora", "strategy=ddp")
    other = planned("adapter=lora", "strategy=ddp", "trainer.optimizer=sgd")
    lengths = lengths_of(first, tiny_model_dir)
    before = traces.heaviest(first, lengths)
    again = traces.heaviest(other, lengths)
    assert traces.heaviest(first, lengths) is before
    assert again == Traces(tiny_model_dir).heaviest(other, lengths)
    assert again.memory.two_blocks != before.memory.two_blocks
