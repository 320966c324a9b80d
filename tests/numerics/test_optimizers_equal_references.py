"""The first updates of every optimizer are those of its paper, evaluated by hand in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from framework.core.registries import registry

RATE, DECAY = 1e-2, 0.1
NUM_STEPS = 4
SHAPE = (12, 20)
# float32 against float64; updates are of the size of RATE.
TOLERANCE = 1e-6

Array = np.ndarray
Update = Callable[[Array, Array, dict[str, Any], int], Array]
"""(weights, gradient, state, number of the step from 1) -> new weights."""


def start(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def gradient(shape: tuple[int, ...], step: int) -> Array:
    return np.random.default_rng(100 + step).normal(size=shape).astype(np.float32)


def optimizer_of(name: str, parameter: nn.Parameter, settings: Mapping[str, Any], hidden=True):
    group = {
        "params": [parameter],
        "lr": RATE,
        "weight_decay": DECAY,
        "name": "the only one",
        "hidden": hidden,
    }
    return registry("optimizers").get(name)(**settings).build([group], RATE)


def trained_by(name: str, settings: Mapping[str, Any], shape=SHAPE, hidden=True) -> Array:
    parameter = nn.Parameter(torch.from_numpy(start(shape)))
    optimizer = optimizer_of(name, parameter, settings, hidden)
    for step in range(1, NUM_STEPS + 1):
        parameter.grad = torch.from_numpy(gradient(shape, step))
        optimizer.step()
    return parameter.detach().numpy()


def trained_by_hand(update: Update, shape=SHAPE) -> Array:
    weights, state = start(shape).astype(np.float64), {}
    for step in range(1, NUM_STEPS + 1):
        weights = update(weights, gradient(shape, step).astype(np.float64), state, step)
    return weights


def adam(g: Array, state: dict[str, Any], t: int, beta1=0.9, beta2=0.999) -> Array:
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    return (state["m"] / (1 - beta1**t)) / (np.sqrt(state["v"] / (1 - beta2**t)) + 1e-8)


def adamw(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    return w - RATE * DECAY * w - RATE * adam(g, state, t)


def sgd(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    g = g + DECAY * w
    state["m"] = g if t == 1 else 0.9 * state["m"] + g
    return w - RATE * (g + 0.9 * state["m"])


def lion(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    m = state.get("m", np.zeros_like(g))
    state["m"] = 0.99 * m + 0.01 * g
    return w - RATE * DECAY * w - RATE * np.sign(0.9 * m + 0.1 * g)


def adafactor(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    def rms(x: Array) -> float:
        return float(np.sqrt(np.mean(x * x)))

    kept = 1 - t**-0.8
    rows, columns = (g * g).mean(1, keepdims=True), (g * g).mean(0, keepdims=True)
    state["r"] = kept * state.get("r", 0.0) + (1 - kept) * rows
    state["c"] = kept * state.get("c", 0.0) + (1 - kept) * columns
    u = g / np.sqrt(state["r"] @ state["c"] / state["r"].mean())
    u = u / max(1.0, rms(u) / 1.0)
    size = max(1e-3, rms(w)) * min(RATE, 1 / np.sqrt(t))
    return w * (1 - RATE * DECAY) - size * u


def ademamix(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    """alpha grows from 0 and beta3 from beta1 over 3 steps, as the paper's appendix says."""
    beta1, beta2, beta3, alpha = 0.9, 0.999, 0.9999, min(5.0 * t / 3, 5.0)
    done = min(t / 3, 1.0)
    log1, log3 = np.log(beta1), np.log(beta3)
    slow = np.exp(log1 * log3 / ((1 - done) * log3 + done * log1))
    state["m1"] = beta1 * state.get("m1", 0.0) + (1 - beta1) * g
    state["m2"] = slow * state.get("m2", 0.0) + (1 - slow) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    denominator = np.sqrt(state["v"] / (1 - beta2**t)) + 1e-8
    update = (state["m1"] / (1 - beta1**t) + alpha * state["m2"]) / denominator
    return w - RATE * DECAY * w - RATE * update


