"""Log-probabilities of pairs -> their losses, one function for each that DPO has.

S pairs; every tensor is float32 [S]. r(y) = log p(y|x) - log p_ref(y|x), of the chosen answer r(w)
and of the rejected one r(l); d = beta (r(w) - r(l)); sigma is the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """What the losses of a batch of pairs are made of."""

    chosen: Tensor
    """log p(w|x)"""
    rejected: Tensor
    """log p(l|x)"""
    reference_chosen: Tensor
    reference_rejected: Tensor
    num_chosen_tokens: Tensor
    num_rejected_tokens: Tensor
    offset: Tensor
    """What d has to exceed."""

    @property
    def chosen_ratio(self) -> Tensor:
        """r(w)"""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """r(l)"""
        return self.rejected - self.reference_rejected


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Settings of the losses."""

    beta: float
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05


def _difference(pairs: PairScores, shape: Shape) -> Tensor:
    """d, above the offset."""
    return shape.beta * (pairs.chosen_ratio - pairs.rejected_ratio) - pairs.offset


def _smoothed(difference: Tensor, epsilon: float) -> Tensor:
    """-(1 - epsilon) log sigma(d) - epsilon log sigma(-d)"""
    if not epsilon:
        return -logsigmoid(difference)
    return -(1 - epsilon) * logsigmoid(difference) - epsilon * logsigmoid(-difference)


