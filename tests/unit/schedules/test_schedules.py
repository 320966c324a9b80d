"""Every schedule warms up to the peak and ends where it says."""

from __future__ import annotations

import pytest
import torch

from framework.api import check
from framework.core.registries import registry

PEAK = 1.0
WARMUP_STEPS = 4
NUM_STEPS = 20
ENDS = {
    "constant": 1.0,
    "cosine": 0.0,
    "cosine_with_restarts": 0.0,
    "inverse_sqrt": (4 / 19) ** 0.5,
    "linear": 0.0,
    "polynomial": 1e-7,
    "rex": 0.0,
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
@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_warmup_may_be_as_long_as_the_run(name, num_steps):
    """The scheduler steps once more after the last optimizer step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = registry("schedules").get(name)().build(optimizer, num_steps, num_steps)
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([PEAK * step / num_steps for step in range(num_steps)])


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_where_it_should(name):
    # The inverse square root never ends; its last value is that of its last step.
    last = rates(name)[NUM_STEPS - 1 if name == "inverse_sqrt" else NUM_STEPS]
    assert last == pytest.approx(ENDS[name], abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "rex", "warmup_stable_decay"])
def test_a_minimum_is_kept(name):
    assert rates(name, min_lr_ratio=0.1)[-1] == pytest.approx(0.1)


# By hand: 4 steps of warmup, then 16 of which `done` are over; z = done / 16.
EXACT = [
    ("constant", {}, {4: 1.0, 12: 1.0, 20: 1.0}),
    ("linear", {}, {4: 1.0, 8: 0.75, 12: 0.5, 19: 1 / 16}),
    # 1/2 (1 + cos(pi z)): z = 1/4, 1/2, 3/4.
    ("cosine", {}, {8: 0.8535533906, 12: 0.5, 16: 0.1464466094}),
    ("cosine", {"min_lr_ratio": 0.2}, {8: 0.2 + 0.8 * 0.8535533906, 12: 0.6, 20: 0.2}),
    # The same, twice as fast and from the start again at z = 1/2.
    (
        "cosine_with_restarts",
        {},
        {4: 1.0, 6: 0.8535533906, 8: 0.5, 12: 1.0, 14: 0.8535533906, 16: 0.5},
    ),
    ("cosine_with_restarts", {"num_cycles": 4}, {4: 1.0, 6: 0.5, 8: 1.0, 10: 0.5, 12: 1.0}),
    # (1 - z) / (1/2 + 1/2 (1 - z)).
    ("rex", {}, {4: 1.0, 8: 0.75 / 0.875, 12: 0.5 / 0.75, 16: 0.25 / 0.625, 19: 2 / 17}),
    ("rex", {"min_lr_ratio": 0.1}, {4: 1.0, 12: 0.1 + 0.9 * 2 / 3, 20: 0.1}),
    # (1e-7 + (1 - 1e-7) (1 - z)^2).
    ("polynomial", {}, {8: 0.5625, 12: 0.25, 16: 0.0625}),
    ("inverse_sqrt", {}, {4: 1.0, 16: 0.5, 20: 0.4472135955}),
    # The last 4 of 20 steps fall.
    (
        "warmup_stable_decay",
        {"decay_ratio": 0.2, "decay_type": "linear"},
        {4: 1.0, 16: 1.0, 17: 0.75, 18: 0.5, 19: 0.25, 20: 0.0},
    ),
    (
        "warmup_stable_decay",
        {"decay_ratio": 0.2, "decay_type": "1-sqrt"},
        {16: 1.0, 17: 0.5, 18: 1 - 0.5**0.5, 20: 0.0},
    ),
]


@pytest.mark.parametrize(("name", "settings", "expected"), EXACT)
def test_it_has_the_values_of_its_formula(name, settings, expected):
    found = rates(name, **settings)
    assert {step: found[step] for step in expected} == pytest.approx(expected, abs=2e-7)


WARMUPS = (0, 1, 4)
REFERENCES = [
    ("constant", {}, "get_constant_schedule_with_warmup", {}),
    ("linear", {}, "get_linear_schedule_with_warmup", {"num_training_steps": NUM_STEPS}),
    (
        "cosine",
        {"min_lr_ratio": 0.1},
        "get_cosine_with_min_lr_schedule_with_warmup",
        {"num_training_steps": NUM_STEPS, "min_lr_rate": 0.1},
    ),
    (
        "cosine_with_restarts",
        {"num_cycles": 3},
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        {"num_training_steps": NUM_STEPS, "num_cycles": 3},
    ),
    ("inverse_sqrt", {}, "get_inverse_sqrt_schedule", {}),
    (
        "polynomial",
        {"power": 1.5, "lr_end": 1e-3},
        "get_polynomial_decay_schedule_with_warmup",
        {"num_training_steps": NUM_STEPS, "power": 1.5, "lr_end": 1e-3},
    ),
    *(
        (
            "warmup_stable_decay",
            {"decay_ratio": 0.3, "decay_type": shape, "min_lr_ratio": 0.1},
            "get_wsd_schedule",
            {
                "num_training_steps": NUM_STEPS,
                "num_decay_steps": 6,
                "decay_type": shape,
                "min_lr_ratio": 0.1,
            },
        )
        for shape in ("linear", "cosine", "1-sqrt")
    ),
]


@pytest.mark.parametrize("warmup_steps", WARMUPS)
@pytest.mark.parametrize(("name", "settings", "function", "arguments"), REFERENCES)
def test_it_is_the_schedule_of_transformers_bit_for_bit(
    name, settings, function, arguments, warmup_steps
):
    import transformers

    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2)]
    ours = registry("schedules").get(name)(**settings)
    pair = (
        ours.build(optimizers[0], warmup_steps, NUM_STEPS),
        getattr(transformers, function)(optimizers[1], warmup_steps, **arguments),
    )
    # Steps beyond the end, too.
    for _ in range(NUM_STEPS + 3):
        first, second = (one.get_last_lr() for one in pair)
        assert first == second
        for optimizer, scheduler in zip(optimizers, pair, strict=True):
            optimizer.step()
            scheduler.step()


def test_a_fall_that_the_warmup_leaves_no_room_for_begins_right_after_it():
    found = rates("warmup_stable_decay", decay_ratio=1.0, decay_type="linear")
    assert found[4:9] == pytest.approx([1 - step / 16 for step in range(5)])


def test_every_group_is_scaled_alike():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.1}], lr=1.0
    )
    for name in ENDS:
        scheduler = registry("schedules").get(name)().build(optimizer, WARMUP_STEPS, NUM_STEPS)
        for _ in range(11):
            optimizer.step()
            scheduler.step()
        first, second = scheduler.get_last_lr()
        assert second == pytest.approx(0.1 * first), name


def test_a_polynomial_that_would_rise_is_refused_by_check(write_recipe):
    schedule = {"type": "polynomial", "lr_end": 1e-2}
    (problem,) = check(write_recipe(trainer={"learning_rate": 1e-3, "lr_scheduler_type": schedule}))
    assert problem.what == "0.01 is not below learning_rate 0.001"
    assert problem.key == "trainer.lr_scheduler_type.lr_end"