def galore(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
    """Rank 4, a new projection each 2 steps, alpha 1/4; algorithm 2 of the paper."""
    wide = g.shape[0] <= g.shape[1]
    if (t - 1) % 2 == 0:
        u, _, vt = np.linalg.svd(g)
        new = u[:, :4] if wide else vt[:4].T
        # Signs are the SVD's choice; ours are those nearest to the basis before.
        state["p"] = new * np.sign((new * state.get("p", new)).sum(0))
    p = state["p"]
    back = p @ adam(p.T @ g, state, t) if wide else adam(g @ p, state, t) @ p.T
    return w - RATE * DECAY * w - RATE * 0.25 * back


EXACT: list[tuple[str, dict[str, Any], Update]] = [
    ("adamw", {}, adamw),
    ("adafactor", {}, adafactor),
    # Matrices of fewer than 4,096 numbers keep states of 32 bits.
    ("adamw_8bit", {}, adamw),
    ("adamw_torchao", {"optim_bits": 8}, adamw),
    ("adamw_torchao", {"optim_bits": 4}, adamw),
    ("ademamix", {"num_alpha_warmup_steps": 3, "num_beta3_warmup_steps": 3}, ademamix),
    ("galore", {"rank": 4, "update_interval": 2}, galore),
    ("galore", {"rank": 12}, adamw),
    ("apollo", {"rank": 12}, adamw),
    ("lion", {}, lion),
    ("sgd", {"momentum": 0.9, "nesterov": True}, sgd),
]


@pytest.mark.parametrize(("name", "settings", "update"), EXACT)
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]], ids=["wide", "tall"])
def test_its_updates_are_those_of_its_paper(name, settings, update, shape):
    ours, theirs = trained_by(name, settings, shape), trained_by_hand(update, shape)
    assert np.abs(theirs - start(shape)).max() > 5e-3, "nothing was trained"
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["muon", "galore", "apollo"])
def test_what_is_no_hidden_matrix_is_left_to_adamw(name):
    matrix, other = nn.Parameter(torch.zeros(SHAPE)), nn.Parameter(torch.from_numpy(start(SHAPE)))
    common = {"lr": RATE, "weight_decay": DECAY}
    groups = [
        {"params": [matrix], "name": "matrices", "hidden": True, **common},
        {"params": [other], "name": "the rest", "hidden": False, **common},
    ]
    optimizer = registry("optimizers").get(name)().build(groups, RATE)
    for step in range(1, NUM_STEPS + 1):
        other.grad = torch.from_numpy(gradient(SHAPE, step))
        optimizer.step()
    assert other.detach().numpy() == pytest.approx(trained_by_hand(adamw), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_torchao"])
def test_states_of_8_bits_hardly_change_the_updates_of_large_matrices(name):
    shape = (64, 128)
    ours, exact = trained_by(name, {}, shape), trained_by_hand(adamw, shape)
    difference = np.abs(ours - exact)
    assert difference.max() > TOLERANCE, "the states were not quantised"
    # Of updates of about RATE each; a block's smallest numbers are the least exact.
    assert difference.mean() < 0.02 * NUM_STEPS * RATE


def apollo(optimizer: Any, parameter: nn.Parameter, per_channel: bool) -> Update:
    """Algorithm 1 of the paper, with the random matrices of the optimizer."""

    def update(w: Array, g: Array, state: dict[str, Any], t: int) -> Array:
        optimizer.state[parameter]["step"] = t
        wide = g.shape[0] <= g.shape[1]
        p = optimizer.random_projection(parameter, min(g.shape)).double().numpy()
        r = p @ g if wide else g @ p.T
        n = adam(r, state, t)
        axis = (0 if wide else 1) if per_channel else None
        s = np.sqrt((n * n).sum(axis, keepdims=True)) / np.sqrt((r * r).sum(axis, keepdims=True))
        scaled = 2.0 * g * s
        norm = np.linalg.norm(scaled)
        if "norm" in state and norm > 1.01 * state["norm"]:
            scaled *= 1.01 * state["norm"] / norm
        state["norm"] = np.linalg.norm(scaled)
        return w - RATE * DECAY * w - RATE * scaled

    return update


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]], ids=["wide", "tall"])
@pytest.mark.parametrize(("rank", "factors"), [(4, "channel"), (1, "tensor"), (4, "tensor")])
def test_apollo_scales_gradients_as_its_paper_says(rank, factors, shape):
    settings = {"rank": rank, "factors": factors, "scale": 2.0, "update_interval": 2}
    parameter = nn.Parameter(torch.from_numpy(start(shape)))
    other = optimizer_of("apollo", parameter, settings)
    by_hand = trained_by_hand(apollo(other, parameter, factors == "channel"), shape)
    # Factors of one channel alone can be large; then so are updates and their rounding.
    size = np.abs(by_hand - start(shape)).max()
    assert trained_by("apollo", settings, shape) == pytest.approx(
        by_hand, abs=TOLERANCE * max(1, size)
    )


