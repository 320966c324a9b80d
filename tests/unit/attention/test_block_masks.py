"""Flex attention sees what the documents are, as far as a CPU computes it: its forward pass.

Its kernel's backward pass needs a GPU. Which rows see which, ours, is the same in both.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from architectures import PACKABLE, batch_of, document, tiny_model

from framework.attention.attention import SEGMENTED_FLEX, choose_attention, register
from framework.attention.block_masks import block_mask
from framework.core.batch import Encoded
from framework.models.policy import CausalPolicy

CPU = torch.device("cpu")
BEGINNING, MIDDLE = document(24, seed=1).tokens, document(150, seed=2).tokens


def continued(*parts: tuple[int, ...], answer: int, seed: int) -> Encoded:
    tokens = sum(parts, ()) + document(answer, seed=seed).tokens
    return Encoded(tokens=tokens, trained=(False, *(True,) * (len(tokens) - 1)))


# More than a block of 128 rows; two answers after one middle, another after its beginning.
DOCUMENTS = [
    continued(BEGINNING, MIDDLE, answer=9, seed=3),
    document(23, seed=4),
    continued(BEGINNING, answer=30, seed=5),
    continued(BEGINNING, MIDDLE, answer=1, seed=6),
]


def within_documents(batch, window):
    """Bool [U, U]: which rows stand in a document together, the second before the first."""
    rows = batch.shared.rows
    seen = torch.zeros(len(batch.shared.tokens), len(batch.shared.tokens), dtype=torch.bool)
    bounds = batch.boundaries.tolist()
    for start, stop in pairwise(bounds):
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        own = rows[start:stop]
        seen[own[:, None], own] |= (distance >= 0) & (distance < window)
    return seen


@pytest.mark.parametrize("window", [0, 40])
def test_rows_see_their_own_documents_before_them(window):
    batch = batch_of(*DOCUMENTS)
    assert batch.shared is not None
    mask = block_mask(batch.shared.segments, window, CPU)
    rows = torch.arange(len(batch.shared.tokens))
    found = mask.mask_mod(torch.tensor(0), torch.tensor(0), rows[:, None], rows)
    assert torch.equal(found, within_documents(batch, window or 10**6))
    # Blocks that are left out are those in which nobody sees anybody.
    blocks = torch.zeros(mask.to_dense().shape[-2:])
    for row, column in found.nonzero().tolist():
        blocks[row // 128, column // 128] = 1
    assert torch.equal(mask.to_dense()[0, 0].float(), blocks)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("architecture", PACKABLE)
def test_a_model_computes_what_it_computes_with_sdpa(architecture, shares):
    batch = batch_of(*DOCUMENTS)
    model = tiny_model(architecture).eval()
    register(SEGMENTED_FLEX)
    # Compiled, the kernel takes a minute on a CPU.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = CausalPolicy(model, shares=False).logits(batch)
        model.set_attn_implementation(SEGMENTED_FLEX)
        found = CausalPolicy(model, shares=shares).logits(batch)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_generation_is_that_of_sdpa():
    prompt = torch.tensor([document(12, seed=7).tokens])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    model = tiny_model("llama").eval()
    expected = model.generate(prompt, **settings)
    register(SEGMENTED_FLEX)
    model.set_attn_implementation(SEGMENTED_FLEX)
    assert model.generate(prompt, **settings).tolist() == expected.tolist()


def test_the_recipes_name_chooses_it_on_a_gpu():
    assert choose_attention("flex_attention", "cuda:0", "bfloat16").name == SEGMENTED_FLEX
