"""The policy: losses at label positions, connected to every parameter."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of, build, document, tiny_model

from framework.core.batch import Encoded
from framework.models import policy as policy_module
from framework.models.policy import CausalPolicy


def test_a_batch_without_labels_gives_a_zero_loss_connected_to_every_parameter():
    model = tiny_model("llama")
    silent = Encoded(tokens=(5, 6, 7), trained=(False, False, False))
    losses = CausalPolicy(model).negative_log_likelihood(batch_of(silent))
    assert losses.shape == (0,)
    losses.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_the_head_runs_at_label_positions_only():
    model = tiny_model("llama")
    rows = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    batch = batch_of(document(30, seed=1, num_prompt_tokens=26))
    CausalPolicy(model).negative_log_likelihood(batch)
    assert rows == [4]


def test_a_model_without_logits_to_keep_gives_the_same_losses():
    class WholeHead(type(tiny_model("llama"))):
        def forward(self, input_ids, position_ids, attention_mask, use_cache, **boundaries):
            return super().forward(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                use_cache=use_cache,
                **boundaries,
            )

    model = tiny_model("llama").eval()
    batch = batch_of(document(20, seed=1), document(9, seed=2))
    expected = CausalPolicy(model).negative_log_likelihood(batch)
    model.__class__ = WholeHead
    found = CausalPolicy(model).negative_log_likelihood(batch)
    assert torch.allclose(found, expected, atol=1e-5)


def test_autocast_computes_in_16_bit_and_keeps_the_logits_so():
    model = tiny_model("llama")
    batch = batch_of(document(20, seed=1))
    assert CausalPolicy(model, autocast_dtype="bfloat16").logits(batch).dtype == torch.bfloat16
    assert CausalPolicy(model).logits(batch).dtype == torch.float32


def test_final_softcapping_of_the_head_is_kept():
    settings = {"head_dim": 16, "final_logit_softcapping": 0.5}
    model = build("Gemma3TextConfig", settings)
    logits = CausalPolicy(model).logits(batch_of(document(20, seed=1)))
    assert logits.abs().max() <= 0.5


@pytest.mark.parametrize("wrapper", ["plain", "peft"])
def test_wrapped_models_are_looked_through(wrapper):
    from framework.adapters.lora import LoRA

    model = tiny_model("llama")
    wrapped = LoRA().apply(model) if wrapper == "peft" else model
    assert policy_module.plain_model(wrapped) is model
