"""A step on a flat row is the step of plain peft on each document alone, for every adapter."""

from __future__ import annotations

import pytest
import torch
from adapters_of_peft import NAMES, adapter_named, trained
from architectures import batch_of, document, tiny_model
from torch.nn import functional as F

from framework.models.collate import flat_batch
from framework.models.generating import ready_to_generate
from framework.models.policy import CausalPolicy
from framework.models.quiet import quiet

DOCUMENTS = (document(20, seed=1, num_prompt_tokens=5), document(9, seed=2), document(33, seed=3))
TOLERANCE = 1e-5


def applied(name, **settings):
    torch.manual_seed(0)
    with quiet():
        model = adapter_named(name, **settings).apply(tiny_model("llama"))
    with torch.no_grad():
        for parameter in trained(model).values():
            # Away from the start, where many gradients are zero.
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def gradients(model):
    found = {name: p.grad.clone() for name, p in trained(model).items() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("architecture", ["llama"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_plain_peft(name, architecture):
    model = applied(name)
    CausalPolicy(model).negative_log_likelihood(batch_of(*DOCUMENTS)).sum().backward()
    ours = gradients(model)
    for one in DOCUMENTS:
        tokens = torch.tensor([one.tokens])
        logits = model(input_ids=tokens).logits[0, -len(one.tokens) :]
        labels = tokens[0].clone()
        labels[~torch.tensor(one.trained)] = -100
        F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").backward()
    theirs = gradients(model)
    assert ours.keys() == theirs.keys() == trained(model).keys()
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=1e-4, atol=TOLERANCE * value.abs().max()), key


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning", "p_tuning"])
def test_answers_to_many_requests_at_once_are_those_to_each_alone(name):
    model = applied(name)
    prompts = [list(one.tokens) for one in DOCUMENTS]
    longest = max(map(len, prompts))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    rows = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
    masks = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    with ready_to_generate(model):
        together = model.generate(input_ids=rows, attention_mask=masks, **settings)[:, longest:]
    policy = CausalPolicy(model.eval())
    for prompt, answer in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            document_so_far = batch_of_open(tokens)
            with torch.no_grad():
                tokens.append(int(policy.logits(document_so_far)[-1].argmax()))
        assert tokens[len(prompt) :] == answer.tolist()


def batch_of_open(tokens):
    """One document whose next, unknown token is asked for."""
    from framework.core.batch import Encoded, each_alone

    trained_tokens = (False,) * len(tokens) + (True,)
    return flat_batch(each_alone([Encoded(tokens=(*tokens, 0), trained=trained_tokens)]), ["t:0"])


def test_without_labels_the_loss_is_zero_and_reaches_every_parameter():
    model = applied("prompt_tuning")
    loss = CausalPolicy(model).negative_log_likelihood(flat_batch([], [])).sum()
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None for p in trained(model).values())


def test_the_penalty_is_the_one_that_peft_adds_to_its_own_loss():
    adapter, model = adapter_named("adalora", orth_reg_weight=0.3), applied("adalora")
    model.peft_config["default"].orth_reg_weight = 0.3
    tokens = torch.tensor([DOCUMENTS[0].tokens])
    with_penalty = model(input_ids=tokens, labels=tokens).loss
    logits = model(input_ids=tokens).logits[0, :-1]
    penalty = adapter.penalty(model)
    assert penalty > 0
    assert torch.allclose(with_penalty - F.cross_entropy(logits, tokens[0, 1:]), penalty, atol=1e-6)
