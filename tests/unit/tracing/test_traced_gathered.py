"""Layers whose weights are collected in 16 bits compute on activations of 16 bits."""

from collections.abc import Callable
from pathlib import Path

from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import Traces


def test_weights_that_are_collected_in_16_bits_make_smaller_activations(
    write_recipe: Callable[..., Path], tiny_model_dir: Path
):
    recipe = write_recipe(trainer={"micro_batch_size": 1}, data={"max_length": 512})
    world = World(num_processes=2, device="cuda", fast_bfloat16=True)
    traces = Traces(tiny_model_dir)
    found = {}
    for dtype in ("weights", "compute"):
        written = [f"+strategy={{type: fsdp, gathered_dtype: {dtype}}}"]
        plan = make_plan(resolve_with_origins(recipe, written), world)
        assert (plan.weights_dtype, plan.autocast_dtype) == ("float32", "bfloat16")
        traced = traces.heaviest(plan, lengths_of(plan, tiny_model_dir)).memory
        moments = traced.two_blocks["forward"]
        found[dtype] = max(one.activations for one in moments)
        # They are held in 32 bits all the same, and have gradients of as many.
        assert max(one.weights for one in moments) == 4 * traced.num_parameters
        assert max(one.gradients for one in traced.two_blocks["step"]) == traced.trained_bytes
    assert found["compute"] < 0.9 * found["weights"]
