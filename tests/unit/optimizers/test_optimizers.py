"""Every optimizer learns, and goes on exactly where its saved state left it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.core.registries import registry
from framework.engine.parameter_groups import parameter_groups
from framework.models.state import (
    load_optimizer,
    load_trained_weights,
    save_optimizer,
    save_trained_weights,
)

NAMES = registry("optimizers").names()
LEARNING_RATES = {"sgd": 0.1}
SETTINGS = [(name, {}) for name in NAMES] + [
    ("adamw_8bit", {"paged": True}),
    ("lion", {"optim_bits": 8}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
]


def model() -> nn.Module:
    torch.manual_seed(0)
    # Large enough that 8-bit optimizers do quantize their states (4,096 elements and more).
    return nn.Sequential(nn.Embedding(16, 128), nn.Linear(128, 64), nn.LayerNorm(64))


def optimizer_of(name: str, settings: dict, network: nn.Module):
    component = registry("optimizers").get(name)(**settings)
    groups = parameter_groups(network, weight_decay=0.1)
    return component.build(groups, LEARNING_RATES.get(name, 1e-2))


def step(network: nn.Module, optimizer, seed: int) -> float:
    torch.manual_seed(seed)
    tokens = torch.randint(16, (8,))
    loss = (network(tokens) - torch.randn(8, 64, generator=torch.Generator().manual_seed(9))).pow(2)
    loss.mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.mean().item()


def test_there_are_optimizers():
    assert len(NAMES) == 5


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_it_learns(name, settings):
    network = model()
    optimizer = optimizer_of(name, settings, network)
    losses = [step(network, optimizer, seed=1) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_it_goes_on_bit_for_bit_from_its_saved_state(name, settings, tmp_path):
    whole = model()
    optimizer = optimizer_of(name, settings, whole)
    for seed in range(3):
        step(whole, optimizer, seed)
    save_trained_weights(whole, tmp_path)
    save_optimizer(optimizer, tmp_path)

    resumed = model()
    again = optimizer_of(name, settings, resumed)
    load_trained_weights(resumed, tmp_path)
    load_optimizer(again, tmp_path)
    for seed in range(3, 6):
        assert step(whole, optimizer, seed) == step(resumed, again, seed)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_matrices_decay():
    network = model()
    decayed, kept = parameter_groups(network, weight_decay=0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(64, 128)]
    assert sorted(tuple(p.shape) for p in kept["params"]) == [(16, 128), (64,), (64,), (64,)]


def test_frozen_parameters_are_in_no_group():
    network = model()
    network[0].requires_grad_(False)
    groups = parameter_groups(network, weight_decay=0.1)
    assert all(p.requires_grad for group in groups for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == 4
