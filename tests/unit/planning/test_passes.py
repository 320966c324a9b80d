"""Which units of a global batch are in which forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.core.problems import UserError
from framework.core.world import World
from framework.planning.passes import (
    ACCELERATOR_TOKENS,
    CPU_TOKENS,
    UNITS_IN_TURN,
    PassSize,
    pass_size,
)
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve, resolve_with_origins


@given(
    lengths=st.lists(st.integers(1, 120), max_size=60),
    num_processes=st.integers(1, 5),
    num_tokens=st.integers(50, 200),
)
def test_every_unit_is_in_one_pass_and_no_pass_has_too_many_tokens(
    lengths, num_processes, num_tokens
):
    passes = PassSize(num_tokens=num_tokens).deal(lengths, num_processes)
    assert len(passes) == num_processes
    assert len({len(of_rank) for of_rank in passes}) == 1, "their collectives meet"
    parts = [part for of_rank in passes for part in of_rank]
    assert sorted(at for part in parts for at in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or sum(lengths[at] for at in part) <= num_tokens
        assert list(part) == sorted(part)
    if len(lengths) >= num_processes:
        assert all(of_rank[0] for of_rank in passes), "nobody is idle in the first pass"


def test_short_units_share_passes_that_are_about_equal():
    lengths = [300, 20, 280, 60, 240, 100, 200, 140]
    (passes,) = PassSize(num_tokens=700).deal(lengths, 1)
    assert sorted(sum(lengths[at] for at in part) for part in passes) == [660, 680]
    together = PassSize(num_tokens=700).deal(lengths, 2)
    assert [len(of_rank) for of_rank in together] == [1, 1], "half as many passes each"


def test_passes_are_the_same_on_every_machine_and_version():
    """Golden: a change of this list changes how sums of a resumed run are rounded."""
    lengths = [50, 10, 10, 30, 40, 20, 20]
    assert PassSize(num_tokens=60).deal(lengths, 2) == [[[0], [1, 3]], [[2, 4], [5, 6]]]


def test_a_unit_of_more_tokens_than_a_pass_has_is_alone():
    assert PassSize(num_tokens=10).deal([3, 25, 4], 1) == [[[1], [0, 2]]]


def test_a_process_without_units_takes_part():
    assert PassSize(num_tokens=10).deal([5], 3) == [[[0]], [[]], [[]]]
    assert PassSize(num_tokens=10).deal([], 2) == [[[]], [[]]]


@pytest.mark.parametrize(
    ("size", "at_once"), [(PassSize(num_units=3), 6), (PassSize(num_tokens=9), 2 * UNITS_IN_TURN)]
)
def test_all_units_of_held_out_data_come_in_turn(size, at_once):
    turns = list(size.in_turn(1100, 2))
    assert [at for turn in turns for at in turn] == list(range(1100))
    assert {len(turn) for turn in turns[:-1]} == {at_once}


AUTO = {"trainer.micro_batch_size": "auto", "trainer.global_batch_size": 16}


@pytest.mark.parametrize(
    ("device", "max_length", "num_tokens"),
    [
        ("cpu", 64, CPU_TOKENS),
        ("cuda", 64, ACCELERATOR_TOKENS),
        ("cpu", 3000, 3000),
        ("cuda", 8192, 8192),
    ],
)
def test_auto_is_a_number_of_tokens(write_recipe, device, max_length, num_tokens):
    recipe = resolve(write_recipe(**AUTO))
    recipe = replace(recipe, data=replace(recipe.data, max_length=max_length))
    assert pass_size(recipe, World(device=device)) == PassSize(num_tokens=num_tokens)


ONE_BY_ONE = {
    "eager attention": {"model.attention": "eager", "data.packing": False},
    "dynamic": {
        "model.rope_scaling": {"type": "dynamic", "factor": 2},
        "data.packing": False,
    },
}


@pytest.mark.parametrize("reason", ONE_BY_ONE)
def test_auto_is_one_where_documents_are_computed_one_by_one(write_recipe, reason):
    plan = make_plan(resolve_with_origins(write_recipe(**AUTO, **ONE_BY_ONE[reason])), World())
    assert plan.pass_size.num_units == 1
    assert reason in plan.pass_size.reason
    assert plan.num_accumulation_steps == 16


def test_auto_is_the_global_batch_where_a_step_is_one_pass(write_recipe):
    trainer = {"trainer.optimizer_in_backward": True, "trainer.max_grad_norm": None}
    plan = make_plan(resolve_with_origins(write_recipe(**AUTO, **trainer)), World())
    assert (plan.pass_size.num_units, plan.num_accumulation_steps) == (16, 1)


def test_an_online_trainer_learns_from_one_answer_at_a_time(write_online):
    recipe = write_online("grpo", micro_batch_size="auto", num_generations=4)
    plan = make_plan(resolve_with_origins(recipe), World())
    assert (plan.pass_size.num_units, plan.num_accumulation_steps) == (1, 16)


def test_any_number_of_processes_shares_a_global_batch_that_has_a_unit_for_each(write_recipe):
    resolved = resolve_with_origins(write_recipe(**AUTO))
    assert make_plan(resolved, World(num_processes=3)).num_accumulation_steps is None
    with pytest.raises(UserError, match="16 can't be shared by 17 processes"):
        make_plan(resolved, World(num_processes=17))


def test_it_is_what_nobody_has_to_write(write_recipe):
    path = write_recipe()
    assert "micro_batch_size" not in path.read_text(encoding="utf-8")
    assert resolve(path).trainer.micro_batch_size == "auto"
