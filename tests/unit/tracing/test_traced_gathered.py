"""Layers whose weights are collected in 16 bits compute on activations of 16 bits."""

from collections.abc import Callable
from pathlib import Path

from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import Traces

NUM_TOKENS = 512
HIDDEN_SIZE = 64
"""Of the tiny model."""


def test_weights_that_are_collected_in_16_bits_make_smaller_activations(
    write_recipe: Callable[..., Path], tiny_model_dir: Path
):
    recipe = write_recipe(trainer={"micro_batch_size": 1}, data={"max_length": NUM_TOKENS})
    world = World(num_processes=2, device="cuda", fast_bfloat16=True)
    traces = Traces(tiny_model_dir)
    found: dict[str, float] = {}
    """Of a layer."""
    for dtype in ("weights", "compute"):
        written = [f"+strategy={{type: fsdp, gathered_dtype: {dtype}}}"]
        plan = make_plan(resolve_with_origins(recipe, written), world)
        assert (plan.weights_dtype, plan.autocast_dtype) == ("float32", "bfloat16")
        traced = traces.heaviest(plan, lengths_of(plan, tiny_model_dir)).memory
        moments = traced.two_blocks["forward"]
        one, two = (
            max(moment.activations for moment in each["forward"] if not moment.has_gradients)
            for each in (traced.one_block, traced.two_blocks)
        )
        found[dtype] = two - one
        # They are held in 32 bits all the same, and have gradients of as many.
        assert max(moment.weights for moment in moments) == 4 * traced.num_parameters
        assert max(moment.gradients for moment in traced.two_blocks["step"]) == traced.trained_bytes
    # What its two norms give is kept, in 2 bytes instead of 4.
    assert found["weights"] - found["compute"] == 2 * 2 * NUM_TOKENS * HIDDEN_SIZE
