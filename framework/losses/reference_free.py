"""Log-probabilities of pairs -> losses that need no reference.

S pairs; every tensor is float32 [S]. w is the chosen answer, l the rejected one; sigma is the
logistic function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

CERTAIN = -1e-7
"""A mean log-probability of a token above which an answer counts as certain: the odds of certainty
are infinite."""


def smoothed_sigmoid(difference: Tensor, epsilon: float) -> Tensor:
    """-(1 - e) log sigma(d) - e log sigma(-d): the loss of CPO, Xu et al. 2024 (arXiv 2401.08417),
    eq. 3, with d = beta (log p(w|x) - log p(l|x)); and of SimPO, Meng et al. 2024
    (arXiv 2405.14734), with d = beta (log p(w|x)/|w| - log p(l|x)/|l|) - gamma."""
    return -(1 - epsilon) * logsigmoid(difference) - epsilon * logsigmoid(-difference)


def hinge(difference: Tensor) -> Tensor:
    """max(0, 1 - d)"""
    return relu(1 - difference)


def squared(difference: Tensor, beta: float) -> Tensor:
    """(log p(w|x)/|w| - log p(l|x)/|l| - 1/(2 beta))^2: IPO, Azar et al. 2023 (arXiv 2310.12036),
    eq. 17, without a reference."""
    return (difference - 1 / (2 * beta)) ** 2


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log odds(w) - log odds(l), odds(y) = p(y) / (1 - p(y)): ORPO, Hong et al. 2024
    (arXiv 2403.07691), eq. 4 and 7.

    Args:
        chosen: means over tokens, log p(w|x)/|w|.
        rejected: the same of the rejected answers.
    """
    return chosen - rejected - (_log_of_rest(chosen) - _log_of_rest(rejected))


def _log_of_rest(log_probability: Tensor) -> Tensor:
    """log(1 - p), exact for small and for large p."""
    value = log_probability.clamp_max(CERTAIN)
    large = value > -math.log(2)
    # Where the other branch is taken, its own argument is harmless.
    of_large = torch.log(-torch.expm1(torch.where(large, value, CERTAIN)))
    of_small = torch.log1p(-torch.exp(torch.where(large, -1.0, value)))
    return torch.where(large, of_large, of_small)
