"""Variants of cross-entropy are those of PyTorch and of their papers' equations."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, document, tiny_model
from torch.nn import functional as F

from framework.models.policy import CausalPolicy
from framework.trainers.sft import SFT

TOLERANCE = 1e-5  # float32, chunked against whole: sums run in another order
BATCH = batch_of(document(23, seed=1, num_prompt_tokens=5), document(40, seed=3))


def ours(trainer):
    model = tiny_model("llama")
    loss = trainer.loss(CausalPolicy(model), None, BATCH)
    mean = loss.sum / trainer.num_items(BATCH)
    mean.backward()
    plain = loss.metrics["cross_entropy"] / trainer.num_items(BATCH)
    return mean.item(), {name: p.grad for name, p in model.named_parameters()}, plain.item()


def theirs(formula):
    """`formula` of the plain logits [L, V] and labels [L], without any code of ours in it."""
    model = tiny_model("llama")
    loss = formula(CausalPolicy(model).logits(BATCH), BATCH.labels)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def assert_equal(trainer, formula):
    found, gradients, found_plain = ours(trainer)
    expected, expected_gradients = theirs(formula)
    plain, _ = theirs(F.cross_entropy)
    assert abs(expected - plain) > 1e-3, "the variant must differ from plain cross-entropy"
    assert found_plain == pytest.approx(plain, abs=TOLERANCE)
    assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    for name, gradient in gradients.items():
        error = (gradient - expected_gradients[name]).norm() / expected_gradients[name].norm()
        assert error < TOLERANCE, (name, error)


def test_label_smoothing_is_that_of_pytorch():
    assert_equal(
        SFT(label_smoothing=0.2),
        lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.2),
    )


def test_z_loss_is_the_square_of_the_log_of_the_normaliser():
    def formula(logits, labels):
        log_z = logits.exp().sum(-1).log()
        return F.cross_entropy(logits, labels) + 0.05 * (log_z**2).mean()

    assert_equal(SFT(z_loss=0.05), formula)


def test_dynamic_fine_tuning_weighs_by_the_probability_without_its_gradient():
    def formula(logits, labels):
        probabilities = logits.softmax(-1)[torch.arange(len(labels)), labels]
        return -(probabilities.detach() * probabilities.log()).mean()

    assert_equal(SFT(loss_type="dft"), formula)


def test_all_of_it_together():
    def formula(logits, labels):
        smoothed = F.cross_entropy(logits, labels, label_smoothing=0.1)
        return smoothed + 0.01 * (logits.logsumexp(-1) ** 2).mean()

    assert_equal(SFT(label_smoothing=0.1, z_loss=0.01), formula)
