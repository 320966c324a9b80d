"""The passes that memory is planned for are those that the run makes."""

from __future__ import annotations

import pytest
from conftest import write_rows

from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.engine.feed import make_feed
from framework.models.collate import flat_batch
from framework.planning.plan import Plan, make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing import lengths
from framework.tracing.lengths import Lengths, lengths_of

NUM_ROWS = 80
GLOBAL_BATCH_SIZE = 32


@pytest.fixture
def plan(write_recipe, tmp_path):
    def make(num_processes=1, *, max_length=512, **trainer) -> Plan:
        rows = [
            {"prompt": f"{number}?", "completion": f"{number} is " + "so long " * (number % 23 * 2)}
            for number in range(NUM_ROWS)
        ]
        write_rows(tmp_path / "rows.jsonl", rows)
        recipe = write_recipe(
            data={
                "train": [{"source": "./rows.jsonl", "format": "prompt_completion"}],
                "packing": False,
                "max_length": max_length,
            },
            trainer={"global_batch_size": GLOBAL_BATCH_SIZE, "max_steps": 100, **trainer},
        )
        return make_plan(resolve_with_origins(recipe), World(num_processes=num_processes))

    return make


def passes_of_an_epoch(plan: Plan) -> list[list[list[int]]]:
    """Of each step, of each process: tokens of its passes, as the training loop has them."""
    store = prepare_data(plan.recipe).train
    feed = make_feed(store, plan.recipe.trainer)
    found = []
    for step in range(-(-store.num_units // GLOBAL_BATCH_SIZE)):
        units = feed.global_batch(step)
        dealt = plan.pass_size.deal([one.num_tokens for one in units], plan.data_parallel_size)
        found += [
            [
                [sum(units[at].features[0].num_tokens for at in one) for one in of_process]
                for of_process in dealt
            ]
        ]
    return found


def num_tokens(found: Lengths) -> int:
    """Of the largest micro-batch."""
    batches = [flat_batch(one, [str(at) for at in range(len(one))]) for one in found.heaviest]
    return max(batch.input_ids.numel() for batch in batches)


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("size", ["auto", 4])
def test_lengths_of_prepared_data_are_those_of_the_passes_to_come(plan, num_processes, size):
    planned = plan(num_processes, micro_batch_size=size)
    steps = passes_of_an_epoch(planned)
    found = lengths_of(planned, planned.recipe.model.source.fetch())
    assert found.exact
    numbers = [len(step[0]) for step in steps]
    assert max(numbers) > 1
    assert num_tokens(found) == max(tokens for step in steps for one in step for tokens in one)
    if size == "auto":
        assert found.most_passes == max(numbers)
        assert found.passes_per_step == pytest.approx(sum(numbers) / len(numbers))


def test_of_very_many_units_no_pass_is_larger_than_what_is_planned_for(plan, monkeypatch):
    planned = plan(micro_batch_size="auto")
    steps = passes_of_an_epoch(planned)
    largest = max(tokens for step in steps for one in step for tokens in one)
    monkeypatch.setattr(lengths, "MOST_UNITS", 10)
    found = lengths_of(planned, planned.recipe.model.source.fetch())
    assert largest <= num_tokens(found) <= planned.pass_size.num_tokens
    assert found.most_passes >= max(len(step[0]) for step in steps)


def test_without_data_every_token_of_a_pass_is_there(plan):
    planned = plan(micro_batch_size="auto", max_length=500)
    found = lengths_of(planned, planned.recipe.model.source.fetch())
    assert not found.exact
    assert num_tokens(found) == planned.pass_size.num_tokens == 2048
    few = plan(micro_batch_size="auto", max_length=500, global_batch_size=3)
    found = lengths_of(few, few.recipe.model.source.fetch())
    assert (num_tokens(found), found.most_passes) == (3 * 500, 1)
