"""The parts of PPO against the papers' equations, evaluated by hand."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from preference_pairs import tokenizer_of

from framework.core.rollouts import Prompt
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.online.bench import Workbench
from framework.online.ppo_math import (
    advantages,
    last_tokens,
    log_probabilities_and_entropies,
    policy_losses,
    token_rewards,
    value_losses,
)
from framework.online.scoring import Scoring
from framework.rewards.length import Length
from framework.trainers.ppo import PPO

OWNERS = torch.tensor([0, 0, 0, 1, 2, 2])


def recursion(rewards, values, gamma, lam):
    """GAE of one answer, token by token from its end (1506.02438, equation 16)."""
    found, following = [], 0.0
    for at in reversed(range(len(rewards))):
        after = values[at + 1] if at + 1 < len(values) else 0.0
        following = rewards[at] + gamma * after - values[at] + gamma * lam * following
        found.insert(0, following)
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.97, 1.0)])
def test_advantages_are_the_papers_recursion_within_each_answer(gamma, lam):
    torch.manual_seed(0)
    rewards, values = torch.randn(6), torch.randn(6)
    wanted = []
    for answer in range(3):
        own = answer == OWNERS
        wanted += recursion(rewards[own].tolist(), values[own].tolist(), gamma, lam)
    found = advantages(rewards, values, OWNERS, gamma, lam)
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-6, rtol=1e-6)


def test_advantages_have_the_values_worked_out_on_paper():
    # gamma 0.5, lambda 0.5: deltas 1 + 0.5*2 - 1 = 1, 0 + 0.5*4 - 2 = 0, 8 - 4 = 4.
    found = advantages(
        torch.tensor([1.0, 0.0, 8.0]),
        torch.tensor([1.0, 2.0, 4.0]),
        torch.zeros(3, dtype=torch.long),
        0.5,
        0.5,
    )
    assert found.tolist() == [1.25, 1.0, 4.0]


def test_the_score_comes_with_the_last_token_and_the_penalty_with_every_token():
    log_ratios = torch.tensor([1.0, -1.0, 0.0, 2.0, 0.5, 0.0])
    found = token_rewards(torch.tensor([10.0, 20.0, 30.0]), log_ratios, OWNERS, 0.1)
    torch.testing.assert_close(found, torch.tensor([-0.1, 0.1, 10.0, 19.8, -0.05, 30.0]))
    assert last_tokens(OWNERS).tolist() == [2, 3, 5]


def test_the_policy_loss_is_clipped_only_where_that_makes_it_worse():
    old = torch.zeros(4)
    now = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    gains = torch.tensor([1.0, -1.0, -1.0, 1.0])
    losses, clipped = policy_losses(now, old, gains, 0.2)
    torch.testing.assert_close(losses, torch.tensor([-1.2, 0.8, 1.5, -0.5]))
    assert clipped.tolist() == [True, True, False, False]
    losses.sum().backward()
    # d(-rho A)/d log pi = -rho A where nothing is clipped, else 0.
    torch.testing.assert_close(now.grad, torch.tensor([0.0, 0.0, 1.5, -0.5]))


def test_the_value_loss_takes_the_worse_of_the_free_and_the_held_value():
    old, returns = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, -1.0, 0.1])
    now = torch.tensor([0.5, 0.5, 0.1], requires_grad=True)
    losses, clipped = value_losses(now, old, returns, 0.2)
    # Held: (0.2 - 1)^2 / 2 is worse than (0.5 - 1)^2 / 2; free: (0.5 + 1)^2 / 2 is worse.
    torch.testing.assert_close(losses, torch.tensor([0.32, 1.125, 0.0]))
    assert clipped.tolist() == [True, False, False]
    losses.sum().backward()
    torch.testing.assert_close(now.grad, torch.tensor([0.0, 1.5, 0.0]))


def test_log_probabilities_and_entropies_are_those_of_the_softmax():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    found, entropies = log_probabilities_and_entropies(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(found.exp(), torch.tensor([0.75, 0.5]))
    first = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropies, torch.tensor([first, math.log(2.0)]))


def test_what_answers_were_given_with_is_known_without_dropout(tiny_model_dir, tmp_path):
    """As the first update finds it too, once dropout is off: nothing has moved, nothing clips."""
    model = load_weights(tiny_model_dir, dtype="float32", attention="segmented_sdpa")
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(
        lambda _, __, seen: torch.nn.functional.dropout(seen, 0.5, training=model.training)
    )
    method = PPO(rewards=(Length(at_least=4),), max_new_tokens=6)
    method.equip(model)
    bench = Workbench(
        accelerator=Accelerator(cpu=True),
        model=model,
        policy=CausalPolicy(model),
        reference=None,
        reference_model=None,
        tokenizer=tokenizer_of(tiny_model_dir),
        end_token_ids=frozenset({2}),
        scoring=Scoring.start(method.rewards, "cpu"),
        autocast_dtype=None,
        global_batch_size=4,
        micro_batch_size=4,
        folder=tmp_path,
        seed=0,
    )
    learner = method.learner(bench)
    prompt = Prompt(identifier="p", tokens=(5, 9, 30), messages=(), columns={})
    learner.roll_out([prompt] * 4)
    assert model.training
    learner.loss(0)
    assert learner.metrics()["update_kl"] > 1e-4
    model.eval()
    learner.loss(0)
    found = learner.metrics()
    assert found["update_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["clip_ratio"] == found["value_clip_ratio"] == 0
