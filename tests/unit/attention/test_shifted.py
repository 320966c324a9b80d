"""Shifted sparse attention: groups within documents while training, full attention after."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, build, document

from framework.attention.attention import choose_attention, register
from framework.attention.flat_attention import flat_attention
from framework.attention.shifted import shifted_attention
from framework.models.policy import CausalPolicy

TOLERANCE = 1e-5  # float32 sums in another order


def visible(lengths, group_size, num_heads):
    """Bool [H, T, T] by the definition: same document, same group, not later."""
    mask = torch.zeros(num_heads, sum(lengths), sum(lengths), dtype=torch.bool)
    for head in range(num_heads):
        shift = 0 if head < num_heads // 2 else group_size // 2
        start = 0
        for length in lengths:
            for i in range(length):
                for j in range(i + 1):
                    if (i - shift) // group_size == (j - shift) // group_size:
                        mask[head, start + i, start + j] = True
            start += length
    return mask


def dense(query, key, value, mask):
    repeats = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(repeats, 1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("lengths", [(37,), (8, 21, 1, 5)])
def test_it_is_attention_with_the_mask_of_the_definition(key_heads, lengths):
    module = torch.nn.Linear(1, 1)
    generator = torch.Generator().manual_seed(1)
    ours = [
        torch.randn(1, n, sum(lengths), 8, generator=generator, requires_grad=True)
        for n in (6, key_heads, key_heads)
    ]
    theirs = [one.detach().clone().requires_grad_() for one in ours]
    weights = torch.randn(1, sum(lengths), 6, 8, generator=generator)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int() if len(lengths) > 1 else None
    found, _ = shifted_attention(module, *ours, None, group_size=8, cu_seq_lens_q=boundaries)
    expected = dense(*theirs, visible(lengths, 8, 6))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(found, expected, atol=TOLERANCE)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=TOLERANCE)


def test_evaluation_has_full_attention_and_training_has_not():
    name = choose_attention("auto", "cpu", "float32", group_size=8).name
    register(name)
    shifted = build("LlamaConfig", {}, attention=name)
    plain = build("LlamaConfig", {})
    batch = batch_of(document(40, seed=1), document(5, seed=2))
    with torch.no_grad():
        assert torch.equal(
            CausalPolicy(shifted.eval()).logits(batch), CausalPolicy(plain.eval()).logits(batch)
        )
        trained = CausalPolicy(shifted.train()).logits(batch)
        full = CausalPolicy(plain.train()).logits(batch)
    # Within the first half group all heads see the same as without groups; the short document too.
    assert torch.allclose(trained[:3], full[:3], atol=1e-4)
    assert not torch.allclose(trained[20:38], full[20:38], atol=1e-2)
    long = CausalPolicy(shifted).logits(batch_of(document(40, seed=1)))
    assert torch.allclose(trained[:39], long, atol=1e-4), "a document sees its neighbour"


def test_no_token_sees_one_that_follows_it():
    name = choose_attention("auto", "cpu", "float32", group_size=8).name
    register(name)
    model = build("LlamaConfig", {}, attention=name).train()
    embedded = model.get_input_embeddings()(torch.tensor([document(40, seed=1).tokens]))
    embedded = embedded.detach().requires_grad_()
    model(inputs_embeds=embedded, use_cache=False).logits[0, 10].sum().backward()
    reached = embedded.grad[0].abs().sum(-1) > 0
    assert reached[:11].any()
    assert not reached[11:].any()


def test_16_bit_rows_of_short_groups_take_the_short_path():
    module = torch.nn.Linear(1, 1)
    q, k, v = (torch.randn(1, n, 20, 8).bfloat16() for n in (4, 2, 2))
    found, _ = shifted_attention(module, q, k, v, None, group_size=8)
    flat = [one[0, : one.shape[1] // 2].transpose(0, 1) for one in (q, k, v)]
    first_half = flat_attention(*flat, (8, 8, 4), 8**-0.5)
    assert torch.equal(found[0, :, :2], first_half)
