"""Log-probabilities of rated answers -> their losses.

S answers; every tensor is float32 [S]. r(y) = log p(y|x) - log p_ref(y|x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def kto(ratios: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """1 - sigma(beta (r(y) - z)) for a desirable y, 1 - sigma(beta (z - r(y))) for others: KTO,
    Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7, over the weights.

    Args:
        desirable: bool [S].
        baseline: float32 [], z: how far the policy is from the reference on answers to other
            prompts.
    """
    difference = beta * (ratios - baseline)
    return 1 - torch.where(desirable, difference, -difference).sigmoid()


def apo_zero_unpaired(ratios: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """1 - sigma(beta r(y)) for a desirable y, sigma(beta r(y)) for others: APO-zero, D'Oosterlinck
    et al. 2024 (arXiv 2408.06266), eq. 7, on answers without a pair."""
    rewards = beta * ratios
    return 1 - torch.where(desirable, rewards, -rewards).sigmoid()


RatedLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]

RATED_LOSSES: Mapping[str, RatedLoss] = {"kto": kto, "apo_zero_unpaired": apo_zero_unpaired}
"""Name in recipes -> loss."""
