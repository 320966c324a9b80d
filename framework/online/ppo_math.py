"""Rewards and values of answers -> advantages and returns, and the losses of PPO.

Shapes: S answers, T tokens of all answers end to end, `owners` int64 [T] the answer of each token.
Equations: PPO is arXiv 1707.06347, GAE 1506.02438, rewards with a KL penalty 2203.02155 (section
3.5), clipped values and whitened advantages 2006.05990.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(scores: Tensor, log_ratios: Tensor, owners: Tensor, kl_coef: float) -> Tensor:
    """float32 [T]: what each token is rewarded with.

    r_t = -beta (log pi(t) - log pi_ref(t)), and at an answer's last token its score besides
    (2203.02155, the KL part of equation 2, token by token).

    Args:
        scores: [S], of whole answers.
        log_ratios: [T], log pi - log pi_ref of the tokens that were drawn.
    """
    rewards = -kl_coef * log_ratios
    last = last_tokens(owners)
    rewards[last] += scores[owners[last]]
    return rewards


def last_tokens(owners: Tensor) -> Tensor:
    """int64: the place of each answer's last token."""
    following = torch.cat([owners[1:], owners.new_full((1,), -1)])
    return (owners != following).nonzero().flatten()


def advantages(
    rewards: Tensor, values: Tensor, owners: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """float32 [T]: generalized advantage estimates (1506.02438, equations 11 to 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where after an
    answer's last token V and A are 0: the answer is over, also when it was cut.
    """
    places, mask = _grid(owners)
    zeros = rewards.new_zeros(places.shape[0])
    found = rewards.new_zeros(places.shape)
    next_value, next_advantage = zeros, zeros
    for at in range(places.shape[1] - 1, -1, -1):
        inside = mask[:, at]
        value = torch.where(inside, values[places[:, at]], zeros)
        delta = rewards[places[:, at]] + gamma * next_value - value
        advantage = torch.where(inside, delta + gamma * gae_lambda * next_advantage, zeros)
        found[:, at] = advantage
        next_value, next_advantage = value, advantage
    return found[mask]


def _grid(owners: Tensor) -> tuple[Tensor, Tensor]:
    """(place of each token of each answer, whether there is one): both [answers, longest]."""
    _, lengths = owners.unique_consecutive(return_counts=True)
    starts = lengths.cumsum(0) - lengths
    steps = torch.arange(int(lengths.max()), device=owners.device)
    mask = steps < lengths[:, None]
    return torch.where(mask, starts[:, None] + steps, starts[:, None]), mask


def policy_losses(
    log_probabilities: Tensor, old: Tensor, advantages: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(float32 [T] losses, bool [T] whether the clipped term is the loss).

    -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A), rho = pi / pi_old (1707.06347, equation 7).
    """
    ratios = (log_probabilities - old).exp()
    free = -ratios * advantages
    clipped = -ratios.clamp(1 - epsilon, 1 + epsilon) * advantages
    return torch.maximum(free, clipped), clipped > free


def value_losses(
    values: Tensor, old: Tensor, returns: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(float32 [T] losses, bool [T] whether the clipped term is the loss).

    max((V - R)^2, (V_old + clip(V - V_old, -epsilon, epsilon) - R)^2) / 2 (2006.05990, B.1).
    """
    free = (values - returns).square()
    near = old + (values - old).clamp(-epsilon, epsilon)
    clipped = (near - returns).square()
    return torch.maximum(free, clipped) / 2, clipped > free


def log_probabilities_and_entropies(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 [T] log p(label), float32 [T] -sum_v p_v log p_v) of logits [T, V]."""
    every = logits.float().log_softmax(-1)
    entropies = -(every.exp() * every).sum(-1)
    return every.gather(-1, labels[:, None]).squeeze(-1), entropies
