"""Common beginnings that are computed once give what computing them for each document gives."""

from __future__ import annotations

import pytest
import torch
from architectures import PACKABLE, batch_of, document, tiny_model
from transformers import AttentionInterface
from transformers.integrations import flash_attention

from framework.attention import document_attention, layout, segmented
from framework.attention.attention import register
from framework.core.batch import Encoded
from framework.models.heads import policy_of
from framework.models.policy import CausalPolicy

# Float32 sums in another order: a few rounding units (6e-8), grown through two layers.
TOLERANCE = 1e-5
SYSTEM, QUESTION, OTHER = (document(size, seed=size).tokens for size in (24, 20, 31))


def branch(*parts: tuple[int, ...], answer: int, seed: int, num_untrained: int) -> Encoded:
    tokens = sum(parts, ()) + document(answer, seed=seed).tokens
    untrained = (False,) * num_untrained
    return Encoded(tokens=tokens, trained=untrained + (True,) * (len(tokens) - num_untrained))


# Two questions under one system prompt, one of them with three answers, a part of the question
# trained in one; a document that is the beginning of others; one that is there twice; one alone.
DOCUMENTS = [
    branch(SYSTEM, QUESTION, answer=9, seed=1, num_untrained=44),
    document(23, seed=50),
    branch(SYSTEM, OTHER, answer=1, seed=2, num_untrained=55),
    branch(SYSTEM, QUESTION, answer=17, seed=3, num_untrained=30),
    Encoded(tokens=SYSTEM, trained=(False,) * 20 + (True,) * 4),
    branch(SYSTEM, QUESTION, answer=4, seed=4, num_untrained=1),
    branch(SYSTEM, OTHER, answer=30, seed=5, num_untrained=55),
    branch(SYSTEM, OTHER, answer=30, seed=5, num_untrained=55),
]


def losses_and_gradients(model, batch, *, shares):
    model.zero_grad()
    policy = policy_of(model, shares=shares)
    losses = policy.negative_log_likelihood(batch)
    (losses * torch.linspace(0.5, 1.5, len(losses))).sum().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = expected[name].abs().max()
        assert (gradient - expected[name]).abs().max() <= tolerance * scale + 1e-7, name


@pytest.mark.parametrize("architecture", PACKABLE)
def test_loss_and_gradients_are_those_of_the_documents_end_to_end(architecture):
    batch = batch_of(*DOCUMENTS)
    model = tiny_model(architecture)
    expected, expected_gradients = losses_and_gradients(model, batch, shares=False)
    losses, gradients = losses_and_gradients(model, batch, shares=True)
    assert (losses - expected).abs().max() <= TOLERANCE * expected.max()
    assert_close(gradients, expected_gradients)


def test_losses_without_whole_logits_are_those_of_the_documents_end_to_end():
    batch = batch_of(*DOCUMENTS)
    model = tiny_model("llama")
    expected, expected_gradients = losses_and_gradients(model, batch, shares=False)
    model.zero_grad()
    policy = CausalPolicy(model, shares=True, logits_bytes=1000)
    assert not policy.makes_whole_logits
    losses = policy.negative_log_likelihood(batch)
    assert (losses - expected).abs().max() <= TOLERANCE * expected.max()
    (losses * torch.linspace(0.5, 1.5, len(losses))).sum().backward()
    found = {name: one.grad for name, one in model.named_parameters()}
    assert_close(found, expected_gradients)


def test_every_token_is_computed_once():
    batch = batch_of(*DOCUMENTS)
    seen = []
    model = tiny_model("llama")
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    CausalPolicy(model, shares=True).logits(batch)
    beginnings = {d.tokens[:end] for d in DOCUMENTS for end in range(1, len(d.tokens) + 1)}
    assert seen == [len(beginnings)]
    assert len(beginnings) < batch.input_ids.shape[1] / 2


