"""Proximal policy optimization at work: answers, advantages, and clipped losses in flat batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.core.batch import Batch, Encoded, Features, Loss
from framework.core.rollouts import Answer, Prompt
from framework.distributed.collectives import sum_over_processes
from framework.distributed.totals import Totals
from framework.models.collate import flat_batch, on_device
from framework.online.bench import Workbench
from framework.online.ppo_math import (
    advantages,
    log_probabilities_and_entropies,
    policy_losses,
    token_rewards,
    value_losses,
)
from framework.online.sampling import Sampler
from framework.online.value_head import Values, remove_value_head

if TYPE_CHECKING:
    from framework.trainers.ppo import PPO


@dataclass(kw_only=True)
class HeldBatch:
    """Answers of one forward pass, and what is learned of them; [T] over their tokens."""

    batch: Batch
    log_probabilities: Tensor
    log_ratios: Tensor
    """To the reference, before the first update."""
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PPOLearner:
    """Implements `rollouts.Learner`."""

    def __init__(self, method: PPO, bench: Workbench) -> None:
        self.method, self.bench = method, bench
        self.model: Any = bench.accelerator.unwrap_model(bench.model)
        self.answers: Sequence[Answer] = ()
        self._values = Values(self.model)
        self._sampler = Sampler(
            bench=bench, sampling=method.sampling, max_new_tokens=method.max_new_tokens
        )
        self._held: Sequence[HeldBatch] = ()
        self._num_tokens = 1.0
        """Of all answers that are held, over all processes."""
        self._totals = Totals()

    @property
    def num_passes(self) -> int:
        """See `Learner`."""
        return len(self._held)

    def roll_out(self, prompts: Sequence[Prompt]) -> Mapping[str, float]:
        """See `Learner`."""
        bench, method = self.bench, self.method
        self.answers = self._sampler(prompts)
        totals = bench.scoring.total(self.answers)
        means = bench.scoring.means(bench.accelerator, self.answers)
        scores = [
            total - method.truncation_penalty * answer.truncated
            for total, answer in zip(totals, self.answers, strict=True)
        ]
        size = bench.micro_batch_size
        self.model.eval()
        with torch.no_grad():
            self._held = [
                self._looked_at(self.answers[at : at + size], scores[at : at + size])
                for at in range(0, len(self.answers), size)
            ]
        self.model.train()
        log_ratios = torch.cat([one.log_ratios for one in self._held])
        returns = torch.cat([one.returns for one in self._held])
        self._num_tokens, kl, returned = sum_over_processes(
            bench.accelerator, [len(returns), log_ratios.sum(), returns.sum()]
        )
        if method.whiten_advantages:
            self._whiten()
        return {**means, "kl": kl / self._num_tokens, "return": returned / self._num_tokens}

    def loss(self, index: int) -> Tensor:
        """See `Learner`. The mean over the tokens of all answers of all processes of policy loss +
        value_coef * value loss - entropy_coef * entropy (1707.06347, equation 9)."""
        held, method = self._held[index], self.method
        log_probabilities, entropies, values = self._now(held.batch)
        policy, policy_clipped = policy_losses(
            log_probabilities, held.log_probabilities, held.advantages, method.epsilon
        )
        value, value_clipped = value_losses(values, held.values, held.returns, method.value_epsilon)
        log_ratios = log_probabilities.detach() - held.log_probabilities
        losses = policy + method.value_coef * value - method.entropy_coef * entropies
        parts = {
            "policy_loss": policy,
            "value_loss": value,
            "entropy": entropies,
            "clip_ratio": policy_clipped,
            "value_clip_ratio": value_clipped,
            # How far the updates have come: the estimator (rho - 1) - log rho.
            "update_kl": log_ratios.exp() - 1 - log_ratios,
        }
        sums = {name: part.float().sum() for name, part in parts.items()}
        self._totals.add(Loss(sum=losses.sum(), metrics=sums))
        return losses.sum() * (self.bench.accelerator.num_processes / self._num_tokens)

    def metrics(self) -> Mapping[str, float]:
        """See `Learner`."""
        means = self._totals.means(self.bench.accelerator, self._num_tokens)
        self._totals = Totals()
        return {name: mean for name, mean in means.items() if name != "loss"}

    def close(self) -> None:
        """See `Learner`."""
        self._values.close()
        remove_value_head(self.model)

    # ---- parts of a batch

    def _looked_at(self, answers: Sequence[Answer], scores: Sequence[float]) -> HeldBatch:
        """The answers as a flat batch, with everything that stays the same while it is learned."""
        batch = on_device(_answer_batch(answers), self.bench.accelerator.device)
        log_probabilities, _, values = self._now(batch)
        log_ratios = log_probabilities - self._reference(batch, log_probabilities)
        rewards = token_rewards(
            log_ratios.new_tensor(scores), log_ratios, batch.label_documents, self.method.kl_coef
        )
        found = advantages(
            rewards, values, batch.label_documents, self.method.gamma, self.method.gae_lambda
        )
        return HeldBatch(
            batch=batch,
            log_probabilities=log_probabilities,
            log_ratios=log_ratios,
            values=values,
            advantages=found,
            returns=found + values,
        )

    def _now(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(log pi, entropy, value) [T] of the policy as it is."""
        self._values.forget()
        logits = self.bench.policy.logits(batch)
        values = self._values.of(batch)
        return (*self._distribution(logits, batch), values)

    def _reference(self, batch: Batch, own: Tensor) -> Tensor:
        """log pi_ref [T]; the policy's own where nothing holds it."""
        reference = self.bench.reference
        if reference is None:
            return own
        return self._distribution(reference.logits(batch), batch)[0]

    def _distribution(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        # At the temperature at which the answers were drawn.
        scaled = logits.float() / self.method.sampling.temperature
        return log_probabilities_and_entropies(scaled, batch.labels)

    def _whiten(self) -> None:
        """Advantages of all answers of all processes: mean 0, standard deviation 1."""
        every = torch.cat([one.advantages for one in self._held])
        total, squares = sum_over_processes(
            self.bench.accelerator, [every.sum(), every.square().sum()]
        )
        mean = total / self._num_tokens
        deviation = max(squares / self._num_tokens - mean * mean, 0.0) ** 0.5
        for one in self._held:
            one.advantages = (one.advantages - mean) / (deviation + 1e-8)


def _answer_batch(answers: Sequence[Answer]) -> Batch:
    """Prompts and answers end to end; the answers' tokens are the labels."""
    samples = [
        Features(
            documents=(
                Encoded(
                    tokens=(*one.prompt.tokens, *one.tokens),
                    trained=(*(False,) * len(one.prompt.tokens), *(True,) * len(one.tokens)),
                ),
            )
        )
        for one in answers
    ]
    return flat_batch(samples, [one.prompt.identifier for one in answers])
