"""What a plan says of rows of which several devices compute a slice each."""

from __future__ import annotations

import pytest

from framework.planning.changes import changes
from framework.planning.devices import cluster_of
from framework.recipe.resolve import resolve, resolve_with_origins
from framework.tracing.outlook import look_ahead

LAYERS, FLOAT = 2, 4
EXCHANGED = 32 + 2 * 16 + 32
"""Numbers of a token's queries, keys and values, and of what attention gives."""


@pytest.fixture
def planned(write_recipe, tmp_path, monkeypatch):
    """The outlook of two GPUs, by the number that compute rows together."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # Whatever other tests prepared.

    def of(together, **model):
        recipe = write_recipe(
            adapter="full",
            data={"max_length": 120},
            model={"dtype": "float32", **model},
            trainer={"global_batch_size": 8, "micro_batch_size": 2},
            strategy={"type": "fsdp", "sequence_parallel_size": together},
        )
        return look_ahead(resolve_with_origins(recipe), cluster_of("2xH100-80GB", 1, None))

    return of


def test_tokens_of_a_device_are_half_and_weights_are_shared_out_as_before(planned):
    apart, together = planned(1), planned(2)
    assert apart.trace.num_tokens == together.trace.num_tokens
    assert (together.shares, together.memory.phase) == (apart.shares, apart.memory.phase)
    for kind in ("activations", "logits"):
        share = together.memory.kinds()[kind] / apart.memory.kinds()[kind]
        assert share == pytest.approx(0.5, abs=0.05), kind
    # As many tokens in all, on as many devices.
    assert together.plan.num_accumulation_steps == 2 * apart.plan.num_accumulation_steps
    assert together.operations_per_step == pytest.approx(apart.operations_per_step, rel=0.01)
    assert together.num_tokens == apart.num_tokens


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_exchanged_around_attention_is_counted(planned, checkpointing):
    outlook = planned(2, gradient_checkpointing=checkpointing)
    (found,) = [one for one in outlook.transfers if "around attention" in one.what]
    assert found.collective == "all_to_all"
    # Forward, once more where that is computed again, and gradients backward; of half of a row.
    times = (2 + checkpointing) * LAYERS * outlook.plan.num_accumulation_steps
    assert found.size_bytes == times * outlook.trace.num_tokens / 2 * EXCHANGED * FLOAT
    assert found.sent_bytes == found.size_bytes / 2
    assert not [one for one in planned(1).transfers if "around attention" in one.what]


def test_weights_are_gathered_and_gradients_added_up_over_all_devices(planned):
    apart, together = planned(1), planned(2)
    passes = together.plan.num_accumulation_steps / apart.plan.num_accumulation_steps
    for one, other in zip(together.transfers[:2], apart.transfers, strict=True):
        assert (one.what, one.size_bytes) == (other.what, passes * other.size_bytes)


def test_slices_are_proposed_where_memory_is_short_as_far_as_key_heads_can_be_shared(write_recipe):
    recipe = resolve(write_recipe())
    proposed = [one.lines[-1] for one in changes(recipe, 8)]
    assert "strategy: {type: fsdp, sequence_parallel_size: 2}" in proposed
    assert "strategy: {type: fsdp, cpu_offload: true, sequence_parallel_size: 2}" in proposed
    assert not [line for line in proposed if "sequence_parallel_size: 4" in line]
    assert not [one for one in changes(recipe, 1) if "fsdp" in one.lines[-1]]
