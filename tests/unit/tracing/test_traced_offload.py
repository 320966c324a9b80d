"""Activations that wait in the machine's memory are planned there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from framework.core.world import Device, World
from framework.planning.memory import Memory
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import predicted_memory


@pytest.fixture
def planned(write_recipe: Callable[..., Path], tiny_model_dir: Path) -> Callable[..., Memory]:
    """What is planned for a device with this key of the model's."""
    recipe = write_recipe(data={"max_length": 512}, model={"dtype": "float32"})

    def plan(device: Device, *, offload: bool) -> Memory:
        written = [f"+model.activation_offload={str(offload).lower()}"]
        one = make_plan(resolve_with_origins(recipe, written), World(device=device))
        return predicted_memory(one, tiny_model_dir, lengths_of(one, tiny_model_dir))

    return plan


def test_what_the_backward_pass_needs_leaves_the_device(planned: Callable[..., Memory]):
    kept, moved = (planned("cuda", offload=offload) for offload in (False, True))
    assert kept.host == 0
    # A layer's own are there while it is computed; the tiny model has two.
    assert moved.activations < 0.8 * kept.activations
    assert moved.host > kept.activations - moved.activations
    assert (moved.weights, moved.optimizer) == (kept.weights, kept.optimizer)


def test_on_a_cpu_there_is_nothing_to_move(planned: Callable[..., Memory]):
    assert planned("cpu", offload=True) == planned("cpu", offload=False)
