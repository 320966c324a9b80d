"""Every schedule warms up to the peak and ends where it says."""

from __future__ import annotations

import pytest
import torch

from framework.core.registries import registry

PEAK = 1.0
WARMUP_STEPS = 4
NUM_STEPS = 20
ENDS = {
    "constant": 1.0,
    "cosine": 0.0,
    "inverse_sqrt": (4 / 19) ** 0.5,
    "linear": 0.0,
    "polynomial": 1e-7,
    "warmup_stable_decay": 0.0,
}


def rates(name: str, **settings) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = registry("schedules").get(name)(**settings)
    scheduler = schedule.build(optimizer, WARMUP_STEPS, NUM_STEPS)
    found = []
    for _ in range(NUM_STEPS + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_every_schedule_is_tested():
    assert set(ENDS) == set(registry("schedules").names())


@pytest.mark.parametrize("name", ENDS)
def test_it_rises_in_a_line_to_the_peak_and_never_beyond(name):
    found = rates(name)
    assert found[:WARMUP_STEPS] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert max(found) == pytest.approx(PEAK)
    assert found[WARMUP_STEPS] == pytest.approx(PEAK)


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_where_it_should(name):
    # The inverse square root never ends; its last value is that of its last step.
    last = rates(name)[NUM_STEPS - 1 if name == "inverse_sqrt" else NUM_STEPS]
    assert last == pytest.approx(ENDS[name], abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "warmup_stable_decay"])
def test_a_minimum_is_kept(name):
    assert rates(name, min_lr_ratio=0.1)[-1] == pytest.approx(0.1)
