"""A row of documents computes what each document computes alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from architectures import PACKABLE, batch_of, document, tiny_model

from framework.models.policy import CausalPolicy

# Float32 sums in another order: a few rounding units (6e-8), grown through two layers.
TOLERANCE = 1e-5
DOCUMENTS = [document(23, seed=1), document(5, seed=2, num_prompt_tokens=3), document(40, seed=3)]


def loss_and_gradients(model, batches):
    model.zero_grad()
    total = sum(CausalPolicy(model).negative_log_likelihood(batch).sum() for batch in batches)
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("architecture", PACKABLE)
def test_packed_loss_and_gradients_are_those_of_the_documents_alone(architecture):
    # The reference is transformers' own attention with a dense mask, not ours.
    reference = tiny_model(architecture, attention="sdpa")
    alone = [batch_of(one) for one in DOCUMENTS]
    expected, expected_gradients = loss_and_gradients(reference, alone)

    packed = batch_of(*DOCUMENTS)
    loss, gradients = loss_and_gradients(tiny_model(architecture), [packed])

    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max()
        assert (gradient - expected_gradients[name]).abs().max() <= TOLERANCE * scale + 1e-7, name


@pytest.mark.parametrize("architecture", PACKABLE)
def test_changing_one_document_leaves_the_others_logits_unchanged(architecture):
    model = tiny_model(architecture).eval()
    other = document(23, seed=9)
    with torch.no_grad():
        one = CausalPolicy(model).logits(batch_of(*DOCUMENTS))
        two = CausalPolicy(model).logits(batch_of(other, *DOCUMENTS[1:]))
    first = sum(DOCUMENTS[0].trained)
    assert not torch.allclose(one[:first], two[:first])
    # Experts of a mixture are given rows of other shapes; dense models give the same bits.
    assert torch.allclose(one[first:], two[first:], rtol=1e-5, atol=1e-5)
    if "moe" not in architecture:
        assert torch.equal(one[first:], two[first:])


@pytest.mark.parametrize("architecture", PACKABLE)
def test_the_head_at_labels_gives_the_full_heads_logits_and_gradients(architecture):
    batch = batch_of(*DOCUMENTS)
    everywhere = dataclasses.replace(batch, label_positions=torch.arange(batch.input_ids.shape[1]))
    model = tiny_model(architecture)
    full = CausalPolicy(model).logits(everywhere)[batch.label_positions]
    few = CausalPolicy(model).logits(batch)
    assert torch.allclose(few, full, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(
        torch.nn.functional.cross_entropy(full, batch.labels, reduction="sum"),
        model.get_input_embeddings().weight,
    )[0]
    found = torch.autograd.grad(
        CausalPolicy(model).negative_log_likelihood(batch).sum(),
        model.get_input_embeddings().weight,
    )[0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=TOLERANCE * expected.abs().max())


def test_bfloat16_packing_stays_within_its_own_rounding():
    exact = tiny_model("llama")
    rounded = tiny_model("llama").to(torch.bfloat16)
    batch = batch_of(*DOCUMENTS)
    expected, expected_gradients = loss_and_gradients(exact, [batch])
    loss, gradients = loss_and_gradients(rounded, [batch])
    assert loss.dtype == torch.float32
    # bfloat16 keeps 8 bits: 0.4 % per operation.
    assert loss == pytest.approx(expected.item(), rel=1e-2)
    for name, gradient in gradients.items():
        gap = (gradient.float() - expected_gradients[name]).norm()
        assert gap <= 0.05 * expected_gradients[name].norm(), name


def test_gradient_checkpointing_changes_nothing():
    batch = batch_of(*DOCUMENTS)
    expected = loss_and_gradients(tiny_model("llama").train(), [batch])
    model = tiny_model("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss, gradients = loss_and_gradients(model, [batch])
    assert torch.equal(loss, expected[0])
    assert all(torch.equal(gradients[name], expected[1][name]) for name in gradients)