def test_random_projections_keep_lengths_and_change_with_time_and_parameter():
    parameters = [nn.Parameter(torch.zeros(64, 64)) for _ in range(2)]
    group = {"params": parameters, "lr": RATE, "weight_decay": 0.0, "hidden": True, "name": "a"}
    component = registry("optimizers").get("apollo")
    optimizer = component(rank=32, update_interval=5).build([group], RATE)

    def drawn(number: int, step: int) -> torch.Tensor:
        optimizer.state[parameters[number]]["step"] = step
        return optimizer.random_projection(parameters[number], 64)

    assert torch.equal(drawn(0, 1), drawn(0, 5))
    assert not torch.equal(drawn(0, 1), drawn(0, 6))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))
    # N(0, 1/r): 2,048 numbers have a variance within 10 % of it.
    assert drawn(0, 1).var().item() == pytest.approx(1 / 32, rel=0.1)


@pytest.mark.parametrize(
    ("scale", "adjusted"), [("match_adamw", "match_rms_adamw"), ("original",) * 2]
)
def test_muon_is_pytorchs(scale, adjusted):
    parameter = nn.Parameter(torch.from_numpy(start(SHAPE)))
    theirs = torch.optim.Muon([parameter], RATE, DECAY, adjust_lr_fn=adjusted)
    for step in range(1, NUM_STEPS + 1):
        parameter.grad = torch.from_numpy(gradient(SHAPE, step))
        theirs.step()
    ours = trained_by("muon", {"scale": scale})
    assert ours == pytest.approx(parameter.detach().numpy(), abs=TOLERANCE)


def test_an_update_of_muon_is_nearly_orthogonal_and_of_adamws_size():
    parameter = nn.Parameter(torch.from_numpy(start(SHAPE)))
    optimizer = optimizer_of("muon", parameter, {})
    parameter.grad = torch.from_numpy(gradient(SHAPE, 1))
    optimizer.step()
    update = (start(SHAPE) * (1 - RATE * DECAY) - parameter.detach().numpy()) / RATE
    sizes = np.linalg.svd(update / (0.2 * np.sqrt(max(SHAPE))), compute_uv=False)
    assert sizes.min() > 0.5 and sizes.max() < 1.5, "five iterations bring them near 1"
    assert np.sqrt((update**2).mean()) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_schedule_free_averages_as_its_paper_says(power):
    """Algorithm 1: gradients at y = (1 - b) z + b x, x the average of z."""
    settings = {"polynomial_power": power}
    parameter = nn.Parameter(torch.from_numpy(start(SHAPE)))
    component = registry("optimizers").get("schedule_free_adamw")(**settings)
    optimizer = optimizer_of("schedule_free_adamw", parameter, settings)
    x = z = start(SHAPE).astype(np.float64)
    v, whole = 0.0, 0.0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(SHAPE, t).astype(np.float64)
        y = 0.1 * z + 0.9 * x
        assert parameter.detach().numpy() == pytest.approx(y, abs=TOLERANCE)
        v = 0.999 * v + 0.001 * g * g
        z = z - RATE * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + DECAY * y)
        weight = t**power * RATE**2
        whole += weight
        x = (1 - weight / whole) * x + weight / whole * z
        parameter.grad = torch.from_numpy(gradient(SHAPE, t))
        optimizer.step()
    component.use_average(optimizer)
    assert parameter.detach().numpy() == pytest.approx(x, abs=TOLERANCE)
    component.use_trained(optimizer)
    assert parameter.detach().numpy() == pytest.approx(0.1 * z + 0.9 * x, abs=TOLERANCE)


def test_every_optimizer_has_a_reference():
    named = {name for name, _, _ in EXACT} | {"muon", "schedule_free_adamw"}
    assert named == set(registry("optimizers").names())
