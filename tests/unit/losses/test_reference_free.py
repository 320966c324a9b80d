"""Odds of answers, from improbable to nearly certain ones."""

from __future__ import annotations

import math

import pytest
import torch

from framework.losses.reference_free import log_odds_ratio

HALF = math.log(0.5)


@pytest.mark.parametrize("mean", [-40.0, -3.0, -0.7, -0.69, -0.1, -1e-4, -1e-6])
def test_log_odds_are_exact_whatever_the_probability(mean):
    """Against an answer of probability 1/2, whose odds are 1."""
    chosen = torch.tensor([mean], requires_grad=True)
    found = log_odds_ratio(chosen, torch.tensor([HALF]))
    exact = torch.tensor([mean], dtype=torch.float32).double().item()
    assert found.item() == pytest.approx(exact - math.log(-math.expm1(exact)), rel=1e-6, abs=1e-6)
    found.backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(1 / -math.expm1(exact), rel=1e-5)


def test_a_certain_answer_has_finite_odds_and_a_finite_gradient():
    chosen = torch.tensor([0.0], requires_grad=True)
    loss = -torch.nn.functional.logsigmoid(log_odds_ratio(chosen, torch.tensor([HALF])))
    loss.backward()
    assert loss.isfinite() and chosen.grad is not None and chosen.grad.isfinite().all()