@pytest.fixture
def forget_layouts():
    """Layouts are kept, and a test makes them by other constants."""
    yield
    layout.forest_layout.cache_clear()


# Pieces of a few tokens, which see those before them; of one document and head; gradients of keys
# that are added up often.
@pytest.mark.parametrize("piece", [128, 8])
@pytest.mark.parametrize("scores", [1 << 24, 1])
@pytest.mark.parametrize("waiting", [8, 1])
@pytest.mark.parametrize("kept", [512, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_of_any_size_give_the_same(
    dtype, piece, scores, waiting, kept, monkeypatch, forget_layouts
):
    batch = batch_of(*DOCUMENTS)
    model = tiny_model("llama").to(dtype)
    exact = tiny_model("llama")
    expected, expected_gradients = losses_and_gradients(exact, batch, shares=False)
    tolerance = {torch.float32: TOLERANCE, torch.bfloat16: 0.05}[dtype]
    monkeypatch.setattr(layout, "PIECE_LENGTH", piece)
    monkeypatch.setattr(layout, "SHORTEST_PIECE", piece // 2)
    monkeypatch.setattr(layout, "CACHED_SCORES", scores)
    monkeypatch.setattr(layout, "MOST_SCORES", scores)
    monkeypatch.setattr(layout, "MOST_WAITING", waiting)
    monkeypatch.setattr(layout, "LONGEST_KEPT", kept)
    layout.forest_layout.cache_clear()
    losses, gradients = losses_and_gradients(model, batch, shares=True)
    assert (losses - expected).abs().max() <= tolerance * expected.max()
    assert_close(gradients, expected_gradients, tolerance)


def test_attention_that_knows_documents_alone_gets_them_whole():
    batch = batch_of(*DOCUMENTS)
    shared, lengths = batch.shared, []
    assert shared is not None
    model = tiny_model("llama")
    query, key, value = (
        torch.randn(1, heads, len(shared.tokens), 16, requires_grad=True) for heads in (4, 2, 2)
    )

    def attend(module, q, k, v, mask, *, cu_seq_lens_q):
        lengths.append(q.shape[2])
        return segmented.segmented_attention(module, q, k, v, mask, cu_seq_lens_q=cu_seq_lens_q)

    arguments = (model.model.layers[0].self_attn, query, key, value, None)
    places = {"cu_seq_lens_q": batch.boundaries, "shared": shared}
    whole, _ = document_attention.document_attention(attend, *arguments, **places)
    once, _ = segmented.segmented_attention(*arguments, **places)
    assert lengths == [batch.input_ids.shape[1]]
    assert torch.allclose(whole, once, atol=1e-6)
    weights = torch.randn_like(whole)
    inputs = (query, key, value)
    expected = torch.autograd.grad((whole * weights).sum(), inputs)
    for one, other in zip(
        torch.autograd.grad((once * weights).sum(), inputs), expected, strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_flash_attention_gets_documents_whole(monkeypatch):
    given = {}

    def kernel(module, query, key, value, mask, **settings):
        given.update(settings, lengths=(query.shape[2], key.shape[2], value.shape[2]))
        return query.transpose(1, 2), None

    monkeypatch.setattr(flash_attention, "flash_attention_forward", kernel)
    register("flash_attention_2")
    batch = batch_of(*DOCUMENTS)
    assert batch.shared is not None
    rows = torch.randn(1, 4, len(batch.shared.tokens), 16)
    output, _ = AttentionInterface()["flash_attention_2"](
        None,
        rows,
        rows,
        rows,
        None,
        cu_seq_lens_q=batch.boundaries,
        position_ids=batch.position_ids[:, batch.shared.tokens],
        shared=batch.shared,
    )
    assert given.pop("lengths") == (batch.input_ids.shape[1],) * 3
    assert given == {"cu_seq_lens_q": batch.boundaries}
    assert torch.equal(output, rows.transpose(1, 2))
