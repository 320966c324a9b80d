"""What an optimizer keeps is counted, whether it can run without numbers or not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from framework.planning.devices import cluster_of
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.outlook import Outlook, look_ahead


def outlook(recipe: Path) -> Outlook:
    return look_ahead(resolve_with_origins(recipe), cluster_of(None, 1, None))


@pytest.mark.parametrize(
    ("optimizer", "bytes_per_number"),
    [("adamw", 8.0), ("lion", 4.0), ("adamw_8bit", 8.0), ({"type": "sgd", "momentum": 0.9}, 4.0)],
)
def test_the_state_is_as_large_as_the_optimizer_makes_it(
    write_recipe: Callable[..., Path], optimizer: object, bytes_per_number: float
):
    found = outlook(write_recipe(trainer={"optimizer": optimizer}))
    # All parameters of the tiny model but its embeddings are smaller than what 8 bits begin with.
    numbers = found.trace.memory.num_trained
    least = 2.0 if optimizer == "adamw_8bit" else bytes_per_number
    assert least * numbers < found.memory.optimizer * 1.01
    assert found.memory.optimizer < bytes_per_number * numbers * 1.01


def test_what_a_step_in_8_bits_takes_on_a_cpu_is_counted(write_recipe: Callable[..., Path]):
    found = outlook(write_recipe(trainer={"optimizer": "adamw_8bit"}))
    numbers = {name: number for name, number, _ in found.trace.modules}
    largest = 4 * numbers["lm_head"]
    most = max(one.other for one in found.trace.memory.two_blocks["step"])
    assert 5 * largest <= most < 5.5 * largest


def test_steps_in_the_backward_pass_never_hold_all_gradients(write_recipe: Callable[..., Path]):
    settings = {"optimizer_in_backward": True, "max_grad_norm": None, "global_batch_size": 1}
    whole = outlook(write_recipe(trainer={"global_batch_size": 1}))
    stepped = outlook(write_recipe(trainer=settings))
    most = {
        name: max(one.gradients for each in found.trace.memory.two_blocks.values() for one in each)
        for name, found in (("whole", whole), ("stepped", stepped))
    }
    assert most["whole"] == whole.trace.memory.trained_bytes
    assert most["stepped"] < most["whole"] / 2
