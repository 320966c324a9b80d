"""Constants of attention: whoever needs them first, whoever comes later can train with them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from framework.attention.flat_attention import flat_attention
from framework.attention.segmented import segmented_attention
from framework.attention.shifted import shifted_attention
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import Traces
from framework.train import run

NUM_TOKENS = 37
LAYER = torch.nn.Identity()
ATTENTIONS = {
    "of short documents": lambda query, key, value: flat_attention(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        lengths=(NUM_TOKENS - 17, 17),
        scale=0.3,
    ),
    "in a window": partial(segmented_attention, LAYER, attention_mask=None, sliding_window=5),
    "in shifted groups": partial(shifted_attention, LAYER, attention_mask=None, group_size=12),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_what_a_pass_without_content_needed_first_serves_training(name):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        ATTENTIONS[name](*(torch.randn(1, 4, NUM_TOKENS, 8) for _ in range(3)))
    inputs = [torch.randn(1, 4, NUM_TOKENS, 8, requires_grad=True) for _ in range(3)]
    found = ATTENTIONS[name](*inputs)
    output = found if isinstance(found, torch.Tensor) else found[0]
    output.square().sum().backward()
    assert type(output) is torch.Tensor
    for one in inputs:
        assert one.grad is not None and one.grad.abs().sum() > 0


@pytest.mark.parametrize("model", [{}, {"shifted_attention": {"group_size": 16}}])
def test_a_model_that_was_traced_trains_in_the_same_process(model, write_recipe, tiny_model_dir):
    """As `strategy: auto` does it; short documents in 16 bits have an attention of their own."""
    recipe = write_recipe(model={"dtype": "bfloat16", **model}, adapter="lora")
    plan = make_plan(resolve_with_origins(recipe, ()), World())
    lengths = lengths_of(plan, tiny_model_dir)
    assert Traces(tiny_model_dir).heaviest(plan, lengths).memory.num_trained > 0
    assert run(recipe).num_steps == 3
