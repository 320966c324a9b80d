"""What a plan says of layers that several devices compute together."""

from __future__ import annotations

import pytest

from framework.planning.devices import cluster_of
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.outlook import look_ahead

HIDDEN, LAYERS, FLOAT = 32, 2, 4
IN_LAYERS, OUTSIDE = 18_432, 2 * 384 * HIDDEN + (2 * LAYERS + 1) * HIDDEN


@pytest.fixture
def planned(write_recipe):
    """The outlook of two GPUs, by the number that compute together."""

    def of(together, **model):
        recipe = write_recipe(
            adapter="full",
            model={"dtype": "float32", **model},
            trainer={"global_batch_size": 8, "micro_batch_size": 2},
            strategy={"type": "fsdp", "tensor_parallel_size": together},
        )
        return look_ahead(resolve_with_origins(recipe), cluster_of("2xH100-80GB", 1, None))

    return of


def test_what_is_cut_is_counted_once_and_the_rest_on_both(planned):
    apart, together = planned(1), planned(2)
    assert apart.trace.num_parameters == together.trace.num_parameters
    assert apart.trace.modules == together.trace.modules
    assert together.trace.memory.num_parameters == IN_LAYERS // 2 + OUTSIDE
    assert together.trace.memory.num_trained * FLOAT == together.trace.memory.trained_bytes
    # Both devices work on the same micro-batch.
    assert together.plan.num_accumulation_steps == 2 * apart.plan.num_accumulation_steps
    assert together.as_json()["num_parameters"] == IN_LAYERS + OUTSIDE


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_layers_exchange_is_counted(planned, checkpointing):
    outlook = planned(2, gradient_checkpointing=checkpointing)
    found = [one for one in outlook.transfers if "inside of layers" in one.what]
    (summed,) = found
    assert summed.collective == "all_reduce"
    # Attention and feed-forward: their outputs forward, once more where that is computed again up
    # to what the backward pass needs, and the gradients of their inputs backward.
    times = (2 + 2 + checkpointing) * LAYERS * outlook.plan.num_accumulation_steps
    one = outlook.trace.num_tokens * HIDDEN * FLOAT
    assert times * one <= summed.size_bytes <= (times + checkpointing * LAYERS * 4) * one
    assert summed.sent_bytes == summed.size_bytes
    assert not [one for one in planned(1).transfers if "inside of layers" in one.what]


def test_devices_that_share_the_work_have_half_of_it_each(planned):
    apart, together = planned(1), planned(2)
    # Embeddings and the output layer are computed by both.
    assert 0.5 < together.operations_per_step / apart.operations_per_step / 2 < 1
