"""Losses of single tokens and their gradients, in chunks of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from framework.losses import cross_entropy
from framework.losses.cross_entropy import token_losses, token_scores


def test_token_losses_are_cross_entropy_with_its_gradient(monkeypatch):
    # Three rows at a time, so that the last chunk is not full.
    monkeypatch.setattr(cross_entropy, "LOGITS_CHUNK_ELEMENTS", 3 * 11)
    ours = torch.randn(10, 11, dtype=torch.float64).float().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    labels = torch.randint(11, (10,))
    weights = torch.rand(10)
    losses = token_losses(ours, labels)
    expected = F.cross_entropy(theirs, labels, reduction="none")
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(losses, expected, atol=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_token_losses_leave_the_logits_as_they_were():
    logits = torch.randn(4, 5, requires_grad=True)
    before = logits.detach().clone()
    token_losses(logits, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(logits, before)


def test_token_losses_of_16_bit_logits_are_float32_and_huge_logits_stay_finite():
    logits = torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    losses = token_losses(logits, torch.tensor([0]))
    assert losses.dtype == torch.float32
    assert losses.item() == 0.0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()


def reference_scores(logits, labels):
    log_probabilities = logits.log_softmax(-1)
    return (
        F.cross_entropy(logits, labels, reduction="none"),
        logits.logsumexp(-1),
        -log_probabilities.mean(-1),
    )


def test_token_scores_and_their_gradients_are_those_of_the_plain_formulas(monkeypatch):
    monkeypatch.setattr(cross_entropy, "LOGITS_CHUNK_ELEMENTS", 3 * 11)
    ours = (3 * torch.randn(10, 11)).requires_grad_()
    labels = torch.randint(11, (10,))
    factors = torch.randn(3, 10)
    found = token_scores(ours, labels)
    sum((score * factor).sum() for score, factor in zip(found, factors, strict=True)).backward()

    theirs = ours.detach().double().requires_grad_()
    expected = reference_scores(theirs, labels)
    sum((score * factor).sum() for score, factor in zip(expected, factors, strict=True)).backward()
    for score, one in zip(found, expected, strict=True):
        assert score.dtype == torch.float32
        assert torch.allclose(score.double(), one, atol=1e-6)
    assert torch.allclose(ours.grad.double(), theirs.grad, atol=1e-6)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_one_score_alone_has_its_own_gradient(used):
    ours = torch.randn(4, 7, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    labels = torch.tensor([0, 3, 6, 2])
    token_scores(ours, labels)[used].sum().backward()
    reference_scores(theirs, labels)[used].sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_the_gradient_of_a_nearly_certain_label_survives_16_bit():
    # p = 0.9991, which bfloat16 rounds to 1.
    ours = torch.tensor([[7.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    theirs = ours.detach().float().requires_grad_()
    label = torch.tensor([0])
    token_scores(ours, label).cross_entropy.sum().backward()
    F.cross_entropy(theirs, label).backward()
    assert torch.allclose(ours.grad.float(), theirs.grad, rtol=2**-7)


def test_no_labels_give_no_scores_but_a_gradient_of_zero():
    logits = torch.zeros(0, 5, requires_grad=True)
    sum(score.sum() for score in token_scores(logits, torch.zeros(0, dtype=torch.long))).backward()
    assert logits.grad.shape == (0, 5)