def sigmoid(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(d): DPO, Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; with smoothing, cDPO,
    Mitchell 2023; with an offset, ODPO, Amini et al. 2024 (arXiv 2402.10571)."""
    return _smoothed(_difference(pairs, shape), shape.label_smoothing)


def hinge(pairs: PairScores, shape: Shape) -> Tensor:
    """max(0, 1 - d): SLiC-HF, Zhao et al. 2023 (arXiv 2305.10425), on DPO's reward as in
    RSO, Liu et al. 2023 (arXiv 2309.06657)."""
    return relu(1 - _difference(pairs, shape))


def ipo(pairs: PairScores, shape: Shape) -> Tensor:
    """(r(w)/|w| - r(l)/|l| - 1/(2 beta))^2: IPO, Azar et al. 2023 (arXiv 2310.12036), eq. 17, whose
    authors measured it with means over tokens."""
    chosen = pairs.chosen_ratio / pairs.num_chosen_tokens
    rejected = pairs.rejected_ratio / pairs.num_rejected_tokens
    return (chosen - rejected - 1 / (2 * shape.beta)) ** 2


def sigmoid_norm(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(beta (r(w)/|w| - r(l)/|l|)): length-normalised DPO, Lambert et al. 2024 (Tulu 3,
    arXiv 2411.15124)."""
    chosen = pairs.chosen_ratio / pairs.num_chosen_tokens
    rejected = pairs.rejected_ratio / pairs.num_rejected_tokens
    return -logsigmoid(shape.beta * (chosen - rejected) - pairs.offset)


def robust(pairs: PairScores, shape: Shape) -> Tensor:
    """(-(1 - e) log sigma(d) + e log sigma(-d)) / (1 - 2 e): robust DPO, Chowdhury et al. 2024
    (arXiv 2403.00409); e is the share of pairs that are the wrong way round."""
    difference, epsilon = _difference(pairs, shape), shape.label_smoothing
    kept = (1 - epsilon) * logsigmoid(difference) - epsilon * logsigmoid(-difference)
    return -kept / (1 - 2 * epsilon)


def exo(pairs: PairScores, shape: Shape) -> Tensor:
    """KL((sigma(d), sigma(-d)) || (1 - e, e)): EXO, Ji et al. 2024 (arXiv 2402.00856), eq. 16 with
    two answers."""
    difference = _difference(pairs, shape)
    epsilon = torch.tensor(shape.label_smoothing, device=difference.device)
    log_chosen, log_rejected = logsigmoid(difference), logsigmoid(-difference)
    chosen = log_chosen.exp() * (log_chosen - torch.log1p(-epsilon))
    return chosen + log_rejected.exp() * (log_rejected - epsilon.log())


def nca(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(beta r(w)) - 1/2 (log sigma(-beta r(w)) + log sigma(-beta r(l))): NCA, Chen et al.
    2024 (arXiv 2402.05369), with two answers."""
    chosen, rejected = shape.beta * pairs.chosen_ratio, shape.beta * pairs.rejected_ratio
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def bco(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(beta r(w)) - log sigma(-beta r(l)): BCO, Jung et al. 2024 (arXiv 2404.04656),
    without the shift of the reward."""
    chosen, rejected = shape.beta * pairs.chosen_ratio, shape.beta * pairs.rejected_ratio
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo(pairs: PairScores, shape: Shape) -> Tensor:
    """(r(w) - 1/(2 beta))^2 + (r(l) + 1/(2 beta))^2: SPPO, Wu et al. 2024 (arXiv 2405.00675),
    eq. 4.7, with probabilities of 1 and 0."""
    target = 0.5 / shape.beta
    return (pairs.chosen_ratio - target) ** 2 + (pairs.rejected_ratio + target) ** 2


def aot(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(beta (sorted(log p(w) - log p(l)) - sorted(the same of the reference))): AOT,
    Melnyk et al. 2024 (arXiv 2406.05882); sorted over the pairs of the micro-batch."""
    policy = (pairs.chosen - pairs.rejected).sort().values
    reference = (pairs.reference_chosen - pairs.reference_rejected).sort().values
    return _smoothed(shape.beta * (policy - reference), shape.label_smoothing)


def aot_unpaired(pairs: PairScores, shape: Shape) -> Tensor:
    """-log sigma(beta (sorted(r(w)) - sorted(r(l)))): AOT of unpaired answers, Melnyk et al. 2024
    (arXiv 2406.05882); sorted over the pairs of the micro-batch."""
    chosen, rejected = pairs.chosen_ratio.sort().values, pairs.rejected_ratio.sort().values
    return _smoothed(shape.beta * (chosen - rejected), shape.label_smoothing)


def apo_zero(pairs: PairScores, shape: Shape) -> Tensor:
    """1 - sigma(beta r(w)) + sigma(beta r(l)): APO-zero, D'Oosterlinck et al. 2024
    (arXiv 2408.06266), eq. 7."""
    chosen, rejected = shape.beta * pairs.chosen_ratio, shape.beta * pairs.rejected_ratio
    return 1 - chosen.sigmoid() + rejected.sigmoid()


def apo_down(pairs: PairScores, shape: Shape) -> Tensor:
    """sigma(beta r(w)) + 1 - sigma(beta (r(w) - r(l))): APO-down, D'Oosterlinck et al. 2024
    (arXiv 2408.06266), eq. 8."""
    chosen = shape.beta * pairs.chosen_ratio
    return chosen.sigmoid() + 1 - (chosen - shape.beta * pairs.rejected_ratio).sigmoid()


def discopop(pairs: PairScores, shape: Shape) -> Tensor:
    """-(1 - s) log sigma(d) + s exp(-d), s = sigma(d / tau): DiscoPOP, Lu et al. 2024
    (arXiv 2406.08414), eq. 5."""
    difference = _difference(pairs, shape)
    modulation = (difference / shape.discopop_tau).sigmoid()
    return -(1 - modulation) * logsigmoid(difference) + modulation * (-difference).exp()


PreferenceLoss = Callable[[PairScores, Shape], Tensor]

PREFERENCE_LOSSES: Mapping[str, PreferenceLoss] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "sigmoid_norm": sigmoid_norm,
    "robust": robust,
    "exo": exo,
    "nca": nca,
    "bco": bco,
    "sppo": sppo,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
}
"""Name in recipes -> loss."""
