"""Who runs out of memory hears what the plan says, and what needs less."""

from __future__ import annotations

import re

import pytest
import torch

from framework.core.problems import RunFailed
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.shortage import shortage_explained


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 62)], ids=["torch", "python"]
)
def test_the_plans_numbers_and_what_needs_less_are_told(write_recipe, tiny_model_dir, allocate):
    plan = make_plan(resolve_with_origins(write_recipe(**{"model.dtype": "float32"})), World())
    with pytest.raises(RunFailed) as caught, shortage_explained(plan, tiny_model_dir):
        allocate()
    told = str(caught.value)
    assert told.startswith("out of memory (rank 0 on cpu): ")
    numbers = r"planned to need ([\d.]+) GiB \(weights [\d.]+, .*optimizer [\d.]+"
    needed = re.search(numbers, told)
    assert needed is not None, told
    changes = re.findall(r"write (\S+: \S+) \(([\d.]+) GiB\)", told)
    assert changes, told
    assert all(float(peak) <= float(needed.group(1)) for _, peak in changes)


def test_another_fault_stays_what_it_is(write_recipe, tiny_model_dir):
    plan = make_plan(resolve_with_origins(write_recipe()), World())
    with pytest.raises(RuntimeError, match="other"), shortage_explained(plan, tiny_model_dir):
        raise RuntimeError("other")
